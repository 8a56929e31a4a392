"""Trunks of probing heads, those of SUPERB and MP3S, and the pooling of frames to one vector per utterance.

Symbols: B batch, T frames, D the width of the frames, W the trunk's own width. BatchNorm of the papers, which sees the
whole batch and its padding, is replaced by LayerNorm over channels, and frames beyond an utterance's length are set to
zero before each convolution: an utterance gives the same alone and in a batch, and one without a frame finite numbers.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from .padding import padding_mask, zero_padding

Kind = Literal["own", "linear", "lstm", "contextnet", "xvector", "ecapa"]
FRAMEWISE = ("own", "linear")
"""Trunks in which a frame sees no other, as a stream needs."""
STATISTICS = ("xvector", "ecapa")
"""Trunks that are followed by mean and standard deviation over time; the others are followed by the mean."""


class Linear(nn.Module):
    """Each frame to W channels: SUPERB's projection before its mean over time (arXiv 2105.01051)."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(dim, width)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, D), lengths (B,) to (B, T, W)."""
        return self.project(x)  # type: ignore[no-any-return]


class Lstm(nn.Module):
    """SUPERB's for recognition: each frame to W channels, then two bidirectional LSTM layers, with dropout 0.2 between
    them; 2 W."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(dim, width)
        self.lstm = nn.LSTM(width, width, num_layers=2, bidirectional=True, dropout=0.2, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, D), lengths (B,) to (B, T, 2 W)."""
        real = lengths.clamp(min=1).cpu()  # an utterance without frames cannot be packed
        packed = pack_padded_sequence(self.project(x), real, batch_first=True, enforce_sorted=False)
        made, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=x.shape[1])
        return zero_padding(made, padding_mask(lengths, x.shape[1]))


class Tdnn(nn.Module):
    """A convolution over time that keeps the number of frames, then ReLU and LayerNorm over channels."""

    def __init__(self, dim: int, channels: int, kernel: int, dilation: int = 1, groups: int = 1) -> None:
        super().__init__()
        pad = dilation * (kernel - 1) // 2
        self.conv = nn.Conv1d(dim, channels, kernel, dilation=dilation, padding=pad, groups=groups)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """(B, T, D), real (B, T) to (B, T, channels)."""
        y = self.conv(zero_padding(x, real).transpose(1, 2)).transpose(1, 2)
        return self.norm(torch.relu(y))  # type: ignore[no-any-return]


class SqueezeExcitation(nn.Module):
    """Each channel times a weight in (0, 1) that follows from the means over the valid frames (arXiv 1709.01507)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(8, channels // 8)
        self.weigh = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """(B, T, W), real (B, T) to (B, T, W)."""
        mean = zero_padding(x, real).sum(dim=1) / real.sum(dim=1, keepdim=True).clamp(min=1)
        return x * self.weigh(mean).sigmoid().unsqueeze(1)  # type: ignore[no-any-return]


class XVector(nn.Module):
    """The frame layers of an x-vector: five convolutions that see 15 frames together; 3 W at the end."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [Tdnn(dim, width, 5), Tdnn(width, width, 3, 2), Tdnn(width, width, 3, 3), Tdnn(width, width, 1),
             Tdnn(width, 3 * width, 1)]
        )  # fmt: skip

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, D), lengths (B,) to (B, T, 3 W)."""
        real = padding_mask(lengths, x.shape[1])
        for layer in self.layers:
            x = layer(x, real)
        return x


class Res2Block(nn.Module):
    """ECAPA's block: channels in eight groups, each convolved with the result of the one before; then SE, residual."""

    GROUPS = 8

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        part = channels // self.GROUPS
        self.enter, self.leave = Tdnn(channels, channels, 1), Tdnn(channels, channels, 1)
        self.parts = nn.ModuleList(Tdnn(part, part, 3, dilation) for _ in range(self.GROUPS - 1))
        self.excite = SqueezeExcitation(channels)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """(B, T, W), real (B, T) to (B, T, W)."""
        first, *rest = self.enter(x, real).chunk(self.GROUPS, dim=-1)
        made = [first]
        for number, (part, layer) in enumerate(zip(rest, self.parts, strict=True)):
            made.append(layer(part + made[-1] if number else part, real))
        return x + self.excite(self.leave(torch.cat(made, dim=-1), real), real)  # type: ignore[no-any-return]


class Ecapa(nn.Module):
    """ECAPA-TDNN's frame layers (arXiv 2005.07143): three blocks at dilations 2, 3 and 4, their outputs joined; 3 W."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.enter = Tdnn(dim, width, 5)
        self.blocks = nn.ModuleList(Res2Block(width, dilation) for dilation in (2, 3, 4))
        self.join = nn.Linear(3 * width, 3 * width)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, D), lengths (B,) to (B, T, 3 W)."""
        real = padding_mask(lengths, x.shape[1])
        x, made = self.enter(x, real), []
        for block in self.blocks:
            x = block(x, real)
            made.append(x)
        return torch.relu(self.join(torch.cat(made, dim=-1)))


class ContextNet(nn.Module):
    """A small ContextNet (arXiv 2005.03191) without strides: depthwise-separable convolutions with SE, residual."""

    BLOCKS, KERNEL = 5, 5

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.enter = nn.Linear(dim, width)
        self.deep = nn.ModuleList(Tdnn(width, width, self.KERNEL, groups=width) for _ in range(self.BLOCKS))
        self.wide = nn.ModuleList(nn.Linear(width, width) for _ in range(self.BLOCKS))
        self.excite = nn.ModuleList(SqueezeExcitation(width) for _ in range(self.BLOCKS))

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, D), lengths (B,) to (B, T, W)."""
        real, x = padding_mask(lengths, x.shape[1]), self.enter(x)
        for deep, wide, excite in zip(self.deep, self.wide, self.excite, strict=True):
            x = x + excite(wide(deep(x, real)), real)
        return x


TRUNKS: dict[str, tuple[type[nn.Module], int, int]] = {
    "linear": (Linear, 256, 1),
    "lstm": (Lstm, 1024, 2),
    "contextnet": (ContextNet, 640, 1),
    "xvector": (XVector, 512, 3),
    "ecapa": (Ecapa, 512, 3),
}
"""Each trunk's class, W in its paper, and how many times W it gives. linear and lstm: SUPERB (arXiv 2105.01051); the
others: MP3S (arXiv 2306.00452)."""


def build_trunk(kind: Kind, dim: int, width: int | None) -> tuple[nn.Module | None, int]:
    """The trunk of a kind on frames of ``dim``, None of ``own``; and the width of what it gives.

    Raises:
        ValueError: there is no such kind, or ``width`` does not suit it.
    """
    if kind != "own" and kind not in TRUNKS:
        raise ValueError(f"head.kind={kind} is unknown; choose own or one of {', '.join(TRUNKS)}")
    if width is not None and (width < 8 or width % 8):
        raise ValueError(f"head.width={width} must be a multiple of 8")
    if kind == "own":
        return None, dim
    trunk, usual, times = TRUNKS[kind]
    return trunk(dim, width or usual), times * (width or usual)


def attention_weights(score: nn.Module, x: Tensor, lengths: Tensor) -> Tensor:
    """Softmax over the valid frames of ``score(x)`` (B, T, 1), in fp32; of an utterance without one, over the first."""
    valid = padding_mask(lengths.clamp(min=1), x.shape[1]).unsqueeze(-1)
    return score(x).float().masked_fill(~valid, -torch.inf).softmax(dim=1)  # type: ignore[no-any-return]


def mean_of(x: Tensor, lengths: Tensor) -> Tensor:
    """The mean of the valid frames: (B, T, D), lengths (B,) to (B, D) in fp32."""
    return zero_padding(x.float(), padding_mask(lengths, x.shape[1])).sum(dim=1) / lengths.clamp(min=1).unsqueeze(1)


class AttentiveStatistics(nn.Module):
    """Weighted mean and standard deviation over the valid frames (arXiv 1803.10963, equations 1 to 6).

    e_t = v · tanh(W x_t + b), α = softmax(e), μ = Σ_t α_t x_t, σ² = Σ_t α_t x_t² - μ²; to [μ, σ].
    """

    def __init__(self, dim: int, hidden: int = 128) -> None:
        super().__init__()
        self.score = nn.Sequential(nn.Linear(dim, hidden), nn.Tanh(), nn.Linear(hidden, 1, bias=False))

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, D), lengths (B,) to (B, 2 D) in fp32."""
        weights, x = attention_weights(self.score, x, lengths), x.float()  # (B, T, 1)
        mean = (weights * x).sum(dim=1)  # (B, D)
        variance = (weights * (x - mean.unsqueeze(1)).square()).sum(dim=1)
        return torch.cat([mean, variance.clamp(min=1e-8).sqrt()], dim=1)
