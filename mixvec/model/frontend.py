"""Front ends: 16 kHz waveforms to features, the targets of pretraining and the input of the encoder.

Symbols: B batch, S samples, M mel bins, C channels, T frames. Each frame is computed from its own utterance alone:
samples beyond an utterance's length are set to zero, and no normalisation runs over them. A front end that streams is
normalised by constants, so that a frame depends on ``window_samples`` samples alone.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from .mel import HALF_WINDOW, HOP_SAMPLES, WINDOW_SAMPLES, MelTables, normalise, normalised_log_mel, spectrogram
from .mel import SAMPLE_RATE_HZ as SAMPLE_RATE_HZ
from .padding import padding_mask, zero_padding
from .tiling import in_tiles

UNMEASURED_GAIN = 16.0
"""The gain of a front end that is normalised by constants, until they are measured: that of common speech."""

Length = TypeVar("Length", int, Tensor)


class ConvLayer(nn.Module):
    """Conv1d over time without padding → LayerNorm over channels → GELU."""

    def __init__(self, in_dim: int, out_dim: int, kernel: int, stride: int, *, bias: bool) -> None:
        super().__init__()
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


class FrontEnd(nn.Module):
    """What both front ends share: convolutions, and with ``fixed`` normalisation by constants, which a stream needs.

    The constants are buffers that ``measure`` sets, until then those of common speech: the waveform is multiplied by
    ``gain``; a mel front end then subtracts ``mel_mean`` and divides by ``mel_deviation`` (M,).
    """

    hop_samples: int
    window_samples: int
    """Samples that a frame sees, from ``hop_samples`` times its number on."""
    mel_view: tuple[int, int, int]
    """That of ``Encoder``."""
    lead_samples = 0
    """Zeros before the first sample of an utterance."""
    gain: Tensor

    def __init__(self, in_dim: int, channels: int, shapes: list[tuple[int, int]], *, bias: bool, fixed: bool) -> None:
        """``shapes``: kernel and stride of each convolution."""
        super().__init__()
        self.fixed, self.shapes = fixed, shapes
        if fixed:
            self.register_buffer("gain", torch.full((), UNMEASURED_GAIN))
        self.convs = nn.ModuleList(
            ConvLayer(channels if i else in_dim, channels, kernel, stride, bias=bias)
            for i, (kernel, stride) in enumerate(shapes)
        )
        self.norm = nn.LayerNorm(channels)
        self.span = self.hop = 1  # a frame sees ``span`` of the convolutions' input, the next begins ``hop`` later
        for kernel, stride in shapes:
            self.span, self.hop = self.span + (kernel - 1) * self.hop, self.hop * stride

    @property
    def look_ahead_samples(self) -> int:
        """Samples after its own hop that a frame sees."""
        return self.window_samples - self.hop_samples - self.lead_samples

    def frame_lengths(self, samples: Length) -> Length:
        """Frames that ``samples`` samples give: an int, or a tensor (B,)."""
        for kernel, stride in self.shapes:
            samples = conv_length(samples, kernel, stride)
        return samples

    def scaled(self, waveforms: Tensor, lengths: Tensor | None) -> Tensor:
        """Waveforms (B, S) times ``gain`` in fp32, zero beyond ``lengths``, with the zeros of either end."""
        mask = None if lengths is None else padding_mask(lengths, waveforms.shape[1])
        waveforms = zero_padding(waveforms.float() * self.gain.float(), mask)
        return torch.nn.functional.pad(waveforms, (self.lead_samples, self.lead_samples))

    def local(self, waveforms: Tensor) -> Tensor:
        """Features (B, T, C) of scaled waveforms (B, S): frame t of samples t · hop to t · hop + window alone."""
        raise NotImplementedError

    def convolved(self, x: Tensor) -> Tensor:
        """x (B, C, S) through the convolutions and the last LayerNorm, to (B, T, C')."""
        x, frames = x.to(self.norm.weight.dtype), x.shape[2]
        for kernel, stride in self.shapes:
            frames = conv_length(frames, kernel, stride)

        def tile(first: int, end: int | None) -> Tensor:
            y = x[:, :, first * self.hop : None if end is None else (end - 1) * self.hop + self.span]
            for layer in self.convs:
                y = layer(y)
            return self.norm(y.transpose(1, 2))  # type: ignore[no-any-return]

        return in_tiles(tile, frames, x)

    @torch.no_grad()
    def measure(self, batches: list[tuple[Tensor, Tensor]]) -> None:
        """Set the constants from training audio, waveforms (B, S) with lengths (B,).

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
        super().__init__(mel_bins, channels, [(3, stride) for stride in strides], bias=False, fixed=fixed)
        if fixed:
            self.register_buffer("mel_mean", torch.full((mel_bins,), -1.0))
            self.register_buffer("mel_deviation", torch.full((mel_bins,), 4.5))
        self.tables = MelTables(mel_bins)
        self.mel_view = 0, self.hop, self.span  # strides (2, 2): hop 4 and span 7 log-mel frames
        self.hop_samples = self.hop * HOP_SAMPLES
        self.window_samples = WINDOW_SAMPLES + (self.span - 1) * HOP_SAMPLES

    def frame_lengths(self, samples: Length) -> Length:
        """Frames that ``samples`` samples give: an int, or a tensor (B,)."""
        return super().frame_lengths(samples // HOP_SAMPLES + 1)

    def forward(self, waveforms: Tensor, lengths: Tensor | None) -> Tensor:
        """(B, S) to (B, T, C)."""
        if self.fixed:
            return self.local(self.scaled(waveforms, lengths))
        return self.convolved(normalised_log_mel(waveforms, lengths, self.tables).transpose(1, 2))

    def local(self, waveforms: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast(waveforms.device.type, enabled=False):
            mel = (spectrogram(waveforms, self.tables) - self.mel_mean.float()) / self.mel_deviation.float()
        return self.convolved(mel.transpose(1, 2))  # of (B, M, 100 frames/s)

    @torch.no_grad()
    def measure(self, batches: list[tuple[Tensor, Tensor]]) -> None:
        super().measure(batches)
        mels = [(spectrogram(self.scaled(x, n), self.tables), n // HOP_SAMPLES + 1) for x, n in batches]
        mel = torch.cat([row[: int(n)] for rows, ns in mels for row, n in zip(rows, ns, strict=True)])
        self.mel_mean.copy_(mel.mean(0))
        self.mel_deviation.copy_(mel.std(0).clamp(min=0.1))


class WaveformFrontEnd(FrontEnd):
    """The seven convolutions of wav2vec 2.0 LARGE (arXiv 2006.11477): LayerNorm in each, one frame per 20 ms.

    BASE's GroupNorm normalises over time, hence over padding, and is not offered here.
    """

    KERNELS = (10, 3, 3, 3, 3, 2, 2)
    STRIDES = (5, 2, 2, 2, 2, 2, 2)

    def __init__(self, channels: int, *, fixed: bool = False) -> None:
        shapes = list(zip(self.KERNELS, self.STRIDES, strict=True))
        super().__init__(1, channels, shapes, bias=True, fixed=fixed)
        self.hop_samples, self.window_samples = self.hop, self.span
        self.mel_view = centred_view(self.span, self.hop)

    def forward(self, waveforms: Tensor, lengths: Tensor | None) -> Tensor:
        """(B, S) to (B, T, C)."""
        return self.local(self.scaled(waveforms, lengths) if self.fixed else normalise(waveforms, lengths))

    def local(self, waveforms: Tensor) -> Tensor:
        return self.convolved(waveforms.unsqueeze(1))


def centred_view(view_samples: int, hop_samples: int) -> tuple[int, int, int]:
    """The ``mel_view`` of a front end whose frames see ``view_samples`` and start every ``hop_samples``: the log-mel
    frames of one hop around the centre.

    wav2vec 2.0: 400 and 320 samples. Frame 0 is centred on sample 200, its hop is [40, 360), and the log-mel frames
    centred in it are 1 and 2 (samples 160 and 320): (1, 2, 2).
    """
    hop = hop_samples // HOP_SAMPLES
    return -(-(view_samples - hop_samples) // (2 * HOP_SAMPLES)), hop, hop
