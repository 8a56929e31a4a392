"""Front ends: 16 kHz waveforms to features, the targets of pretraining and the input of the encoder.

Symbols: B batch, S samples, M mel bins, C channels, T frames. Each frame is computed from its own utterance alone:
samples beyond an utterance's length are set to zero, and no normalisation runs over them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .padding import padding_mask, zero_padding
from .tiling import in_tiles

SAMPLE_RATE_HZ = 16_000
HOP_SAMPLES = 160  # 10 ms
WINDOW_SAMPLES = 400  # 25 ms
CONV_KERNEL = 3

Length = TypeVar("Length", int, Tensor)


def normalise(waveforms: Tensor, lengths: Tensor | None) -> Tensor:
    """Each utterance (B, S) at zero mean and unit variance over its own samples; zero beyond them."""
    waveforms = waveforms.float()
    if lengths is None:
        return torch.nn.functional.layer_norm(waveforms, waveforms.shape[-1:])
    mask = padding_mask(lengths, waveforms.shape[1])
    return zero_padding(_standardise(waveforms.unsqueeze(-1), mask).squeeze(-1), mask)


def _standardise(x: Tensor, mask: Tensor) -> Tensor:
    """x (B, T, C) at zero mean and unit variance over the valid frames, for each channel."""
    count = mask.sum(dim=1).clamp(min=1).view(-1, 1, 1)
    mean = zero_padding(x, mask).sum(dim=1, keepdim=True) / count
    variance = zero_padding((x - mean).square(), mask).sum(dim=1, keepdim=True) / count
    return (x - mean) * torch.rsqrt(variance + 1e-5)


class ConvLayer(nn.Module):
    """Conv1d over time without padding → LayerNorm over channels → GELU."""

    def __init__(self, in_dim: int, out_dim: int, kernel: int, stride: int, *, bias: bool) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.conv = nn.Conv1d(in_dim, out_dim, kernel, stride, bias=bias)
        nn.init.kaiming_normal_(self.conv.weight)
        self.norm = nn.LayerNorm(out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) to (B, C', (T - kernel) // stride + 1)."""
        x = self.conv(x).transpose(1, 2)
        return torch.nn.functional.gelu(self.norm(x)).transpose(1, 2)


def conv_length(length: Length, kernel: int, stride: int) -> Length:
    """Frames that a convolution without padding gives; never negative."""
    frames = (length - kernel) // stride + 1
    return frames.clamp(min=0) if isinstance(frames, Tensor) else max(frames, 0)


def convolved(convs: Iterable[Any], norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """x (B, C, S) through convolutions without padding and the last LayerNorm, to (B, T, C')."""
    span, hop, frames = 1, 1, x.shape[2]  # a frame sees ``span`` of x, and the next one begins ``hop`` later
    for layer in convs:  # of ``ConvLayer``
        kernel, stride = layer.kernel, layer.stride
        span, hop, frames = span + (kernel - 1) * hop, hop * stride, conv_length(frames, kernel, stride)

    def tile(first: int, end: int | None) -> Tensor:
        y = x[:, :, first * hop : None if end is None else (end - 1) * hop + span]
        for layer in convs:
            y = layer(y)
        return norm(y.transpose(1, 2))  # type: ignore[no-any-return]

    return in_tiles(tile, frames, x)


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
    half = WINDOW_SAMPLES // 2
    waveforms = torch.nn.functional.pad(normalise(waveforms, lengths), (half, half))  # frame t starts at t · hop
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
        return zero_padding(_standardise(mel, mask), mask)


class MelFrontEnd(nn.Module):
    """Log-mel and convolutions over time (arXiv 2407.13377): with strides (2, 1), one frame per 20 ms.

    The waveform is normalised per utterance; 80 log-mel bins (25 ms window, 10 ms hop) are normalised per utterance
    and bin; each convolution (kernel 3) is followed by LayerNorm and GELU; a last LayerNorm. The spectrogram runs in
    fp32 and takes no gradient.
    """

    def __init__(self, mel_bins: int, channels: int, strides: tuple[int, ...]) -> None:
        super().__init__()
        self.strides = strides
        self.tables = MelTables(mel_bins)
        widths = [mel_bins] + [channels] * len(strides)
        span, hop = 1, 1  # of a frame, in log-mel frames: kernel 3 and strides (2, 2) give 7 and 4
        for stride in strides:
            span, hop = span + (CONV_KERNEL - 1) * hop, hop * stride
        self.mel_view = 0, hop, span
        self.hop_samples = hop * HOP_SAMPLES
        self.convs = nn.ModuleList(
            ConvLayer(widths[i], channels, CONV_KERNEL, stride, bias=False) for i, stride in enumerate(strides)
        )
        self.norm = nn.LayerNorm(channels)

    def frame_lengths(self, samples: Length) -> Length:
        """Frames that ``samples`` samples give: an int, or a tensor (B,)."""
        length = samples // HOP_SAMPLES + 1
        for stride in self.strides:
            length = conv_length(length, CONV_KERNEL, stride)
        return length

    def forward(self, waveforms: Tensor, lengths: Tensor | None) -> Tensor:
        """(B, S) to (B, T, C)."""
        x = normalised_log_mel(waveforms, lengths, self.tables)
        x = x.transpose(1, 2).to(self.norm.weight.dtype)  # (B, M, 100 frames/s)
        return convolved(self.convs, self.norm, x)


class WaveformFrontEnd(nn.Module):
    """The seven convolutions of wav2vec 2.0 LARGE (arXiv 2006.11477): LayerNorm in each, one frame per 20 ms.

    BASE's GroupNorm normalises over time, hence over padding, and is not offered here.
    """

    KERNELS = (10, 3, 3, 3, 3, 2, 2)
    STRIDES = (5, 2, 2, 2, 2, 2, 2)

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.hop_samples = 320
        self.mel_view = centred_view(400, self.hop_samples)
        layers = zip(self.KERNELS, self.STRIDES, strict=True)
        self.convs = nn.ModuleList(
            ConvLayer(channels if i else 1, channels, kernel, stride, bias=True)
            for i, (kernel, stride) in enumerate(layers)
        )
        self.norm = nn.LayerNorm(channels)

    def frame_lengths(self, samples: Length) -> Length:
        """Frames that ``samples`` samples give: an int, or a tensor (B,)."""
        for kernel, stride in zip(self.KERNELS, self.STRIDES, strict=True):
            samples = conv_length(samples, kernel, stride)
        return samples

    def forward(self, waveforms: Tensor, lengths: Tensor | None) -> Tensor:
        """(B, S) to (B, T, C)."""
        x = normalise(waveforms, lengths).unsqueeze(1).to(self.norm.weight.dtype)  # (B, 1, S)
        return convolved(self.convs, self.norm, x)


def centred_view(view_samples: int, hop_samples: int) -> tuple[int, int, int]:
    """The ``mel_view`` of a front end whose frames see ``view_samples`` and start every ``hop_samples``: the log-mel
    frames of one hop around the centre.

    wav2vec 2.0: 400 and 320 samples. Frame 0 is centred on sample 200, its hop is [40, 360), and the log-mel frames
    centred in it are 1 and 2 (samples 160 and 320): (1, 2, 2).
    """
    hop = hop_samples // HOP_SAMPLES
    return -(-(view_samples - hop_samples) // (2 * HOP_SAMPLES)), hop, hop
