"""Token mixers: SummaryMixing, linear in time, and self-attention with the same signature.

Symbols: B batch, T frames, D model width, H heads, D' the width of f and s (here D' = D).
A mixer takes x (B, T, D) and a mask (B, T), True at valid frames, or None where there is no padding; and, to stream,
a context in N chunks of C frames with the state that the chunks before left (``context.py``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import EncoderConfig
from .context import Context, in_chunks, means_over_context
from .noise import Dropout

Branches: TypeAlias = Callable[[Tensor, Tensor | None, Tensor, Tensor, Tensor, Tensor, bool], tuple[Tensor, Tensor]]
"""The signature of ``plain_branches``, which every faster form has as well."""


def activation(name: Literal["swish", "gelu"]) -> nn.Module:
    return nn.SiLU() if name == "swish" else nn.GELU()


class BlockLinear(nn.Module):
    """The parameters of a block-diagonal linear layer, uniform within ±1/√fan_in of a block."""

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


class SplitLinear(nn.Linear):
    """A linear layer whose weight is read in parts; a type of its own, which ``quantize_dynamic`` leaves as it is."""


class SummaryMixing(nn.Module):
    """SummaryMixing (arXiv 2307.07421, eq. 1 and 2; LayerNorms as in arXiv 2407.13377).

        s̄   = (1/T) Σ_t s(x_t)        over the valid frames, accumulated in fp32
        h_t = c( f(x_t), s̄ )

    f and s are two-layer MLPs D → D' → D', an activation after each linear, block-diagonal over H heads, c a dense
    linear layer on the concatenation 2D' → D and an activation, dropout before it; it is applied as W_f f(x_t) + W_s s̄,
    so that the summary is never repeated over time. ``lite`` returns s̄ (B, 1, D') alone, to be broadcast: in a
    Branchformer the other branch plays f, the merge c.
    """

    merges_linearly = False
    """Whether a Branchformer merges its branches by a linear layer alone; with SummaryMixing by an MLP."""
    default_branches: ClassVar[Branches] = plain_branches
    """The ``branches`` of new instances: the function that computes f and the sum of s."""
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
            self.combine = SplitLinear(2 * dim, dim)
            self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None, context: Context | None = None) -> Tensor:
        """x (B, T, D), mask (B, T) or None, to (B, T, D); with ``lite`` and no context to (B, 1, D).

        With ``context``, s̄ is the mean over a chunk and those before it that it sees (arXiv 2409.07165), in O(T).
        """
        device, frames = x.device.type, x.shape[1]
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype  # of products
        weights = (self.first.weight, self.first.bias, self.second.weight, self.second.bias)
        w1, b1, w2, b2 = (weight.to(dtype) for weight in weights)
        if context is None:
            local, sums = self.branches(x.to(dtype), mask, w1, b1, w2, b2, self.gelu)
            count = frames if mask is None else mask.sum(dim=1, keepdim=True).clamp(min=1)
            means = sums / count  # (B, D)
        else:
            if mask is None:
                mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
            chunks, valid = in_chunks(x.to(dtype), context.chunk_frames), in_chunks(mask, context.chunk_frames)
            parts = self.branches(chunks.flatten(0, 1), valid.flatten(0, 1), w1, b1, w2, b2, self.gelu)
            local = parts[0] if self.lite else parts[0].reshape(len(x), -1, x.shape[2])[:, :frames]  # (B, T, D)
            means = means_over_context(parts[1].view(*valid.shape[:2], -1), valid.sum(2), context)  # (B, N, D)
        summary: Tensor = self.summary_norm(means.to(self.first.weight.dtype)).to(local.dtype)  # (B, D) or (B, N, D)
        if self.lite:
            return over_frames(summary, context, frames)
        if not isinstance(self.combine, SplitLinear):  # an adapter's wrapper (PEFT), which adds to the weight's product
            late = over_frames(self.dropout(summary), context, frames).expand_as(local)
            return self.act(self.combine(torch.cat([self.dropout(self.local_norm(local)), late], -1)))
        w_local, w_summary = self.combine.weight.chunk(2, dim=1)
        mixed = F.linear(self.dropout(self.local_norm(local)), w_local)  # (B, T, D)
        late = over_frames(F.linear(self.dropout(summary), w_summary, self.combine.bias), context, frames)
        return self.act(mixed.add_(late) if self.allow_inplace else mixed + late)  # type: ignore[no-any-return]


def over_frames(summary: Tensor, context: Context | None, frames: int) -> Tensor:
    """A summary per utterance (B, D) as (B, 1, D), which broadcasts; one per chunk (B, N, D) as (B, T, D)."""
    if context is None:
        return summary.unsqueeze(1)
    return summary.repeat_interleave(context.chunk_frames, dim=1)[:, :frames]


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

    def forward(self, x: Tensor, mask: Tensor | None = None, context: Context | None = None) -> Tensor:
        """x (B, T, D), mask (B, T) or None, to (B, T, D).

        With ``context``, a frame attends to its chunk and to those before it that it sees: window by window, in
        O(T · left), or over the whole past in O(T²) where ``left_chunks`` is None, whose state grows with the stream.
        """
        batch, frames, dim = x.shape
        qkv = self.qkv(x).view(batch, frames, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, T, D/H)
        keys = None if mask is None else mask[:, None, None, :]  # (B, 1, 1, T)
        if context is not None:
            if mask is None:
                mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
            q, k, v, keys = attend_in_chunks(q, k, v, mask, context)
        mixed = F.scaled_dot_product_attention(
            q, k, v, attn_mask=keys, dropout_p=self.dropout if self.training else 0.0
        )
        if mixed.dim() == 5:
            mixed = mixed.transpose(1, 2).flatten(2, 3)[:, :, :frames]  # (B, N, H, C, D/H) to (B, H, T, D/H)
        return self.out(mixed.transpose(1, 2).reshape(batch, frames, dim))  # type: ignore[no-any-return]


def attend_in_chunks(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor, context: Context
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries, keys and values of attention in chunks, and which keys a query may see.

    Args:
        q, k, v: (B, H, T, D/H). mask: (B, T).
        context: its state keeps the frames before, ``keys`` and ``values`` (B, H, P, D/H) and ``valid`` (B, P).

    Returns:
        With limited context windows of W = (left + 1)·C keys, all with a dimension N after B: (B, N, H, C, D/H),
        twice (B, N, H, W, D/H), and (B, N, 1, C, W). With the whole past q, then (B, H, P + T, D/H) twice, and
        (B, 1, T, P + T). A query that would see nothing, which is padding, sees everything: no row is NaN.
    """
    size, left = context.chunk_frames, context.left_chunks
    past = 0 if left is None else left * size
    empty = k.new_zeros(k.shape[0], k.shape[1], past, k.shape[3])
    k = torch.cat([context.earlier("keys", empty), k], dim=2)
    v = torch.cat([context.earlier("values", empty), v], dim=2)
    valid = torch.cat([context.earlier("valid", mask.new_zeros(len(mask), past)), mask], dim=1)
    kept = 0 if left is None else k.shape[2] - past  # of whole chunks, when more follow
    for name, value in (("keys", k[:, :, kept:]), ("values", v[:, :, kept:]), ("valid", valid[:, kept:])):
        context.keep(name, value)
    if left is None:
        number = torch.arange(k.shape[2], device=k.device) // size
        seen = (number <= number[k.shape[2] - q.shape[2] :, None]) & valid[:, None, None, :]  # (B, 1, T, P + T)
    else:
        wide = past + size
        q = in_chunks(q.transpose(1, 2), size).transpose(2, 3)  # (B, N, H, C, D/H)
        k, v = (in_chunks(y.transpose(1, 2), size).flatten(1, 2).unfold(1, wide, size).transpose(3, 4) for y in (k, v))
        seen = in_chunks(valid, size).flatten(1, 2).unfold(1, wide, size)[:, :, None, None, :]  # (B, N, 1, 1, W)
    return q, k, v, seen | ~seen.any(-1, keepdim=True)


def build_mixer(config: EncoderConfig) -> SummaryMixing | SelfAttention:
    """The mixer that ``config.mixer`` names."""
    if config.mixer == "attention":
        return SelfAttention(config.dim, config.heads, dropout=config.dropout)
    lite, norm = config.mixer == "summary-lite", config.mixer_norm
    mixer = SummaryMixing(config.dim, config.heads, lite=lite, norm=norm, dropout=config.dropout, act=config.activation)
    if config.checkpointing == "selective":
        mixer.allow_inplace, mixer.branches = False, plain_branches  # whose products are kept
    return mixer
