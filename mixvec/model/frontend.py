"""Front ends: 16 kHz waveforms to features, the targets of pretraining and the input of the encoder.

Symbols: B batch, S samples, M mel bins, C channels, T frames. Each frame is computed from its own utterance alone:
samples beyond an utterance's length are set to zero, and no normalisation runs over them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torchaudio.functional import melscale_fbanks

from .padding import padding_mask, zero_padding
from .tiling import in_parts

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
    """x (B, T, C) at zero mean and unit variance over the real frames, for each channel."""
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

    def part(first: int, end: int) -> Tensor:
        y = x[:, :, first * hop : (end - 1) * hop + span]
        for layer in convs:
            y = layer(y)
        return norm(y.transpose(1, 2))  # type: ignore[no-any-return]

    return in_parts(part, frames, x)


def mel_tables(mel_bins: int) -> tuple[Tensor, Tensor]:
    """The filters (bins, M) and the window (samples,) that ``log_mel`` takes."""
    bins = WINDOW_SAMPLES // 2 + 1
    with torch.device("cpu"):  # torchaudio looks at the values, which the meta device has none of
        filters = melscale_fbanks(bins, 0.0, SAMPLE_RATE_HZ / 2, mel_bins, SAMPLE_RATE_HZ)
    window = torch.hann_window(WINDOW_SAMPLES)
    return filters.to(window.device), window


def log_mel(waveforms: Tensor, lengths: Tensor | None, filters: Tensor, window: Tensor) -> Tensor:
    """Log-mel (B, T, M) of waveforms (B, S), each at unit variance over its own samples; in fp32.

    A frame is centred on a multiple of the hop: before the start and behind the end is zero, so that a frame at either
    sees the same alone and in a padded batch.
    """
    waveforms = normalise(waveforms, lengths)

    def part(first: int, end: int) -> Tensor:
        begin, stop = first * HOP_SAMPLES - WINDOW_SAMPLES // 2, (end - 1) * HOP_SAMPLES + WINDOW_SAMPLES // 2
        x = waveforms[:, max(0, begin) : stop]
        x = torch.nn.functional.pad(x, (max(0, -begin), max(0, stop - waveforms.shape[1])))
        x = torch.stft(x, WINDOW_SAMPLES, HOP_SAMPLES, window=window.float(), center=False, return_complex=True)
        power = x.real.square() + x.imag.square()  # (B, bins, T)
        return (power.transpose(1, 2) @ filters.float()).clamp(min=1e-6).log()

    return in_parts(part, waveforms.shape[1] // HOP_SAMPLES + 1, waveforms)


class MelFrontEnd(nn.Module):
    """Log-mel and convolutions over time (arXiv 2407.13377): with strides (2, 1), one frame per 20 ms.

    The waveform is normalised per utterance; 80 log-mel bins (25 ms window, 10 ms hop) are normalised per utterance
    and bin; each convolution (kernel 3) is followed by LayerNorm and GELU; a last LayerNorm. The spectrogram runs in
    fp32 and takes no gradient.
    """

    filters: Tensor
    window: Tensor

    def __init__(self, mel_bins: int, channels: int, strides: tuple[int, ...]) -> None:
        super().__init__()
        self.strides = strides
        self.hop_samples = HOP_SAMPLES
        for stride in strides:
            self.hop_samples *= stride
        filters, window = mel_tables(mel_bins)
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("window", window, persistent=False)
        widths = [mel_bins] + [channels] * len(strides)
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

    @torch.no_grad()
    def log_mel(self, waveforms: Tensor, lengths: Tensor | None) -> Tensor:
        """Normalised log-mel (B, T, M) of waveforms (B, S), in fp32."""
        with torch.autocast(waveforms.device.type, enabled=False):
            mel = log_mel(waveforms, lengths, self.filters, self.window)
            if lengths is None:
                mask = torch.ones(mel.shape[:2], dtype=torch.bool, device=mel.device)
            else:
                mask = padding_mask(lengths // HOP_SAMPLES + 1, mel.shape[1])
            return zero_padding(_standardise(mel, mask), mask)

    def forward(self, waveforms: Tensor, lengths: Tensor | None) -> Tensor:
        """(B, S) to (B, T, C)."""
        x = self.log_mel(waveforms, lengths).transpose(1, 2).to(self.norm.weight.dtype)  # (B, M, 100 frames/s)
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
