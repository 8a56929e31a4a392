"""Convolutions over time for probing heads: an x-vector's, ECAPA-TDNN's and a ContextNet's.

Symbols: B batch, T frames, D model width, C channels. Frames beyond an utterance's length are set to zero before each
convolution, as if they were the zeros at the edges.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .padding import padding_mask, zero_padding


class Tdnn(nn.Module):
    """A convolution over time that keeps the number of frames, then ReLU and LayerNorm over channels."""

    def __init__(self, dim: int, channels: int, kernel: int, dilation: int = 1, groups: int = 1) -> None:
        super().__init__()
        pad = dilation * (kernel - 1) // 2
        self.conv = nn.Conv1d(dim, channels, kernel, dilation=dilation, padding=pad, groups=groups)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """(B, T, D), real (B, T) to (B, T, C)."""
        y = self.conv(zero_padding(x, real).transpose(1, 2)).transpose(1, 2)
        return self.norm(torch.relu(y))  # type: ignore[no-any-return]


class SqueezeExcitation(nn.Module):
    """Each channel times a weight in (0, 1) that follows from the means over the valid frames (arXiv 1709.01507)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weigh = nn.Sequential(
            nn.Linear(channels, max(8, channels // 8)), nn.ReLU(), nn.Linear(max(8, channels // 8), channels)
        )

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """(B, T, C), real (B, T) to (B, T, C)."""
        mean = zero_padding(x, real).sum(dim=1) / real.sum(dim=1, keepdim=True).clamp(min=1)
        return x * self.weigh(mean).sigmoid().unsqueeze(1)  # type: ignore[no-any-return]


class XVector(nn.Module):
    """The frame layers of an x-vector: five convolutions that see 15 frames together; C, and 3 C at the end."""

    def __init__(self, dim: int, channels: int) -> None:
        super().__init__()
        self.width = 3 * channels
        self.layers = nn.ModuleList(
            [Tdnn(dim, channels, 5), Tdnn(channels, channels, 3, 2), Tdnn(channels, channels, 3, 3),
             Tdnn(channels, channels, 1), Tdnn(channels, self.width, 1)]
        )  # fmt: skip

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, D), lengths (B,) to (B, T, 3 C)."""
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
        """(B, T, C), real (B, T) to (B, T, C)."""
        first, *rest = self.enter(x, real).chunk(self.GROUPS, dim=-1)
        made = [first]
        for number, (part, layer) in enumerate(zip(rest, self.parts, strict=True)):
            made.append(layer(part + made[-1] if number else part, real))
        return x + self.excite(self.leave(torch.cat(made, dim=-1), real), real)  # type: ignore[no-any-return]


class Ecapa(nn.Module):
    """ECAPA-TDNN's frame layers (arXiv 2005.07143): three blocks at dilations 2, 3 and 4, their outputs joined; 3 C."""

    def __init__(self, dim: int, channels: int) -> None:
        super().__init__()
        self.width = 3 * channels
        self.enter = Tdnn(dim, channels, 5)
        self.blocks = nn.ModuleList(Res2Block(channels, dilation) for dilation in (2, 3, 4))
        self.join = nn.Linear(3 * channels, self.width)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, D), lengths (B,) to (B, T, 3 C)."""
        real = padding_mask(lengths, x.shape[1])
        x, made = self.enter(x, real), []
        for block in self.blocks:
            x = block(x, real)
            made.append(x)
        return torch.relu(self.join(torch.cat(made, dim=-1)))


class ContextNet(nn.Module):
    """A small ContextNet (arXiv 2005.03191) without strides: depthwise-separable convolutions with SE, residual."""

    BLOCKS, KERNEL = 5, 5

    def __init__(self, dim: int, channels: int) -> None:
        super().__init__()
        self.width = channels
        self.enter = nn.Linear(dim, channels)
        self.deep = nn.ModuleList(Tdnn(channels, channels, self.KERNEL, groups=channels) for _ in range(self.BLOCKS))
        self.wide = nn.ModuleList(nn.Linear(channels, channels) for _ in range(self.BLOCKS))
        self.excite = nn.ModuleList(SqueezeExcitation(channels) for _ in range(self.BLOCKS))

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, D), lengths (B,) to (B, T, C)."""
        real, x = padding_mask(lengths, x.shape[1]), self.enter(x)
        for deep, wide, excite in zip(self.deep, self.wide, self.excite, strict=True):
            x = x + excite(wide(deep(x, real)), real)
        return x
