"""Encoders of the wav2vec 2.0 family as transformers builds them (HuBERT, WavLM, data2vec, ...).

``mixvec.hub.load_encoder`` returns one as a start for fine-tuning or as a teacher. A folder of a model on top of it
holds its configuration, from which transformers builds it again.

Symbols: B batch, S samples, T frames, F feature channels, D model width, L layers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .by_length import by_length
from .errors import UserError
from .model.frontend import Length, centred_view, conv_length
from .model.mel import normalise
from .model.padding import padding_mask, zero_padding
from .model.protocol import Encoder, EncoderOutput

LEAKS = ("data2vec-audio",)
"""Whose positions come from several convolutions, between which padding is not set back to zero."""

OTHER = "not a mixvec model, nor an encoder of the wav2vec 2.0 family (HuBERT, WavLM, data2vec, ...)"


class TransformersEncoder(Encoder):
    """An encoder of the wav2vec 2.0 family.

    An utterance gives the same frames alone and in a padded batch: where padding would leak (a GroupNorm over time,
    data2vec's positions), utterances of different length are computed one length after another.
    """

    def __init__(self, model: Any, normalised: bool) -> None:
        """``model`` is transformers', ``normalised`` whether it wants waveforms normalised.

        Raises:
            UserError: the model has other parts than those of the wav2vec 2.0 family.
        """
        super().__init__()
        self.model, self.normalised, own = model, normalised, model.config
        if not all(hasattr(model, part) for part in ("feature_extractor", "feature_projection", "encoder")):
            raise UserError(f"a {own.model_type}: {OTHER}")
        self.kind, self.heads = own.model_type, own.num_attention_heads
        self.dim, self.num_layers = own.hidden_size, own.num_hidden_layers
        self.feature_dim, self.strides = own.conv_dim[-1], [*zip(own.conv_kernel, own.conv_stride, strict=True)]
        view, self.hop_samples = 1, 1
        for kernel, stride in self.strides:
            view, self.hop_samples = view + (kernel - 1) * self.hop_samples, self.hop_samples * stride
        self.mel_view = centred_view(view, self.hop_samples)
        if not hasattr(self.model, "masked_spec_embed"):
            self.model.masked_spec_embed = nn.Parameter(torch.zeros(self.dim))

    def settings(self) -> dict[str, Any]:
        """What a hub folder records of the encoder, from which ``build_transformers`` builds it."""
        return {"kind": "transformers", "model_type": self.kind, "dim": self.dim, "num_layers": self.num_layers,
                "normalised": self.normalised, "config": json.loads(self.model.config.to_json_string())}  # fmt: skip

    def frame_lengths(self, samples: Length) -> Length:
        """Frames that ``samples`` samples at 16 kHz give: an int, or a tensor (B,)."""
        for kernel, stride in self.strides:
            samples = conv_length(samples, kernel, stride)
        return samples

    def features(self, waveforms: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Waveforms (B, S), lengths (B,) to features (B, T, F) and frame lengths (B,).

        Raises:
            ValueError: the batch is shorter than one frame, or ``lengths`` does not fit ``waveforms``.
        """
        self.check_batch(waveforms, lengths)
        if lengths is None:
            lengths = torch.full(waveforms.shape[:1], waveforms.shape[1], device=waveforms.device)
        most, frames = self.frame_lengths(waveforms.shape[1]), self.frame_lengths(lengths)
        x = normalise(waveforms, lengths) if self.normalised else waveforms.float()
        x = zero_padding(x, padding_mask(lengths, x.shape[1]))
        if getattr(self.model.config, "feat_extract_norm", "layer") == "group":  # which data2vec does not have
            x = by_length(self._convolve, x, lengths, most, self.min_samples)
        else:
            x = self._convolve(x)
        return zero_padding(x, padding_mask(frames, most)), frames

    def _convolve(self, waveforms: Tensor) -> Tensor:
        """(B, S) to (B, T, F)."""
        return self.model.feature_extractor(waveforms).transpose(1, 2)  # type: ignore[no-any-return]

    def encode(
        self, features: Tensor, frame_lengths: Tensor, mask: Tensor | None = None, *, every_layer: bool = True
    ) -> EncoderOutput:
        """Run everything after the front end; the arguments are those of ``Encoder.encode``."""
        x = self.model.feature_projection(features)  # (B, T, D), or with what it projects
        x = x[0] if isinstance(x, tuple) else x
        if mask is not None:
            x = torch.where(mask.unsqueeze(-1), self.model.masked_spec_embed.to(x.dtype), x)
        real = padding_mask(frame_lengths, x.shape[1])
        if self.kind in LEAKS and not bool(real.all()):
            stacked = by_length(partial(self._layers, every_layer), x, frame_lengths, x.shape[1], 1)
        else:
            stacked = self._layers(every_layer, x, None if bool(real.all()) else real)
        layers = [zero_padding(layer, real) for layer in stacked.unbind(2)]
        return EncoderOutput(layers[-1], frame_lengths, layers)

    def _layers(self, every_layer: bool, x: Tensor, real: Tensor | None = None) -> Tensor:
        """(B, T, D) to the embedding and every layer's output (B, T, L + 1, D), or the last alone (B, T, 1, D)."""
        made = self.model.encoder(x.clone(), attention_mask=real, output_hidden_states=every_layer, return_dict=True)
        return torch.stack([*(made.hidden_states or ())[:-1], made.last_hidden_state], dim=2)


def build_transformers(settings: dict[str, Any]) -> TransformersEncoder:
    """The encoder that ``settings`` describe, its weights drawn at random.

    Raises:
        UserError: transformers is not installed or cannot build it.
    """
    with _building("encoder.kind=transformers") as transformers:
        config = transformers.AutoConfig.for_model(**settings["config"])
        return TransformersEncoder(transformers.AutoModel.from_config(config), settings["normalised"])


def read_transformers(folder: Path) -> TransformersEncoder:
    """The encoder in a folder that transformers wrote.

    Raises:
        UserError: transformers is not installed, or cannot build this model from safetensors.
    """
    with _building(folder) as transformers:
        here = {"local_files_only": True, "trust_remote_code": False}
        config = transformers.AutoConfig.from_pretrained(folder, **here)
        if not hasattr(config, "conv_dim"):
            raise UserError(f"a {config.model_type}: {OTHER}")
        if not any(folder.glob("*.safetensors")):
            raise UserError("no safetensors in it, and pickled weights are not read; write it again with transformers: "
                            "AutoModel.from_pretrained(NAME).save_pretrained(DIR)")  # fmt: skip
        model = transformers.AutoModel.from_pretrained(folder, use_safetensors=True, **here)
        stated = folder / "preprocessor_config.json"
        normalised = json.loads(stated.read_text("utf-8")).get("do_normalize", True) if stated.is_file() else True
        return TransformersEncoder(model, bool(normalised))


@contextmanager
def _building(name: object) -> Iterator[Any]:
    """transformers; what it raises is reported under ``name``."""
    try:
        import transformers
    except ImportError as error:
        raise UserError(f"{name}: an encoder of transformers: pip install transformers") from error
    try:
        yield transformers
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError) as error:
        raise UserError(f"{name}: transformers cannot build it: {str(error).strip().splitlines()[0]}") from error
