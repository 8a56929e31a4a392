"""Networks of others through which padding would leak: the utterances of each length are computed apart."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def by_length(compute: Callable[[Tensor], Tensor], x: Tensor, lengths: Tensor, most: int, least: int) -> Tensor:
    """``compute`` on the rows of each length apart, cropped to it; rows shorter than ``least`` are zero.

    Args:
        compute: takes (B', N', ...) and gives (B', T', ...).
        x: (B, N, ...), of which ``lengths`` (B,) count the second dimension.
        most: T, to which the results are padded with zeros.
    """
    made: dict[int, Tensor] = {}
    for length in sorted({n for n in lengths.tolist() if n >= least}):
        rows = (lengths == length).nonzero().flatten()
        for row, y in zip(rows.tolist(), compute(x[rows, :length]), strict=True):
            made[row] = torch.nn.functional.pad(y, [0, 0] * (y.dim() - 1) + [0, most - len(y)])
    if not made:
        return compute(x)[:, :most] * 0.0
    empty = torch.zeros_like(next(iter(made.values())))
    return torch.stack([made.get(row, empty) for row in range(len(lengths))])
