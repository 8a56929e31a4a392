"""SpeechEncoder: waveforms in, frames out, in time and memory linear in their length.

Symbols: B batch, S samples, T frames, F feature channels, D model width, L layers.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from .blocks import BranchformerBlock, ConformerBlock, zero_gradient
from .config import BASE, EncoderConfig
from .frontend import Length, MelFrontEnd, MelTables, WaveformFrontEnd
from .noise import Dropout
from .output import EncoderOutput
from .padding import padding_mask, zero_padding
from .pretrained import Pretrained
from .protocol import Encoder


class SpeechEncoder(Pretrained, Encoder):
    """Front end → linear → mask embedding → sinusoidal positions → Conformer or Branchformer blocks → LayerNorm.

    The encoder of arXiv 2407.13377. An utterance gives the same frames alone and in a padded batch.

    Example::

        encoder = SpeechEncoder.from_pretrained("runs/small/hub").eval()
        frames, lengths, layers = encoder(waveforms, lengths)
    """

    layer_drop_draws: list[float] | None = None
    """A number in [0, 1) for each layer, by which LayerDrop skips it in training; None draws from torch's generator."""

    def __init__(self, config: EncoderConfig = BASE) -> None:
        """
        Raises:
            ValueError: ``config.kind`` is not mixvec; ``mixvec.build_encoder`` builds every kind.
        """
        super().__init__()
        if config.kind != "mixvec":
            raise ValueError(f"SpeechEncoder is encoder.kind=mixvec; for {config.kind} use build_encoder(config)")
        self.config = config
        self.dim, self.feature_dim, self.num_layers = config.dim, config.conv_channels, config.num_layers
        self.heads = config.heads
        if config.front_end == "mel":
            self.front_end: MelFrontEnd | WaveformFrontEnd = MelFrontEnd(
                config.mel_bins, config.conv_channels, config.conv_strides
            )
        else:
            self.front_end = WaveformFrontEnd(config.conv_channels)
        self.hop_samples, self.mel_view = self.front_end.hop_samples, self.front_end.mel_view
        self.project = nn.Linear(config.conv_channels, config.dim)
        self.dropout = Dropout(config.dropout)
        self.mask_embedding = nn.Parameter(torch.empty(config.dim).uniform_())
        block = ConformerBlock if config.block == "conformer" else BranchformerBlock
        self.layers = nn.ModuleList(block(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.dim, eps=1e-6)

    def frame_lengths(self, samples: Length) -> Length:
        """Frames that ``samples`` samples at 16 kHz give: an int, or a tensor (B,)."""
        return self.front_end.frame_lengths(samples)

    def features(self, waveforms: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Run the front end alone: waveforms (B, S), lengths (B,) to features (B, T, F) and frame lengths (B,).

        Raises:
            ValueError: the batch is shorter than one frame, or ``lengths`` does not fit ``waveforms``.
        """
        self.check_batch(waveforms, lengths)
        frames = self.front_end(waveforms, lengths)
        return frames, self.valid_frames(lengths, frames)

    def encode(
        self, features: Tensor, frame_lengths: Tensor, mask: Tensor | None = None, *, every_layer: bool = True
    ) -> EncoderOutput:
        """Run everything after the front end; the arguments are those of ``Encoder.encode``."""
        x = self.dropout(self.project(features))  # (B, T, D)
        x = x.to(self.norm.weight.dtype)  # under autocast too, as all blocks have it
        if mask is not None:
            x = torch.where(mask.unsqueeze(-1), self.mask_embedding.to(x.dtype), x)
        elif self.training:
            x = x + 0.0 * self.mask_embedding.to(x.dtype)  # a zero gradient, not an unused parameter
        x = x + sinusoidal_positions(x.shape[1], self.dim, x.device).to(x.dtype)
        real = padding_mask(frame_lengths, x.shape[1])
        x = zero_padding(x, real)
        layers = [x] if every_layer else []
        for number, layer in enumerate(self.layers):
            if self.training and self.config.layer_drop and self._layer_drop_draw(number) < self.config.layer_drop:
                x = x + zero_gradient(layer).to(x.dtype)
            else:
                x = layer(x, real)
            if every_layer:
                layers.append(x)
        layers = [*layers[:-1], self.norm(x)]
        layers = [zero_padding(layer, real) for layer in layers]
        return EncoderOutput(layers[-1], frame_lengths, layers)

    def settings(self) -> dict[str, Any]:
        """The configuration as plain JSON values, for ``config.json``."""
        return asdict(self.config)

    def _layer_drop_draw(self, layer: int) -> float:
        return float(torch.rand(())) if self.layer_drop_draws is None else self.layer_drop_draws[layer]

    def target_tables(self) -> MelTables:
        """The mel front end's own filters, else those of every encoder."""
        return self.front_end.tables if isinstance(self.front_end, MelFrontEnd) else super().target_tables()


def sinusoidal_positions(frames: int, dim: int, device: torch.device) -> Tensor:
    """Fixed positions (T, D): sin in the even channels, cos in the odd ones (arXiv 1706.03762), for any length."""
    position = torch.arange(frames, device=device, dtype=torch.float32).unsqueeze(1)
    rate = torch.exp(torch.arange(0, dim, 2, device=device, dtype=torch.float32) * (-math.log(10_000.0) / dim))
    angle = position * rate  # (T, D/2)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)
