"""Log-mel behind the encoder protocol: what a head does without an encoder.

Symbols: B batch, S samples, T frames, M mel bins.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .config import EncoderConfig
from .frontend import HOP_SAMPLES, SAMPLE_RATE_HZ, WINDOW_SAMPLES, Length, log_mel, mel_tables
from .output import EncoderOutput
from .padding import padding_mask, zero_padding

MEAN, DEVIATION = -1.0, 4.5
"""Of log-mel over frames and bins of three corpora of speech, to one digit: a fixed scale, so that the bins keep their
levels. A mean over time, as in SUPERB's heads, finds nothing in bins that are normalised per utterance."""


class LogMelEncoder(nn.Module):
    """Log-mel of utterances at one loudness: ``dim`` bins, 25 ms windows, a frame per 10 ms, no parameters.

    An utterance gives the same frames alone and in a padded batch.
    """

    sample_rate_hz = SAMPLE_RATE_HZ
    hop_samples = HOP_SAMPLES
    min_samples = WINDOW_SAMPLES
    num_layers = 0
    filters: Tensor
    window: Tensor

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.dim = self.feature_dim = config.dim
        filters, window = mel_tables(config.dim)
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("window", window, persistent=False)

    def frame_lengths(self, samples: Length) -> Length:
        """Frames that ``samples`` samples at 16 kHz give: an int, or a tensor (B,)."""
        return samples // HOP_SAMPLES + 1

    @torch.no_grad()
    def features(self, waveforms: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Waveforms (B, S), lengths (B,) to log-mel (B, T, M) and frame lengths (B,)."""
        with torch.autocast(waveforms.device.type, enabled=False):
            mel = (log_mel(waveforms, lengths, self.filters, self.window) - MEAN) / DEVIATION
        if lengths is None:
            return mel, torch.full(mel.shape[:1], mel.shape[1], device=mel.device)
        frames = self.frame_lengths(lengths)
        return zero_padding(mel, padding_mask(frames, mel.shape[1])), frames

    def encode(
        self, features: Tensor, frame_lengths: Tensor, mask: Tensor | None = None, *, every_layer: bool = True
    ) -> EncoderOutput:
        """The features themselves, as frames and as the only layer; zeros at frames that ``mask`` (B, T) hides."""
        frames = features if mask is None else features.masked_fill(mask.unsqueeze(-1), 0.0)
        return EncoderOutput(frames, frame_lengths, [frames])

    def forward(self, waveforms: Tensor, lengths: Tensor | None = None, *, every_layer: bool = True) -> EncoderOutput:
        """Waveforms (B, S) at 16 kHz and lengths (B,) in samples to frames and their lengths."""
        return self.encode(*self.features(waveforms, lengths))
