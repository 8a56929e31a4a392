"""Encoder blocks: Conformer (arXiv 2005.08100) and Branchformer (arXiv 2207.02971), around any mixer.

Symbols: B batch, T frames, D model width. A block takes x (B, T, D) and a mask (B, T), True at real frames or None,
and gives (B, T, D). Padding never reaches a real frame: it is zeroed before each convolution. With a context
(``context.py``) frames see chunks of the past, whose state is carried from one call to the next.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts, noop_context_fn

from .config import EncoderConfig
from .context import Context, convolve_chunks
from .mixing import SplitLinear, activation, build_mixer
from .noise import Dropout
from .padding import zero_padding
from .tiling import tiled


class FeedForward(nn.Sequential):
    """LayerNorm → D to ``hidden`` → activation → back to D."""

    def __init__(self, dim: int, hidden: int, dropout: float, act: Literal["swish", "gelu"]) -> None:
        super().__init__(
            nn.LayerNorm(dim),
            nn.Linear(dim, hidden),
            activation(act),
            Dropout(dropout),
            nn.Linear(hidden, dim),
            Dropout(dropout),
        )


class Depthwise(nn.Module):
    """Depthwise convolution over time, centred, the same length; padding is zeroed first."""

    def __init__(self, dim: int, kernel: int) -> None:
        super().__init__()
        self.reach = kernel // 2
        """Frames to each side that a frame sees."""
        self.conv = nn.Conv1d(dim, dim, kernel, padding=self.reach, groups=dim)

    def forward(self, x: Tensor, mask: Tensor | None, context: Context | None = None) -> Tensor:
        x = zero_padding(x, mask)
        if context is not None:
            return convolve_chunks(x, self.conv, self.reach, context)
        return self.conv(x.transpose(1, 2)).transpose(1, 2)  # type: ignore[no-any-return]


class ConvModule(nn.Module):
    """The Conformer's: LayerNorm → linear and GLU → depthwise → LayerNorm → activation → linear.

    LayerNorm is where the paper has BatchNorm, which would let padding and other utterances in.
    """

    def __init__(self, dim: int, kernel: int, dropout: float, act: Literal["swish", "gelu"]) -> None:
        super().__init__()
        self.norm_in = nn.LayerNorm(dim)
        self.gate = nn.Linear(dim, 2 * dim)
        self.depthwise = Depthwise(dim, kernel)
        self.norm = nn.LayerNorm(dim)
        self.act = activation(act)
        self.out = nn.Linear(dim, dim)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None, context: Context | None = None) -> Tensor:
        x = F.glu(self.gate(self.norm_in(x)), dim=-1)
        x = self.act(self.norm(self.depthwise(x, mask, context)))
        return self.dropout(self.out(x))  # type: ignore[no-any-return]


def remembered(
    how: Literal[False, True, "selective"],
    run: Callable[[Tensor, Tensor | None], Tensor],
    x: Tensor,
    mask: Tensor | None,
) -> Tensor:
    """``run(x, mask)``, keeping for the backward pass what ``EncoderConfig.checkpointing`` asks for."""
    if not how:
        return run(x, mask)
    contexts = _keeping_products if how == "selective" else noop_context_fn
    return checkpoint(run, x, mask, use_reentrant=False, context_fn=contexts)  # type: ignore[no-any-return]


def _keeping_products() -> Any:
    """Results of matrix products and convolutions are kept, everything between them is computed again."""
    return create_selective_checkpoint_contexts([  # type: ignore[no-untyped-call]
        torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.bmm.default,
        torch.ops.aten.baddbmm.default, torch.ops.aten.convolution.default,
    ])  # fmt: skip


class ConformerBlock(nn.Module):
    """½ FFN → mixer → convolution → ½ FFN → LayerNorm, each on a residual path."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        dim, act, self.checkpointing = config.dim, config.activation, config.checkpointing
        self.ffn_in = FeedForward(dim, config.ffn_dim, config.dropout, act)
        self.mixer_norm = nn.LayerNorm(dim)
        self.mixer = build_mixer(config)
        self.dropout = Dropout(config.dropout)
        self.conv = ConvModule(dim, config.conv_kernel, config.dropout, act)
        self.ffn_out = FeedForward(dim, config.ffn_dim, config.dropout, act)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, mask: Tensor | None, context: Context | None = None) -> Tensor:
        return remembered(self.training and self.checkpointing, partial(self._run, context=context), x, mask)

    def _run(self, x: Tensor, mask: Tensor | None, *, context: Context | None) -> Tensor:
        x = tiled(self._enter, x)
        x = x + self.dropout(self.mixer(self.mixer_norm(x), mask, context))
        if context is not None:
            return self._leave(x, mask, context)
        return tiled(self._leave, x, mask, self.conv.depthwise.reach)

    def _enter(self, x: Tensor, _: Tensor | None) -> Tensor:
        return x + 0.5 * self.ffn_in(x)  # type: ignore[no-any-return]

    def _leave(self, x: Tensor, mask: Tensor | None, context: Context | None = None) -> Tensor:
        x = x + self.conv(x, mask, context)
        return self.norm(x + 0.5 * self.ffn_out(x))  # type: ignore[no-any-return]


class ConvGating(nn.Module):
    """The Branchformer's local branch, cgMLP: linear → GELU → one half gates the other through a convolution."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.dim, config.ffn_dim)
        self.norm = nn.LayerNorm(config.ffn_dim // 2)
        self.depthwise = Depthwise(config.ffn_dim // 2, config.conv_kernel)
        self.down = nn.Linear(config.ffn_dim // 2, config.dim)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor | None, context: Context | None = None) -> Tensor:
        content, gate = F.gelu(self.up(x)).chunk(2, dim=-1)
        gate = self.depthwise(self.norm(gate), mask, context)
        return self.down(self.dropout(content * gate))  # type: ignore[no-any-return]


class BranchformerBlock(nn.Module):
    """Two branches side by side, the mixer and the convolutional gating, merged.

    With attention the merge is one linear 2D → D; with SummaryMixing it is a two-layer MLP (arXiv 2307.07421), and
    the lite summary (B, 1, D) enters it once per utterance (``merges_linearly``).
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        dim, self.checkpointing = config.dim, config.checkpointing
        self.mixer_norm = nn.LayerNorm(dim)
        self.mixer = build_mixer(config)
        self.local_norm = nn.LayerNorm(dim)
        self.local = ConvGating(config)
        self.merge = SplitLinear(2 * dim, dim)
        mlp = [activation(config.activation), nn.Linear(dim, dim), activation(config.activation)]
        self.merge_act = nn.Sequential(*([] if self.mixer.merges_linearly else mlp))
        self.dropout = Dropout(config.dropout)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, mask: Tensor | None, context: Context | None = None) -> Tensor:
        return remembered(self.training and self.checkpointing, partial(self._run, context=context), x, mask)

    def _run(self, x: Tensor, mask: Tensor | None, *, context: Context | None) -> Tensor:
        mixed = self.dropout(self.mixer(self.mixer_norm(x), mask, context))  # (B, T, D); (B, 1, D) with lite
        if context is None:
            local = tiled(self._local, x, mask, self.local.depthwise.reach)  # (B, T, D)
        else:
            local = self._local(x, mask, context)
        if isinstance(self.merge, SplitLinear):
            w_mixed, w_local = self.merge.weight.chunk(2, dim=1)
            merged = F.linear(local, w_local, self.merge.bias) + F.linear(mixed, w_mixed)
        else:  # an adapter's wrapper (PEFT)
            merged = self.merge(torch.cat([mixed.expand_as(local), local], dim=-1))
        return self.norm(x + self.dropout(self.merge_act(merged)))  # type: ignore[no-any-return]

    def _local(self, x: Tensor, mask: Tensor | None, context: Context | None = None) -> Tensor:
        return self.dropout(self.local(self.local_norm(x), mask, context))  # type: ignore[no-any-return]


def zero_gradient(module: nn.Module) -> Tensor:
    """A zero that depends on every parameter: a skipped module gets zero gradients rather than none.

    So a LayerDrop is the same for every rank, and data-parallel training never meets an unused parameter.
    """
    firsts = [p.flatten()[:1] for p in module.parameters() if p.requires_grad]
    return 0.0 * torch.cat(firsts).sum() if firsts else torch.zeros(())
