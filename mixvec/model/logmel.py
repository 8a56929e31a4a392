"""Log-mel features as an encoder: the baseline of a head without pretraining.

Symbols: B batch, S samples, T frames, M mel bins.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .config import EncoderConfig
from .frontend import Length
from .mel import HOP_SAMPLES, WINDOW_SAMPLES, MelTables, log_mel
from .padding import padding_mask, zero_padding
from .protocol import Encoder, EncoderOutput

MEAN, DEVIATION = -1.0, 4.5
"""Mean and deviation of log-mel over frames and bins of three speech corpora, to one digit. The scale is fixed so that
the bins keep their levels: the mean over time of bins that are normalised per utterance, as SUPERB's heads take it, is
zero."""


class LogMelEncoder(Encoder):
    """Log-mel of utterances at one loudness: ``dim`` bins, 25 ms windows, a frame per 10 ms, no parameters."""

    hop_samples = HOP_SAMPLES
    num_layers = 0
    mel_view = (0, 1, 1)
    min_samples = WINDOW_SAMPLES
    """One window; a shorter input gives a frame of mostly zeros."""
    tables: MelTables

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config, self.heads = config, config.heads
        self.dim = self.feature_dim = config.dim
        self.tables = MelTables(config.dim)

    def frame_lengths(self, samples: Length) -> Length:
        """Number of frames for ``samples`` samples at 16 kHz: an int, or a tensor (B,)."""
        return samples // HOP_SAMPLES + 1

    @torch.no_grad()
    def features(self, waveforms: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Waveforms (B, S), lengths (B,) to log-mel (B, T, M) and frame lengths (B,)."""
        with torch.autocast(waveforms.device.type, enabled=False):
            mel = (log_mel(waveforms, lengths, self.tables) - MEAN) / DEVIATION
        frames = self.valid_frames(lengths, mel)
        return zero_padding(mel, None if lengths is None else padding_mask(frames, mel.shape[1])), frames

    def encode(
        self, features: Tensor, frame_lengths: Tensor, mask: Tensor | None = None, *, every_layer: bool = True
    ) -> EncoderOutput:
        """The features themselves, as frames and as the only layer; zeros at frames that ``mask`` (B, T) hides."""
        frames = features if mask is None else features.masked_fill(mask.unsqueeze(-1), 0.0)
        return EncoderOutput(frames, frame_lengths, [frames])
