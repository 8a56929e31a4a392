"""Speech encoders of transformers (HuBERT, WavLM, data2vec, w2v-BERT, ...) as a ``mixvec.Encoder``.

mixvec's own models and wav2vec 2.0 are read by mixvec itself. A model built on an encoder of transformers is trained
and scored by ``python -m finetune`` alone: mixvec does not load it, and publishing refuses it.

Symbols: B batch, S samples, T frames, F feature channels, D model width, L layers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mixvec import Encoder, EncoderOutput, UserError
from mixvec.by_length import by_length
from mixvec.model.frontend import SAMPLE_RATE_HZ, Length, centred_view, conv_length, normalise
from mixvec.model.padding import padding_mask, zero_padding

OURS = ("mixvec", "wav2vec2")
"""The ``model_type`` of what mixvec reads itself."""
NEEDED = ("feature_projection", "encoder")
"""Parts that the models of the wav2vec 2.0 family have, by these names."""
LEAKS = ("data2vec-audio",)
"""Whose positions come from several convolutions, between which padding is not put back to zero."""


def is_foreign(folder: Path) -> bool:
    """Whether a model folder holds an encoder for transformers to build."""
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError):
        return False
    return isinstance(kind, str) and kind not in OURS


class TransformersEncoder(Encoder):
    """An encoder of the wav2vec 2.0 family as transformers builds it.

    An utterance gives the same frames alone and in a padded batch: where padding would leak (a GroupNorm over time,
    data2vec's positions), utterances of different length are computed one length after another.
    """

    def __init__(self, folder: Path) -> None:
        """
        Raises:
            UserError: transformers is missing, or cannot build this model from safetensors, or its parts are others.
        """
        super().__init__()
        self.model, self.extractor, scaled = _load(folder)
        own = self.model.config
        self.kind, self.normalised = own.model_type, scaled
        self.dim, self.num_layers = own.hidden_size, own.num_hidden_layers
        self.feature_dim = own.feature_projection_input_dim if self.extractor else own.conv_dim[-1]
        self.strides = [] if self.extractor else list(zip(own.conv_kernel, own.conv_stride, strict=True))
        self.per_length = not self.extractor and getattr(own, "feat_extract_norm", "layer") == "group"
        self.heads = own.num_attention_heads
        view, self.hop_samples = 1, 1
        for kernel, stride in self.strides:
            view, self.hop_samples = view + (kernel - 1) * self.hop_samples, self.hop_samples * stride
        self.stacked = int(self.extractor.stride) if self.extractor else 1
        if self.extractor:
            self.hop_samples = 160 * self.stacked
            view = self.hop_samples + 240  # the last of its 25 ms windows starts 10 ms before the next frame
        self.mel_view = centred_view(view, self.hop_samples)
        if not hasattr(self.model, "masked_spec_embed"):  # else frames to hide have nothing in their place
            self.model.masked_spec_embed = nn.Parameter(torch.zeros(self.dim))

    def settings(self) -> dict[str, Any]:
        """What a hub folder records; mixvec cannot build the encoder from it."""
        return {"kind": "transformers", "model_type": self.kind, "dim": self.dim, "num_layers": self.num_layers}

    def frame_lengths(self, samples: Length) -> Length:
        """Frames that ``samples`` samples at 16 kHz give: an int, or a tensor (B,)."""
        if self.extractor:  # Kaldi's filter bank: 25 ms every 10 ms, so many frames stacked
            return conv_length(samples, 400, 160) // self.stacked
        for kernel, stride in self.strides:
            samples = conv_length(samples, kernel, stride)
        return samples

    def features(self, waveforms: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Waveforms (B, S), lengths (B,) to features (B, T, F) and frame lengths (B,)."""
        if lengths is None:
            lengths = torch.full(waveforms.shape[:1], waveforms.shape[1], device=waveforms.device)
        frames = self.frame_lengths(lengths)
        if self.extractor:
            x = self._filter_bank(waveforms, lengths)
        else:
            x = normalise(waveforms, lengths) if self.normalised else waveforms.float()
            x = zero_padding(x, padding_mask(lengths, x.shape[1]))
            convolve = self.model.feature_extractor
            most = self.frame_lengths(waveforms.shape[1])
            x = by_length(lambda w: convolve(w).transpose(1, 2), x, lengths, most, self.min_samples) if (
                self.per_length) else convolve(x).transpose(1, 2)  # fmt: skip
        return zero_padding(x, padding_mask(frames, x.shape[1])), frames

    @torch.no_grad()
    def _filter_bank(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, F), each utterance by itself, on the CPU."""
        most, rows = self.frame_lengths(waveforms.shape[1]), []
        for waveform, length in zip(waveforms.float().cpu(), lengths.tolist(), strict=True):
            x = torch.zeros(0, self.feature_dim)
            if length >= self.min_samples:
                made = self.extractor(waveform[:length].numpy(), sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt")
                x = made["input_features"][0, : self.frame_lengths(length)]
            rows.append(nn.functional.pad(x, (0, 0, 0, most - len(x))))
        return torch.stack(rows).to(waveforms.device)

    def encode(
        self, features: Tensor, frame_lengths: Tensor, mask: Tensor | None = None, *, every_layer: bool = True
    ) -> EncoderOutput:
        """Everything behind the front end; ``mask`` (B, T) is True at frames to hide."""
        x = self.model.feature_projection(features)
        x = x[0] if isinstance(x, tuple) else x  # (B, T, D)
        if mask is not None:
            x = torch.where(mask.unsqueeze(-1), self.model.masked_spec_embed.to(x.dtype), x)
        real = padding_mask(frame_lengths, x.shape[1])
        if self.kind in LEAKS and not bool(real.all()):
            stacked = by_length(self._layers, x, frame_lengths, x.shape[1], 1)  # (B, T, L + 1, D)
        else:
            stacked = self._layers(x, None if bool(real.all()) else real)
        layers = [zero_padding(layer, real) for layer in stacked.unbind(2)[0 if every_layer else -1 :]]
        return EncoderOutput(layers[-1], frame_lengths, layers)

    def _layers(self, x: Tensor, real: Tensor | None = None) -> Tensor:
        """(B, T, D) to the input embedding and every layer's output (B, T, L + 1, D)."""
        made = self.model.encoder(x.clone(), attention_mask=real, output_hidden_states=True, return_dict=True)
        return torch.stack([*made.hidden_states[:-1], made.last_hidden_state], dim=2)


def _load(folder: Path) -> tuple[Any, Any, bool]:
    """The model, its filter bank where it reads no waveforms, and whether it wants them normalised."""
    try:
        from transformers import AutoFeatureExtractor, AutoModel
    except ImportError as error:
        raise UserError(f"pretrained={folder}: its encoder is transformers': pip install transformers") from error
    if not any(folder.glob("*.safetensors")):
        raise UserError(
            f"{folder}: no safetensors in it, and pickled weights are not read; write it anew with transformers: "
            "AutoModel.from_pretrained(NAME).save_pretrained(DIR)"
        )
    try:
        model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise UserError(f"{folder}: transformers cannot build it: {str(error).strip().splitlines()[0]}") from error
    lacking = [name for name in NEEDED if not hasattr(model, name)]
    if lacking or not (hasattr(model, "feature_extractor") or hasattr(model.config, "feature_projection_input_dim")):
        raise UserError(
            f"{folder}: a {model.config.model_type} has no encoder of the wav2vec 2.0 family (HuBERT, WavLM, data2vec, "
            "w2v-BERT, ...), the only kind that can be read"
        )
    if hasattr(model, "feature_extractor"):
        stated = folder / "preprocessor_config.json"
        scaled = json.loads(stated.read_text(encoding="utf-8")).get("do_normalize", True) if stated.is_file() else True
        return model, None, bool(scaled)
    try:
        extractor = AutoFeatureExtractor.from_pretrained(folder, local_files_only=True)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: its preprocessor_config.json is needed: {str(error).splitlines()[0]}") from error
    return model, extractor, False
