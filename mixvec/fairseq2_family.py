"""mixvec's models in fairseq2: the families ``mixvec`` (encoders) and ``mixvec_asr`` (recognisers with CTC).

fairseq2 finds ``register`` by the entry point ``fairseq2.extension``. A model folder is loaded by its card::

    fairseq2.models.load_model(card_of("runs/asr"))

or by name, once ``python -m mixvec.fairseq2_family NAME MODEL`` has printed its card into ~/.config/fairseq2/assets.

Symbols: B batch, S samples, T frames, U tokens of a text, V vocabulary size.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch.nn.functional as F
from fairseq2.assets import AssetCard
from fairseq2.composition import register_model_family
from fairseq2.models.asr import AsrModel
from fairseq2.nn import BatchLayout
from fairseq2.runtime.dependency import DependencyContainer
from torch import Tensor

from .build import build_encoder
from .errors import run_cli
from .hub import encoder_config_of, format_2, read_config
from .locate import resolve
from .model.config import SIZES, EncoderConfig
from .model.ctc import CtcRecognizer
from .model.protocol import Encoder

ENCODER_FAMILY, ASR_FAMILY = "mixvec", "mixvec_asr"


@dataclass
class MixvecConfig:
    """An encoder: ``encoder`` as in config.json; what it leaves out has the value of `base`."""

    encoder: dict[str, object] = field(default_factory=dict)


@dataclass
class MixvecAsrConfig(MixvecConfig):
    """A recogniser: ``head`` as in config.json, and the tokens in the order of their numbers."""

    head: dict[str, object] = field(default_factory=dict)
    vocabulary: list[str] = field(default_factory=lambda: ["[PAD]", "|"])


class MixvecAsrModel(CtcRecognizer, AsrModel):
    """A recogniser with the signature that fairseq2's trainers and evaluators call; tensors are named as in mixvec."""

    def forward(  # type: ignore[override]
        self, seqs: Tensor, seqs_layout: BatchLayout, targets: Tensor | None = None,
        targets_layout: BatchLayout | None = None, *, return_logits: bool = False,
    ) -> Tensor | tuple[Tensor, BatchLayout] | tuple[Tensor, Tensor, BatchLayout]:  # fmt: skip
        """Waveforms (B, S), not normalised, to log-probabilities (B, T, V) and their layout; with ``targets`` (B, U) to
        the summed CTC loss.

        Raises:
            ValueError: the batch is packed, not padded.
        """
        if seqs_layout.packed:
            raise ValueError("mixvec_asr takes padded batches, not packed ones")
        encoded = self.encoder(seqs, seqs_layout.seq_lens_pt, every_layer=self.every_layer)
        log_probs, frames = self.head(encoded), encoded.lengths.clamp(min=1)
        layout = BatchLayout(tuple(log_probs.shape[:2]), frames.tolist(), device=seqs.device)
        if targets is None or targets_layout is None:
            return log_probs, layout
        loss = F.ctc_loss(
            log_probs.transpose(0, 1), targets, frames, targets_layout.seq_lens_pt, reduction="sum", zero_infinity=True
        )
        return (loss, log_probs, layout) if return_logits else loss


def register(container: DependencyContainer) -> None:
    """Make both families known to fairseq2, with an architecture for each size."""
    register_model_family(
        container, ENCODER_FAMILY, Encoder, MixvecConfig, factory=_new_encoder, state_dict_converter=_encoder_tensors
    )
    register_model_family(
        container, ASR_FAMILY, MixvecAsrModel, MixvecAsrConfig, factory=_new_recogniser,
        state_dict_converter=_asr_tensors,
    )  # fmt: skip
    for size, config in SIZES.items():
        if config.kind == "mixvec":
            container.register_instance(MixvecConfig, MixvecConfig(_plain(config)), key=size)
            container.register_instance(MixvecAsrConfig, MixvecAsrConfig(_plain(config)), key=size)


def card_of(name_or_path: str | Path, name: str = "mixvec_model") -> AssetCard:
    """fairseq2's card of a hub folder, run directory or hub repository: a recogniser's, or that of a model's encoder.

    Raises:
        UserError: there is no such model.
    """
    return AssetCard(name, _metadata(resolve(name_or_path).resolve()))


def _metadata(folder: Path) -> dict[str, object]:
    config = read_config(folder)
    asr = config["architecture"] == CtcRecognizer.__name__
    built = {"encoder": config["encoder"]}
    if asr:
        tokens = json.loads((folder / "vocab.json").read_text("utf-8"))
        built |= {"head": config["head"], "vocabulary": sorted(tokens, key=tokens.__getitem__)}
    return {
        "model_family": ASR_FAMILY if asr else ENCODER_FAMILY,
        "checkpoint": f"file://{folder}/model.safetensors",  # not quoted, as fairseq2 reads it
        "model_config": built,
    }


def _plain(config: EncoderConfig) -> dict[str, object]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(config).items()}


def _new_encoder(config: MixvecConfig) -> Encoder:
    return build_encoder(encoder_config_of({"encoder": config.encoder}, Path("model_config")))


def _new_recogniser(config: MixvecAsrConfig) -> MixvecAsrModel:
    return MixvecAsrModel(_new_encoder(config), config.vocabulary, **cast(dict[str, Any], config.head))


def _encoder_tensors(state_dict: dict[str, object], config: MixvecConfig) -> dict[str, object]:
    """An encoder's tensors, also out of a model with a head."""
    inner = {name.removeprefix("encoder."): t for name, t in state_dict.items() if name.startswith("encoder.")}
    return inner or state_dict


def _asr_tensors(state_dict: dict[str, object], config: MixvecAsrConfig) -> dict[str, object]:
    return format_2(state_dict)


def _main() -> None:
    if len(sys.argv) != 3:
        sys.exit("usage: python -m mixvec.fairseq2_family NAME MODEL > ~/.config/fairseq2/assets/NAME.yaml")
    metadata = _metadata(resolve(sys.argv[2]).resolve())
    print(json.dumps({"name": sys.argv[1], **metadata}, indent=1, ensure_ascii=False))  # JSON is YAML


if __name__ == "__main__":
    run_cli(_main)
