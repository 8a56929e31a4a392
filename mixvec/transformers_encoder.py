"""Encoders of the wav2vec 2.0 family as transformers builds them (HuBERT, WavLM, data2vec, w2v-BERT, ...).

``mixvec.hub.open_encoder`` returns one as a start for fine-tuning or as a teacher. A model on top of it is trained and
scored, but neither loaded nor published: only transformers can build its encoder.

Symbols: B batch, S samples, T frames, F feature channels, D model width, L layers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .by_length import by_length
from .errors import UserError
from .model.frontend import SAMPLE_RATE_HZ, Length, centred_view, conv_length
from .model.mel import normalise
from .model.padding import padding_mask, zero_padding
from .model.protocol import Encoder, EncoderOutput

LEAKS = ("data2vec-audio",)
"""Whose positions come from several convolutions, between which padding is not set back to zero."""


class TransformersEncoder(Encoder):
    """An encoder of the wav2vec 2.0 family, read from a folder that transformers wrote.

    An utterance gives the same frames alone and in a padded batch: where padding would leak (a GroupNorm over time,
    data2vec's positions), utterances of different length are computed one length after another.
    """

    def __init__(self, folder: Path) -> None:
        """
        Raises:
            UserError: transformers is missing or cannot build this model from safetensors, or its parts are others.
        """
        super().__init__()
        self.model, self.extractor, self.normalised = _load(folder)
        own = self.model.config
        self.kind, self.heads = own.model_type, own.num_attention_heads
        self.dim, self.num_layers = own.hidden_size, own.num_hidden_layers
        if self.extractor:  # Kaldi's filter bank: 25 ms every 10 ms, then this many frames stacked
            stacked = int(self.extractor.stride)
            self.feature_dim, self.strides = own.feature_projection_input_dim, [(400, 160), (stacked, stacked)]
        else:
            self.feature_dim, self.strides = own.conv_dim[-1], [*zip(own.conv_kernel, own.conv_stride, strict=True)]
        view, self.hop_samples = 1, 1
        for kernel, stride in self.strides:
            view, self.hop_samples = view + (kernel - 1) * self.hop_samples, self.hop_samples * stride
        self.mel_view = centred_view(view, self.hop_samples)
        if not hasattr(self.model, "masked_spec_embed"):
            self.model.masked_spec_embed = nn.Parameter(torch.zeros(self.dim))

    def settings(self) -> dict[str, Any]:
        """What a hub folder records of the encoder, from which mixvec cannot build it."""
        return {"kind": "transformers", "model_type": self.kind, "dim": self.dim, "num_layers": self.num_layers}

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
        if self.extractor:
            x = torch.stack([self._filter_bank(w[:n], most) for w, n in zip(waveforms, lengths.tolist(), strict=True)])
        else:
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

    def _filter_bank(self, waveform: Tensor, most: int) -> Tensor:
        """One waveform (S,), by itself and on the CPU, to (T, F); ``most`` is T."""
        x = torch.zeros(0, self.feature_dim)
        if len(waveform) >= self.min_samples:
            samples = waveform.float().cpu().numpy()
            made = self.extractor(samples, sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt")
            x = made["input_features"][0, : self.frame_lengths(len(samples))]
        return nn.functional.pad(x, (0, 0, 0, most - len(x))).to(waveform.device)

    def encode(
        self, features: Tensor, frame_lengths: Tensor, mask: Tensor | None = None, *, every_layer: bool = True
    ) -> EncoderOutput:
        """Run everything after the front end; the arguments are those of ``Encoder.encode``."""
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
    """The model, its filter bank (None where it reads waveforms), and whether it wants waveforms normalised."""
    try:
        from transformers import AutoFeatureExtractor, AutoModel
    except ImportError as error:
        raise UserError(f"{folder}: an encoder of transformers: pip install transformers") from error
    if not any(folder.glob("*.safetensors")):
        raise UserError(
            f"{folder}: no safetensors in it, and pickled weights are not read; write it again with transformers: "
            "AutoModel.from_pretrained(NAME).save_pretrained(DIR)"
        )
    try:
        model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise UserError(f"{folder}: transformers cannot build it: {str(error).strip().splitlines()[0]}") from error
    waveforms, filter_bank = hasattr(model, "feature_extractor"), hasattr(model.config, "feature_projection_input_dim")
    if not (hasattr(model, "feature_projection") and hasattr(model, "encoder") and (waveforms or filter_bank)):
        raise UserError(
            f"{folder}: a {model.config.model_type} has no encoder of the wav2vec 2.0 family (HuBERT, WavLM, data2vec, "
            "w2v-BERT, ...), the only kind that can be read"
        )
    stated = folder / "preprocessor_config.json"
    try:
        if waveforms:
            scaled = json.loads(stated.read_text("utf-8")).get("do_normalize", True) if stated.is_file() else True
            return model, None, bool(scaled)
        return model, AutoFeatureExtractor.from_pretrained(folder, local_files_only=True), False
    except (OSError, ValueError) as error:
        raise UserError(f"{stated}: cannot be used ({str(error).splitlines()[0]})") from error
