"""SummaryMixing's two branches on the CPU, tile by tile: f is written, of s only the sum, and nothing else is kept.

Symbols: B batch, T frames, D model width, H heads, W = D/H, P paths (f and s, or s alone), N frames of a tile.
A CPU is bound by memory here: hidden layers of a whole batch leave its caches, and fresh pages cost more than the
arithmetic. So a tile of it goes through both layers at once, and the backward pass recomputes them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..model.mixing import plain_branches

TILE_NUMBERS = 1 << 18
"""Numbers of x in a tile: with the hidden layers, as many as the second-level cache of a few cores holds."""


def branches(
    x: Tensor, mask: Tensor | None, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, gelu: bool
) -> tuple[Tensor, Tensor]:
    """``plain_branches``, faster on the CPU; elsewhere, and under torch.compile and torch.export, that itself."""
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return plain_branches(x, mask, w1, b1, w2, b2, gelu)
    with torch.autocast(x.device.type, enabled=False):
        return _Branches.apply(x, mask, w1, b1, w2, b2, gelu)  # type: ignore[no-any-return,no-untyped-call]


class _Branches(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, mask: Tensor | None, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, gelu: bool
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x, mask, w1, b1, w2, b2)
        ctx.gelu = gelu
        f = x.new_empty(x.shape if w1.shape[2] > w1.shape[1] else 0)
        sums = torch.zeros(len(x), len(w1), w1.shape[1], dtype=torch.promote_types(x.dtype, torch.float32))
        for first, tile, hidden_mask in _tiles(x, mask):
            heads = _by_head(tile, len(w1))  # (H, N, W)
            for path, (one, two) in enumerate(_paths(w1, b1, w2, b2)):
                hidden = _act(torch.baddbmm(one[1], heads, one[0]), gelu)
                out = _by_frame(_act(torch.baddbmm(two[1], hidden, two[0]), gelu), tile)  # (B, n, H, W)
                if path == 0 and f.numel():
                    f[:, first : first + tile.shape[1]].view(out.shape).copy_(out)
                    continue
                out = out if hidden_mask is None else out.masked_fill(hidden_mask, 0.0)
                sums += out.sum(1, dtype=sums.dtype)
        return f, sums.flatten(1)

    @staticmethod
    def backward(ctx: Any, df: Tensor, dsum: Tensor) -> tuple[Tensor | None, ...]:
        x, mask, *weights = ctx.saved_tensors
        slope = torch.ops.aten.gelu_backward if ctx.gelu else torch.ops.aten.silu_backward
        dx = torch.empty_like(x, memory_format=torch.contiguous_format)
        gradients = [torch.zeros_like(w, dtype=torch.promote_types(w.dtype, torch.float32)) for w in weights]
        heads = len(weights[0])
        of_sum = dsum.to(x.dtype).view(len(x), heads, 1, -1).transpose(0, 1)  # (H, B, 1, W)
        for first, tile, hidden_mask in _tiles(x, mask):
            own, some = _by_head(tile, heads), slice(first, first + tile.shape[1])
            dtile = own.new_zeros(own.shape)
            for path, ((w1, b1), (w2, b2)) in enumerate(_paths(*weights)):
                (dw1, db1), (dw2, db2) = _paths(*gradients)[path]
                before_first = torch.baddbmm(b1, own, w1)  # (H, N, W), as all below
                hidden = _act(before_first, ctx.gelu)
                before_second = torch.baddbmm(b2, hidden, w2)
                if path == 0 and df.numel():
                    dout = _by_head(df[:, some], heads)
                else:
                    dout = of_sum.expand(-1, -1, tile.shape[1], -1)
                    if hidden_mask is not None:
                        dout = dout.masked_fill(hidden_mask.view(1, len(x), -1, 1), 0.0)
                    dout = dout.reshape(before_second.shape)
                dsecond = slope(dout, before_second)
                dw2 += torch.bmm(hidden.transpose(1, 2), dsecond)
                db2 += dsecond.sum(1, keepdim=True)
                dfirst = slope(torch.bmm(dsecond, w2.transpose(1, 2)), before_first)
                dw1 += torch.bmm(own.transpose(1, 2), dfirst)
                db1 += dfirst.sum(1, keepdim=True)
                dtile.baddbmm_(dfirst, w1.transpose(1, 2))
            dx[:, some].view(*tile.shape[:2], heads, -1).copy_(_by_frame(dtile, tile))
        return dx, None, *(g.to(w.dtype) for g, w in zip(gradients, weights, strict=True)), None


def _tiles(x: Tensor, mask: Tensor | None) -> Iterator[tuple[int, Tensor, Tensor | None]]:
    """The first frame of each tile, the tile (B, n, D), and where it is padding (B, n, 1, 1)."""
    step = max(1, TILE_NUMBERS // (len(x) * x.shape[2]))
    for first in range(0, x.shape[1], step):
        own = None if mask is None else ~mask[:, first : first + step, None, None]
        yield first, x[:, first : first + step], own


def _paths(w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> list[tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]]:
    """Weight (H, W, W) and bias (H, 1, W) of both layers of each path, as views."""
    paths = len(w2) // len(w1)
    firsts = zip(w1.chunk(paths, 2), b1.chunk(paths, 2), strict=True)
    return [(first, (w2[path::paths], b2[path::paths])) for path, first in enumerate(firsts)]


def _by_head(tile: Tensor, heads: int) -> Tensor:
    """(B, n, D) to (H, N, W)."""
    return tile.reshape(-1, heads, tile.shape[2] // heads).transpose(0, 1)


def _by_frame(out: Tensor, tile: Tensor) -> Tensor:
    """(H, N, W) to (B, n, H, W)."""
    return out.view(len(out), *tile.shape[:2], -1).permute(1, 2, 0, 3)


def _act(x: Tensor, gelu: bool) -> Tensor:
    return F.gelu(x) if gelu else F.silu(x)
