"""Long inputs in tiles of time, so that the wide layers of a tile exist at once and not those of an hour.

Symbols: B batch, T frames. Tiles are used only where no gradient is wanted (every tile's activations would be kept all
the same) and nothing is being compiled or exported (their number would fix the batch and the length).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

TILE_FRAMES = {"cpu": 1024, "cuda": 65_536}
"""Frames of a tile, over the batch: as many as a processor's caches hold, or as keep a GPU busy."""
MIN_TILE_FRAMES = 64
"""Minimum frames of a tile per utterance, for any batch size."""


def in_tiles(tile: Callable[[int, int | None], Tensor], frames: int, like: Tensor) -> Tensor:
    """All frames (B, T, ...), computed tile by tile or at once.

    Args:
        tile: called with the first frame and the end, gives those frames (B, end - first, ...); called with 0 and
            None, gives all of them.
        frames: T.
        like: a tensor with the batch in front, on the device of the work.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return tile(0, None)
    step = max(MIN_TILE_FRAMES, TILE_FRAMES.get(like.device.type, 1 << 30) // len(like))
    if frames <= step:
        return tile(0, None)
    made = tile(0, step)
    out = made.new_empty(len(made), frames, *made.shape[2:])
    out[:, :step] = made
    for first in range(step, frames, step):
        end = min(frames, first + step)
        out[:, first:end] = tile(first, end)
    return out


def tiled(
    layer: Callable[[Tensor, Tensor | None], Tensor], x: Tensor, mask: Tensor | None = None, reach: int = 0
) -> Tensor:
    """``layer(x, mask)``, x (B, T, D), in tiles; its frames see ``reach`` frames to each side."""

    def tile(first: int, end: int | None) -> Tensor:
        if end is None:
            return layer(x, mask)
        begin = max(0, first - reach)
        near = slice(begin, end + reach)
        made = layer(x[:, near], None if mask is None else mask[:, near])
        return made[:, first - begin : end - begin]

    return in_tiles(tile, x.shape[1], x)
