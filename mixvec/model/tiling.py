"""Long inputs in parts of time, so that the wide layers of a part exist and not those of an hour.

Symbols: B batch, T frames. What is computed per frame, or from a few frames around, is the same in parts. Only where
no gradient is wanted: with one, every part's activations would be kept all the same.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

PART_FRAMES = {"cpu": 1024, "cuda": 65_536}
"""Frames of a part, over the batch: what a processor's caches hold, or what keeps a GPU busy."""
LEAST_FRAMES = 64
"""Of each utterance, however many there are."""


def in_parts(part: Callable[[int, int], Tensor], frames: int, like: Tensor) -> Tensor:
    """The frames (B, T, ...) that ``part`` gives, stretch by stretch; in one where a gradient is wanted.

    Args:
        part: given the first frame and the end, those frames (B, end - first, ...).
        frames: T.
        like: a tensor with the batch in front, on the device of the work.
    """
    if torch.is_grad_enabled():
        return part(0, frames)
    step = max(LEAST_FRAMES, PART_FRAMES.get(like.device.type, 1 << 30) // len(like))
    if frames <= step:
        return part(0, frames)
    made = part(0, step)
    out = made.new_empty(len(made), frames, *made.shape[2:])
    out[:, :step] = made
    for first in range(step, frames, step):
        end = min(frames, first + step)
        out[:, first:end] = part(first, end)
    return out


def stretch(x: Tensor, first: int, end: int, reach: int) -> tuple[Tensor, slice]:
    """Frames ``first`` to ``end`` of x (B, T, ...) with up to ``reach`` more on each side; where they lie in that."""
    begin = max(0, first - reach)
    return x[:, begin : end + reach], slice(first - begin, end - begin)
