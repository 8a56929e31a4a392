"""Front ends: 16 kHz waveforms to features, the targets of pretraining and the input of the encoder.

Symbols: B batch, S samples, M mel bins, C channels, T frames. Each frame is computed from its own utterance alone:
samples beyond an utterance's length are set to zero, and no normalisation runs over them. A front end that streams is
normalised by constants, so that a frame depends on ``window_samples`` samples alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .mel import HALF_WINDOW, HOP_SAMPLES, WINDOW_SAMPLES, MelTables, normalise, normalised_log_mel, spectrogram
from .mel import SAMPLE_RATE_HZ as SAMPLE_RATE_HZ
from .padding import padding_mask, zero_padding
from .tiling import in_tiles

CONV_KERNEL = 3
UNMEASURED_GAIN = 16.0
"""The gain of a front end that is normalised by constants, until they are measured: that of common speech."""

Length = TypeVar("Length", int, Tensor)


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


class FrontEnd(nn.Module):
    """What both front ends share: normalisation by constants, which a stream needs, in place of the utterance's own.

    The constants are buffers, measured once on training audio by ``measure`` and stored with the weights: the waveform
    is multiplied by ``gain``; a mel front end then subtracts ``mel_mean`` (M,) and divides by ``mel_deviation`` (M,).
    Until they are measured they are those of common speech.
    """

    hop_samples: int
    window_samples: int
    """Samples that a frame sees, from ``hop_samples`` times its number on."""
    lead_samples = 0
    """Zeros before the first sample of an utterance."""
    gain: Tensor

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.fixed = fixed
        if fixed:
            self.register_buffer("gain", torch.full((), UNMEASURED_GAIN))

    @property
    def look_ahead_samples(self) -> int:
        """Samples after its own hop that a frame sees."""
        return self.window_samples - self.hop_samples - self.lead_samples

    def scaled(self, waveforms: Tensor, lengths: Tensor | None) -> Tensor:
        """Waveforms (B, S) times ``gain`` in fp32, zero beyond ``lengths``, with the zeros of either end."""
        mask = None if lengths is None else padding_mask(lengths, waveforms.shape[1])
        waveforms = zero_padding(waveforms.float() * self.gain.float(), mask)
        return torch.nn.functional.pad(waveforms, (self.lead_samples, self.lead_samples))

    def local(self, waveforms: Tensor) -> Tensor:
        """Features (B, T, C) of scaled waveforms (B, S): frame t of samples t · hop to t · hop + window alone."""
        raise NotImplementedError

    @torch.no_grad()
    def measure(self, batches: list[tuple[Tensor, Tensor]]) -> None:
        """Set the constants from training audio.

        Args:
            batches: waveforms (B, S) and lengths (B,).

        Raises:
            ValueError: there is nothing but silence.
        """
        power = sum(float(zero_padding(x, padding_mask(n, x.shape[1])).double().square().sum()) for x, n in batches)
        if not power > 0:
            raise ValueError("normalise=fixed cannot be measured on silence")
        self.gain.fill_((sum(int(n.sum()) for _, n in batches) / power) ** 0.5)


class MelFrontEnd(FrontEnd):
    """Log-mel and convolutions over time (arXiv 2407.13377): with strides (2, 1), one frame per 20 ms.

    The waveform is normalised per utterance; 80 log-mel bins (25 ms window, 10 ms hop) are normalised per utterance
    and bin; each convolution (kernel 3) is followed by LayerNorm and GELU; a last LayerNorm. The spectrogram runs in
    fp32 and takes no gradient.
    """

    lead_samples = HALF_WINDOW
    mel_mean: Tensor
    mel_deviation: Tensor

    def __init__(self, mel_bins: int, channels: int, strides: tuple[int, ...], *, fixed: bool = False) -> None:
        super().__init__(fixed=fixed)
        if fixed:
            self.register_buffer("mel_mean", torch.full((mel_bins,), -1.0))
            self.register_buffer("mel_deviation", torch.full((mel_bins,), 4.5))
        self.strides = strides
        self.tables = MelTables(mel_bins)
        widths = [mel_bins] + [channels] * len(strides)
        span, hop = 1, 1  # of a frame, in log-mel frames: kernel 3 and strides (2, 2) give 7 and 4
        for stride in strides:
            span, hop = span + (CONV_KERNEL - 1) * hop, hop * stride
        self.mel_view = 0, hop, span
        self.hop_samples = hop * HOP_SAMPLES
        self.window_samples = WINDOW_SAMPLES + (span - 1) * HOP_SAMPLES
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
        if self.fixed:
            return self.local(self.scaled(waveforms, lengths))
        return self._convolved(normalised_log_mel(waveforms, lengths, self.tables))

    def local(self, waveforms: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast(waveforms.device.type, enabled=False):
            mel = (spectrogram(waveforms, self.tables) - self.mel_mean.float()) / self.mel_deviation.float()
        return self._convolved(mel)

    def _convolved(self, mel: Tensor) -> Tensor:
        x = mel.transpose(1, 2).to(self.norm.weight.dtype)  # (B, M, 100 frames/s)
        return convolved(self.convs, self.norm, x)

    @torch.no_grad()
    def measure(self, batches: list[tuple[Tensor, Tensor]]) -> None:
        super().measure(batches)
        rows = [(self.scaled(x, n), n // HOP_SAMPLES + 1) for x, n in batches]
        mel = torch.cat(
            [row[: int(n)] for x, ns in rows for row, n in zip(spectrogram(x, self.tables), ns, strict=True)]
        )
        self.mel_mean.copy_(mel.mean(0))
        self.mel_deviation.copy_(mel.std(0).clamp(min=0.1))


class WaveformFrontEnd(FrontEnd):
    """The seven convolutions of wav2vec 2.0 LARGE (arXiv 2006.11477): LayerNorm in each, one frame per 20 ms.

    BASE's GroupNorm normalises over time, hence over padding, and is not offered here.
    """

    KERNELS = (10, 3, 3, 3, 3, 2, 2)
    STRIDES = (5, 2, 2, 2, 2, 2, 2)

    def __init__(self, channels: int, *, fixed: bool = False) -> None:
        super().__init__(fixed=fixed)
        self.hop_samples, self.window_samples = 320, 400
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
        return self.local(self.scaled(waveforms, lengths) if self.fixed else normalise(waveforms, lengths))

    def local(self, waveforms: Tensor) -> Tensor:
        return convolved(self.convs, self.norm, waveforms.unsqueeze(1).to(self.norm.weight.dtype))  # of (B, 1, S)


def centred_view(view_samples: int, hop_samples: int) -> tuple[int, int, int]:
    """The ``mel_view`` of a front end whose frames see ``view_samples`` and start every ``hop_samples``: the log-mel
    frames of one hop around the centre.

    wav2vec 2.0: 400 and 320 samples. Frame 0 is centred on sample 200, its hop is [40, 360), and the log-mel frames
    centred in it are 1 and 2 (samples 160 and 320): (1, 2, 2).
    """
    hop = hop_samples // HOP_SAMPLES
    return -(-(view_samples - hop_samples) // (2 * HOP_SAMPLES)), hop, hop
