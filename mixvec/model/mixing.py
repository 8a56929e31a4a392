"""Token mixers: SummaryMixing, linear in time, and self-attention with the same signature.

Symbols: B batch, T frames, D model width, H heads, D' the width of f and s (here D' = D).
A mixer takes x (B, T, D) and a mask (B, T), True at valid frames, or None where there is no padding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import EncoderConfig
from .noise import Dropout

Branches: TypeAlias = Callable[
    [Tensor, Tensor | None, Tensor, Tensor, Tensor, Tensor, bool],
    tuple[Tensor, Tensor],
]
"""The signature of ``plain_branches``, which every faster form has as well."""


def activation(name: Literal["swish", "gelu"]) -> nn.Module:
    return nn.SiLU() if name == "swish" else nn.GELU()


class BlockLinear(nn.Module):
    """The parameters of a block-diagonal linear layer: ``blocks`` independent maps, which cut parameters and work.

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


def plain_branches(
    x: Tensor, mask: Tensor | None, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, gelu: bool
) -> tuple[Tensor, Tensor]:
    """The branches of SummaryMixing: f(x) (B, T, D), empty with one path, and the sum of s(x) over the valid frames.

    P paths: 2 for f and s, 1 for s alone. The sum (B, D) is in fp32.

    Args:
        x: (B, T, D), of one dtype with the weights.
        mask: (B, T), True at valid frames, or None.
        w1, b1: (H, W, P·W), (H, 1, P·W), where W = D/H. w2, b2: (H·P, W, W), (H·P, 1, W).
        gelu: the activation; with False it is Swish.
    """
    (batch, frames, dim), (heads, width, both) = x.shape, w1.shape
    paths, act = both // width, F.gelu if gelu else F.silu
    z = x.reshape(batch * frames, heads, width).transpose(0, 1)  # (H, B·T, W)
    z = act(torch.baddbmm(b1, z, w1))  # (H, B·T, P·W)
    z = z.view(heads, batch * frames, paths, width).transpose(1, 2).reshape(heads * paths, batch * frames, width)
    z = act(torch.baddbmm(b2, z, w2)).view(heads, paths, batch, frames, width)
    s = z[:, -1] if mask is None else z[:, -1].masked_fill(~mask[None, :, :, None], 0.0)  # (H, B, T, W)
    sums = s.sum(dim=2, dtype=torch.promote_types(x.dtype, torch.float32)).transpose(0, 1).flatten(1)  # (B, D)
    if paths == 1:
        return z.new_empty(0), sums
    return z[:, 0].permute(1, 2, 0, 3).reshape(batch, frames, dim), sums


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which a matrix product of ``x`` runs, autocast considered."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


class SummaryMixing(nn.Module):
    """SummaryMixing (arXiv 2307.07421, eq. 1 and 2; LayerNorms as in arXiv 2407.13377).

        s̄   = (1/T) Σ_t s(x_t)        over the valid frames, accumulated in fp32
        h_t = c( f(x_t), s̄ )

    f and s are two-layer MLPs D → D' → D', an activation after each linear, block-diagonal over H heads. Both run
    as one batched product per layer. c is one dense linear on the concatenation 2D' → D and an activation, dropout
    before it; it is applied as W_f f(x_t) + W_s s̄, so that the summary is never repeated over time.

    ``lite`` returns s̄ (B, 1, D') alone, to be broadcast: in a Branchformer the other branch plays f, the merge c.

    ``branches`` computes f and the sum of s; a faster function of the same signature can be set in its place.
    """

    merges_linearly = False
    """Whether a Branchformer merges its branches by a linear layer alone; with SummaryMixing by an MLP."""
    default_branches: ClassVar[Branches] = plain_branches
    """The ``branches`` of new instances."""
    allow_inplace = True
    """Reuse the output buffers of products. False under selective checkpointing, which keeps them."""

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
        self.branches: Branches = type(self).default_branches
        self.summary_norm = nn.LayerNorm(dim) if norm else nn.Identity()
        if not lite:
            self.local_norm = nn.LayerNorm(dim) if norm else nn.Identity()
            self.combine = nn.Linear(2 * dim, dim)
            self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, T, D), mask (B, T) or None, to (B, T, D); with ``lite`` to (B, 1, D)."""
        dtype = compute_dtype(x)
        weights = (self.first.weight, self.first.bias, self.second.weight, self.second.bias)
        w1, b1, w2, b2 = (weight.to(dtype) for weight in weights)
        local, sums = self.branches(x.to(dtype), mask, w1, b1, w2, b2, self.gelu)
        count = x.shape[1] if mask is None else mask.sum(dim=1, keepdim=True).clamp(min=1)
        summary: Tensor = self.summary_norm((sums / count).to(self.first.weight.dtype)).to(local.dtype)  # (B, D)
        if self.lite:
            return summary.unsqueeze(1)
        w_local, w_summary = self.combine.weight.chunk(2, dim=1)
        mixed = F.linear(self.dropout(self.local_norm(local)), w_local)  # (B, T, D)
        late = F.linear(self.dropout(summary), w_summary, self.combine.bias).unsqueeze(1)
        return self.act(mixed.add_(late) if self.allow_inplace else mixed + late)  # type: ignore[no-any-return]


class SelfAttention(nn.Module):
    """Multi-head self-attention on torch's scaled_dot_product_attention, over the valid frames only."""

    merges_linearly = True

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


def build_mixer(config: EncoderConfig) -> SummaryMixing | SelfAttention:
    """The mixer that ``config.mixer`` names."""
    if config.mixer == "attention":
        return SelfAttention(config.dim, config.heads, dropout=config.dropout)
    mixer = SummaryMixing(
        config.dim,
        config.heads,
        lite=config.mixer == "summary-lite",
        norm=config.mixer_norm,
        dropout=config.dropout,
        act=config.activation,
    )
    if config.checkpointing == "selective":
        mixer.allow_inplace, mixer.branches = False, plain_branches  # whose products are kept
    return mixer
