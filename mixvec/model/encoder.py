"""SpeechEncoder: waveforms in, frames out, in time and memory linear in their length.

Symbols: B batch, S samples, T frames, F feature channels, D model width, L layers.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor, nn

from .blocks import BranchformerBlock, ConformerBlock, zero_gradient
from .config import BASE, EncoderConfig
from .frontend import SAMPLE_RATE_HZ, Length, MelFrontEnd, WaveformFrontEnd
from .logmel import LogMelEncoder
from .output import EncoderOutput
from .padding import padding_mask, zero_padding

if TYPE_CHECKING:
    from ..wav2vec2 import Wav2Vec2Encoder

Encoder: TypeAlias = "SpeechEncoder | Wav2Vec2Encoder | LogMelEncoder"
"""Any kind; all offer ``features``, ``encode``, ``forward`` and ``frame_lengths`` alike."""


class SpeechEncoder(nn.Module):
    """Front end → linear → mask embedding → sinusoidal positions → Conformer or Branchformer blocks → LayerNorm.

    The encoder of arXiv 2407.13377. An utterance gives the same frames alone and in a padded batch.

    Example::

        encoder = SpeechEncoder.from_pretrained("runs/small/hub").eval()
        frames, lengths, layers = encoder(waveforms, lengths)
    """

    sample_rate_hz = SAMPLE_RATE_HZ

    def __init__(self, config: EncoderConfig = BASE) -> None:
        """
        Raises:
            ValueError: ``config`` describes fairseq2's encoder; ``build_encoder`` takes either kind.
        """
        super().__init__()
        if config.kind != "mixvec":
            raise ValueError(f"SpeechEncoder is encoder.kind=mixvec; for {config.kind} use build_encoder(config)")
        self.config = config
        self.dim, self.feature_dim, self.num_layers = config.dim, config.conv_channels, config.num_layers
        if config.front_end == "mel":
            self.front_end: MelFrontEnd | WaveformFrontEnd = MelFrontEnd(
                config.mel_bins, config.conv_channels, config.conv_strides
            )
        else:
            self.front_end = WaveformFrontEnd(config.conv_channels)
        self.hop_samples = self.front_end.hop_samples
        self.project = nn.Linear(config.conv_channels, config.dim)
        self.dropout = nn.Dropout(config.dropout)
        self.mask_embedding = nn.Parameter(torch.empty(config.dim).uniform_())
        block = ConformerBlock if config.block == "conformer" else BranchformerBlock
        self.layers = nn.ModuleList(block(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.dim, eps=1e-6)

    def frame_lengths(self, samples: Length) -> Length:
        """Frames that ``samples`` samples at 16 kHz give: an int, or a tensor (B,)."""
        return self.front_end.frame_lengths(samples)

    def features(self, waveforms: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The front end alone: waveforms (B, S), lengths (B,) to features (B, T, F) and frame lengths (B,).

        Raises:
            ValueError: the batch is shorter than one frame, or lengths do not fit the waveforms.
        """
        samples = waveforms.shape[-1]
        if waveforms.dim() != 2 or (lengths is not None and lengths.shape != waveforms.shape[:1]):
            raise ValueError(f"waveforms must be (B, S) and lengths (B,), not {tuple(waveforms.shape)} and "
                             f"{None if lengths is None else tuple(lengths.shape)}")  # fmt: skip
        if self.frame_lengths(samples) < 1:
            raise ValueError(f"{samples} samples are shorter than one frame; pad to at least {self.min_samples}")
        frames = self.front_end(waveforms, lengths)
        if lengths is None:
            return frames, torch.full(waveforms.shape[:1], frames.shape[1], device=frames.device)
        return frames, self.frame_lengths(lengths)

    @property
    def min_samples(self) -> int:
        """The shortest input, in samples, that gives a frame."""
        samples = self.hop_samples
        while self.frame_lengths(samples) < 1:
            samples += 1
        return samples

    def encode(
        self, features: Tensor, frame_lengths: Tensor, mask: Tensor | None = None, *, every_layer: bool = True
    ) -> EncoderOutput:
        """Everything behind the front end.

        Args:
            features: (B, T, F) from ``features``.
            frame_lengths: (B,).
            mask: (B, T), True at frames to hide: the mask embedding stands in their place.
            every_layer: False where the last layer's frames are enough; ``layers`` then holds them alone.
        """
        x = self.dropout(self.project(features)).to(
            self.norm.weight.dtype
        )  # (B, T, D); under autocast as all blocks have it
        if mask is not None:
            x = torch.where(mask.unsqueeze(-1), self.mask_embedding.to(x.dtype), x)
        elif self.training:
            x = x + 0.0 * self.mask_embedding.to(x.dtype)  # a zero gradient, not an unused parameter
        x = x + sinusoidal_positions(x.shape[1], self.dim, x.device).to(x.dtype)
        real = padding_mask(frame_lengths, x.shape[1])
        x = zero_padding(x, real)
        layers = [x] if every_layer else []
        for layer in self.layers:
            if self.training and self.config.layer_drop and torch.rand(()).item() < self.config.layer_drop:
                x = x + zero_gradient(layer).to(x.dtype)
            else:
                x = layer(x, real)
            if every_layer:
                layers.append(x)
        layers = [*layers[:-1], self.norm(x)]
        layers = [zero_padding(layer, real) for layer in layers]
        return EncoderOutput(layers[-1], frame_lengths, layers)

    def forward(self, waveforms: Tensor, lengths: Tensor | None = None, *, every_layer: bool = True) -> EncoderOutput:
        """Waveforms (B, S) at 16 kHz and lengths (B,) in samples to frames, their lengths and every layer's output.

        Without ``lengths`` every utterance fills its row. ``layers`` holds L + 1 tensors (B, T, D): the input
        embedding, then each layer's output, the last after the final LayerNorm; or that alone without ``every_layer``,
        so that in inference an hour takes the memory of one layer.

        Raises:
            ValueError: the batch is shorter than one frame.
        """
        return self.encode(*self.features(waveforms, lengths), every_layer=every_layer)

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, revision: str | None = None) -> SpeechEncoder:
        """The encoder of a hub folder or hub repository, in eval mode.

        Raises:
            UserError: no such folder or repository, or a missing, extra or misshapen tensor, which it names.
        """
        from ..errors import UserError
        from ..hub import load_encoder

        encoder = load_encoder(name_or_path, revision)
        if not isinstance(encoder, cls):
            raise UserError(f"{name_or_path}: holds fairseq2's wav2vec 2.0; load it with mixvec.hub.load_encoder")
        return encoder

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a hub folder with this encoder: config, weights, preprocessor config and model card."""
        from ..hub import save_folder

        save_folder(self, folder)


def sinusoidal_positions(frames: int, dim: int, device: torch.device) -> Tensor:
    """Fixed positions (T, D): sin in the even channels, cos in the odd ones (arXiv 1706.03762), for any length."""
    position = torch.arange(frames, device=device, dtype=torch.float32).unsqueeze(1)
    rate = torch.exp(torch.arange(0, dim, 2, device=device, dtype=torch.float32) * (-math.log(10_000.0) / dim))
    angle = position * rate  # (T, D/2)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)


def build_encoder(config: EncoderConfig) -> Encoder:
    """The encoder that ``config`` describes, ours, fairseq2's or bare log-mel, behind one protocol.

    Raises:
        UserError: ``kind=wav2vec2`` where fairseq2 is not installed, or ``kind=transformers``.
    """
    if config.kind == "wav2vec2":
        from ..wav2vec2 import Wav2Vec2Encoder

        return Wav2Vec2Encoder(config)
    if config.kind == "log-mel":
        return LogMelEncoder(config)
    if config.kind == "transformers":
        from ..errors import UserError

        raise UserError(
            "encoder.kind=transformers: its encoder is another library's, which mixvec does not build; `python -m "
            "finetune` trains and scores such a model, and it cannot be loaded or published"
        )
    return SpeechEncoder(config)
