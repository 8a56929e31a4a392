"""Token mixers: SummaryMixing, linear in time, and self-attention with the same signature.

Symbols: B batch, T frames, D model width, H heads, D' the width of f and s (here D' = D).
A mixer takes x (B, T, D) and a mask (B, T), True at real frames, or None where there is no padding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels.cpu import branches
from ..kernels.select import compute_dtype, usable


def activation(name: Literal["swish", "gelu"]) -> nn.Module:
    return nn.SiLU() if name == "swish" else nn.GELU()


class BlockLinear(nn.Module):
    """A linear layer whose matrix is block-diagonal: ``blocks`` independent maps, which cut parameters and work.

    Initialised uniformly within ±1/√fan_in of a block.
    """

    def __init__(self, blocks: int, in_dim: int, out_dim: int) -> None:
        """``in_dim`` and ``out_dim`` are the widths of one block."""
        super().__init__()
        self.weight = nn.Parameter(torch.empty(blocks, in_dim, out_dim))
        self.bias = nn.Parameter(torch.empty(blocks, 1, out_dim))
        bound = 1.0 / math.sqrt(in_dim)
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """x (blocks, N, in_dim) to (blocks, N, out_dim): one batched matrix product."""
        return torch.baddbmm(self.bias.to(x.dtype), x, self.weight.to(x.dtype))


class SummaryMixing(nn.Module):
    """SummaryMixing (arXiv 2307.07421, eq. 1 and 2; LayerNorms as in arXiv 2407.13377).

        s̄   = (1/T) Σ_t s(x_t)        over the real frames, accumulated in fp32
        h_t = c( f(x_t), s̄ )

    f and s are two-layer MLPs D → D' → D', an activation after each linear, block-diagonal over H heads. Both run
    as one batched product per layer. c is one dense linear on the concatenation 2D' → D and an activation, dropout
    before it; it is applied as W_f f(x_t) + W_s s̄, so that the summary is never repeated over time.

    ``lite`` returns s̄ (B, 1, D') alone, to be broadcast: in a Branchformer the other branch plays f, the merge c.

    On a GPU f and s run in one kernel where that is faster (``fused.py``), on a CPU never.
    """

    in_parts = True
    """Whether products may be overwritten, which they must not where they are kept (``checkpointing=selective``)."""
    fused: bool | None = None
    """Set it to use that kernel, or not to; None leaves it to the rule and to MIXVEC_FUSED."""

    def __init__(
        self,
        dim: int,
        heads: int = 8,
        *,
        lite: bool = False,
        norm: bool = True,
        dropout: float = 0.1,
        act: Literal["swish", "gelu"] = "swish",
    ) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim={dim} is not a multiple of heads={heads}")
        self.heads, self.lite = heads, lite
        self.paths = 1 if lite else 2  # s alone, or f and s
        width = dim // heads
        self.first = BlockLinear(heads, width, self.paths * width)
        self.second = BlockLinear(heads * self.paths, width, width)
        self.act, self.gelu = activation(act), act == "gelu"
        self.summary_norm = nn.LayerNorm(dim) if norm else nn.Identity()
        if not lite:
            self.local_norm = nn.LayerNorm(dim) if norm else nn.Identity()
            self.combine = nn.Linear(2 * dim, dim)
            self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, T, D), mask (B, T) or None, to (B, T, D); with ``lite`` to (B, 1, D)."""
        if self._fuses(x):
            local, mean = self.fused_branches(x, mask)
        elif x.device.type == "cpu" and self.in_parts and not torch.compiler.is_compiling():
            local, mean = self.branches_in_parts(x, mask)
        else:
            local, mean = self.plain_branches(x, mask)
        summary: Tensor = self.summary_norm(mean.to(self.first.weight.dtype)).to(local.dtype)  # (B, D)
        if self.lite:
            return summary.unsqueeze(1)
        w_local, w_summary = self.combine.weight.chunk(2, dim=1)
        mixed = F.linear(self.dropout(self.local_norm(local)), w_local)  # (B, T, D)
        late = F.linear(self.dropout(summary), w_summary, self.combine.bias).unsqueeze(1)
        return self.act(mixed.add_(late) if self.in_parts else mixed + late)  # type: ignore[no-any-return]

    def plain_branches(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """f(x) (B, T, D), empty with ``lite``, and the mean of s(x) over the real frames (B, D) in fp32."""
        batch, frames, dim = x.shape
        heads, width = self.heads, dim // self.heads
        z = x.reshape(batch * frames, heads, width).transpose(0, 1)  # (H, B·T, D/H)
        z = self.act(self.first(z))  # (H, B·T, paths·D/H)
        z = z.view(heads, -1, self.paths, width).transpose(1, 2).reshape(heads * self.paths, -1, width)
        z = self.act(self.second(z))  # (H·paths, B·T, D/H)
        z = z.view(heads, self.paths, batch, frames, width)
        mean = _mean_over_time(z[:, -1], mask)
        if self.lite:
            return z.new_empty(0), mean
        return z[:, 0].permute(1, 2, 0, 3).reshape(batch, frames, dim), mean

    def fused_branches(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """The same in one kernel on a GPU, which reads x once and never writes s(x) (``kernels.py``)."""
        from ..kernels.triton import branches as run

        return self._summed(run, x, mask)

    def branches_in_parts(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """The same on the CPU, a part of the frames at a time (``branches.py``)."""
        return self._summed(branches, x, mask)

    def _summed(
        self, run: Callable[..., tuple[Tensor, Tensor]], x: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        dtype = compute_dtype(x)
        weights = (self.first.weight, self.first.bias, self.second.weight, self.second.bias)
        local, total = run(x.to(dtype), mask, *(weight.to(dtype) for weight in weights), self.gelu)
        count = x.shape[1] if mask is None else mask.sum(dim=1, keepdim=True).clamp(min=1)
        return local, total / count

    def _fuses(self, x: Tensor) -> bool:
        if not (x.is_cuda or self.fused):
            return False
        act: Literal["swish", "gelu"] = "gelu" if self.gelu else "swish"
        return bool(usable(self.fused, x.device, compute_dtype(x), x.shape[2] // self.heads, self.paths, act))


def _mean_over_time(s: Tensor, mask: Tensor | None) -> Tensor:
    """s (H, B, T, D/H) to its mean over real frames (B, D), in fp32."""
    if mask is None:
        mean = s.mean(dim=2, dtype=torch.float32)  # (H, B, D/H)
    else:
        count = mask.sum(dim=1).clamp(min=1).view(1, -1, 1)
        mean = s.masked_fill(~mask[None, :, :, None], 0.0).sum(dim=2, dtype=torch.float32) / count
    return mean.permute(1, 0, 2).flatten(1)  # (B, D)


class SelfAttention(nn.Module):
    """Multi-head self-attention on torch's scaled_dot_product_attention, over the real frames only."""

    def __init__(self, dim: int, heads: int = 8, *, dropout: float = 0.1) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim={dim} is not a multiple of heads={heads}")
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, T, D), mask (B, T) or None, to (B, T, D)."""
        batch, frames, dim = x.shape
        qkv = self.qkv(x).view(batch, frames, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, T, D/H)
        keys = None if mask is None else mask[:, None, None, :]  # (B, 1, 1, T)
        mixed = F.scaled_dot_product_attention(
            q, k, v, attn_mask=keys, dropout_p=self.dropout if self.training else 0.0
        )
        return self.out(mixed.transpose(1, 2).reshape(batch, frames, dim))  # type: ignore[no-any-return]
