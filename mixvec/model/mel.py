"""Log-mel spectrograms of 16 kHz waveforms, frame by frame from each utterance's own samples.

Symbols: B batch, S samples, M mel bins, T frames.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .padding import padding_mask, zero_padding
from .tiling import in_tiles

SAMPLE_RATE_HZ = 16_000
HOP_SAMPLES = 160  # 10 ms
WINDOW_SAMPLES = 400  # 25 ms
HALF_WINDOW = WINDOW_SAMPLES // 2


def normalise(waveforms: Tensor, lengths: Tensor | None) -> Tensor:
    """Each utterance (B, S) at zero mean and unit variance over its own samples; zero beyond them."""
    waveforms = waveforms.float()
    if lengths is None:
        return torch.nn.functional.layer_norm(waveforms, waveforms.shape[-1:])
    mask = padding_mask(lengths, waveforms.shape[1])
    return zero_padding(standardise(waveforms.unsqueeze(-1), mask).squeeze(-1), mask)


def standardise(x: Tensor, mask: Tensor) -> Tensor:
    """x (B, T, C) at zero mean and unit variance over the valid frames, for each channel."""
    count = mask.sum(dim=1).clamp(min=1).view(-1, 1, 1)
    mean = zero_padding(x, mask).sum(dim=1, keepdim=True) / count
    variance = zero_padding((x - mean).square(), mask).sum(dim=1, keepdim=True) / count
    return (x - mean) * torch.rsqrt(variance + 1e-5)


class MelTables:
    """The mel filters (bins, M) and the window (samples,), in fp32 on any device that asks.

    They are no buffers of a module, which ``model.bfloat16()`` would round and an initialisation on the meta device
    would lose.
    """

    def __init__(self, mel_bins: int) -> None:
        self.mel_bins = mel_bins
        with torch.device("cpu"):
            self._cpu = mel_filters(mel_bins), torch.hann_window(WINDOW_SAMPLES, dtype=torch.float32)
        self._elsewhere: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Filters and window on ``device``, copied there once."""
        if device.type == "cpu":
            return self._cpu
        if device not in self._elsewhere:
            filters, window = self._cpu
            self._elsewhere[device] = filters.to(device), window.to(device)
        return self._elsewhere[device]

    def power(self, x: Tensor) -> Tensor:
        """The power spectrum (B, T, bins) of x (B, S) in fp32; frame t is the window from sample t · hop on."""
        window = self.on(x.device)[1]
        found = torch.stft(x, WINDOW_SAMPLES, HOP_SAMPLES, window=window, center=False, return_complex=True)
        return (found.real.square() + found.imag.square()).transpose(1, 2)


def mel_filters(mel_bins: int) -> Tensor:
    """Triangular filters (bins, M) on the mel scale m(f) = 2595 log10(1 + f / 700), from 0 Hz to 8 kHz, unnormalised.

    Filter i rises from edge i to edge i + 1 and falls to edge i + 2, of M + 2 edges that are equally spaced in mel.
    """
    frequencies = torch.linspace(0, SAMPLE_RATE_HZ // 2, WINDOW_SAMPLES // 2 + 1, dtype=torch.float32)  # (bins,) in Hz
    highest = 2595.0 * math.log10(1.0 + SAMPLE_RATE_HZ / 2 / 700.0)
    edges = torch.linspace(0.0, highest, mel_bins + 2, dtype=torch.float32)
    edges = 700.0 * (10.0 ** (edges / 2595.0) - 1.0)  # (M + 2,) in Hz
    width = edges[1:] - edges[:-1]
    distance = edges.unsqueeze(0) - frequencies.unsqueeze(1)  # (bins, M + 2)
    rising, falling = -distance[:, :-2] / width[:-1], distance[:, 2:] / width[1:]
    return torch.minimum(rising, falling).clamp(min=0.0)


def log_mel(waveforms: Tensor, lengths: Tensor | None, tables: MelTables) -> Tensor:
    """Log-mel (B, T, M) of waveforms (B, S), each at unit variance over its own samples; in fp32.

    A frame is centred on a multiple of the hop. Zeros precede the first sample and follow the last, so that a frame at
    either end is the same alone and in a padded batch.
    """
    return spectrogram(torch.nn.functional.pad(normalise(waveforms, lengths), (HALF_WINDOW, HALF_WINDOW)), tables)


def spectrogram(waveforms: Tensor, tables: MelTables) -> Tensor:
    """Log-mel (B, T, M) of waveforms (B, S) as they are, without padding: frame t starts at sample t · hop."""
    filters, _ = tables.on(waveforms.device)

    def tile(first: int, end: int | None) -> Tensor:
        x = waveforms[:, first * HOP_SAMPLES : None if end is None else (end - 1) * HOP_SAMPLES + WINDOW_SAMPLES]
        return (tables.power(x) @ filters).clamp(min=1e-6).log()

    return in_tiles(tile, (waveforms.shape[1] - WINDOW_SAMPLES) // HOP_SAMPLES + 1, waveforms)


@torch.no_grad()
def normalised_log_mel(waveforms: Tensor, lengths: Tensor | None, tables: MelTables) -> Tensor:
    """Log-mel (B, T, M) of waveforms (B, S) at zero mean and unit variance per utterance and bin; fp32, no gradient."""
    with torch.autocast(waveforms.device.type, enabled=False):
        mel = log_mel(waveforms, lengths, tables)
        if lengths is None:
            mask = torch.ones(mel.shape[:2], dtype=torch.bool, device=mel.device)
        else:
            mask = padding_mask(lengths // HOP_SAMPLES + 1, mel.shape[1])
        return zero_padding(standardise(mel, mask), mask)
