"""Context in chunks: what a frame of a streaming model may see (arXiv 2409.07165; convolutions: arXiv 2304.09325).

Symbols: B batch, T frames, N chunks, C frames of a chunk, K numbers of a chunk. A frame sees its own chunk and
``left_chunks`` before it; a convolution sees the past and, to the right, no further than its chunk. What the chunks to
come need is kept in a *state*, a dict of tensors (B, ...): an utterance at once, or chunk by chunk, is one computation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Context:
    """What a frame may see: its own chunk and ``left_chunks`` chunks before it.

    Raises:
        ValueError: a chunk without frames, or a negative number of chunks.
    """

    chunk_frames: int
    """C, at least 1."""
    left_chunks: int | None = None
    """None: all that came before, at the same cost for SummaryMixing."""
    state: dict[str, Tensor] | None = None
    """Of a stream, what one layer keeps; None computes a whole utterance and keeps nothing."""

    def __post_init__(self) -> None:
        if self.chunk_frames < 1 or (self.left_chunks is not None and self.left_chunks < 0):
            raise ValueError(f"chunk_frames={self.chunk_frames} must be at least 1, and left_chunks={self.left_chunks} "
                             "at least 0, or None")  # fmt: skip

    def earlier(self, name: str, start: Tensor) -> Tensor:
        """What ``keep`` was given before; ``start`` in the first chunk."""
        return start if self.state is None else self.state.get(name, start)

    def keep(self, name: str, value: Tensor) -> None:
        """Keep ``value`` for the next chunk."""
        if self.state is not None:
            self.state[name] = value


def in_chunks(x: Tensor, chunk_frames: int) -> Tensor:
    """x (B, T, ...) as chunks (B, N, C, ...); zeros (False in a mask) follow the last frame."""
    short = -x.shape[1] % chunk_frames
    x = F.pad(x, (0, 0) * (x.dim() - 2) + (0, short))
    return x.reshape(len(x), -1, chunk_frames, *x.shape[2:])


def means_over_context(sums: Tensor, counts: Tensor, context: Context) -> Tensor:
    """The mean over each chunk and those before it that its frames see, (B, N, K), in fp32, by prefix sums in O(N).

    Args:
        sums: (B, N, K) over the valid frames of each chunk, in fp32. counts: (B, N) valid frames of each chunk.
        context: its state keeps ``summary``: the sum of all earlier chunks (B, 1, K + 1), or the sums of the last ones
            (B, left_chunks, K + 1), each with its count.
    """
    left = context.left_chunks
    numbers = torch.cat([sums, counts.unsqueeze(-1).to(sums.dtype)], dim=-1)  # (B, N, K + 1)
    start = numbers.new_zeros(len(numbers), 1 if left is None else left, numbers.shape[2])
    joined = torch.cat([context.earlier("summary", start), numbers], dim=1)  # (B, left + N, K + 1)
    if left is None:
        totals = joined.cumsum(dim=1)[:, 1:]
        context.keep("summary", totals[:, -1:])
    else:
        context.keep("summary", joined[:, joined.shape[1] - left :])
        totals = F.avg_pool1d(joined.transpose(1, 2), left + 1, stride=1).transpose(1, 2)  # both over left + 1
    return totals[..., :-1] / totals[..., -1:].clamp(min=1e-6)


def convolve_chunks(x: Tensor, conv: torch.nn.Conv1d, reach: int, context: Context) -> Tensor:
    """A centred depthwise convolution of kernel 2·``reach`` + 1 that sees no further to the right than its own chunk
    (arXiv 2304.09325). x is (B, T, D), zero at padding; the state keeps ``conv``, the last frames (B, reach, D).
    """
    (batch, frames, dim), size = x.shape, context.chunk_frames
    earlier = context.earlier("conv", x.new_zeros(batch, reach, dim))
    joined = torch.cat([earlier, in_chunks(x, size).flatten(1, 2)], dim=1)  # (B, reach + N·C, D)
    context.keep("conv", joined[:, joined.shape[1] - reach :])
    windows = joined.unfold(1, reach + size, size)  # (B, N, D, reach + C)
    windows = F.pad(windows.flatten(0, 1), (0, reach))  # zeros for the chunk to the right
    y = F.conv1d(windows, conv.weight, conv.bias, groups=dim)  # (B·N, D, C)
    return y.transpose(1, 2).reshape(batch, -1, dim)[:, :frames]
