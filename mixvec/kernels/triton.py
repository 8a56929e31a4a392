"""SummaryMixing's two branches as Triton kernels: x is read once, both MLPs of a head run on chip, s is not written.

Symbols: B batch, T frames, D model width, H heads, W = D/H, P paths (f and s, or s alone), N = B·T.
Forward writes f and, for each block of frames, the sum of s over its valid frames in fp32. Backward recomputes the
hidden layers, writes x's gradient and the factors of the weights' gradients, which are then batched matrix products.
There are no atomics and no tuning by time, so the same input gives the same bits. ``choose_branches`` installs it.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _act(a, GELU: tl.constexpr):
    if GELU:
        return 0.5 * a * (1.0 + tl.erf(a * 0.7071067811865476))
    return a * tl.sigmoid(a)


@triton.jit
def _act_slope(a, GELU: tl.constexpr):
    if GELU:
        density = 0.3989422804014327 * tl.exp(-0.5 * a * a)
        return 0.5 * (1.0 + tl.erf(a * 0.7071067811865476)) + a * density
    gate = tl.sigmoid(a)
    return gate * (1.0 + a * (1.0 - gate))


@triton.jit
def _matrix(weight, row_stride, WIDTH: tl.constexpr, BLOCK_W: tl.constexpr):
    """A (W, W) matrix, zero beyond."""
    i = tl.arange(0, BLOCK_W)
    inside = (i < WIDTH)[:, None] & (i < WIDTH)[None, :]
    return tl.load(weight + i[:, None] * row_stride + i[None, :], mask=inside, other=0.0)


@triton.jit
def _linear(x, matrix, bias, WIDTH: tl.constexpr, BLOCK_W: tl.constexpr):
    """x (rows, W) through a linear layer, in fp32."""
    i = tl.arange(0, BLOCK_W)
    start = tl.load(bias + i, mask=i < WIDTH, other=0.0).to(tl.float32)
    return tl.dot(x, matrix, input_precision="ieee") + start[None, :]


@triton.jit(do_not_specialize=["frames"])
def _forward(
    x, mask, w1, b1, w2, b2, f, sums, frames,
    WIDTH: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_T: tl.constexpr, PATHS: tl.constexpr, GELU: tl.constexpr,
    MASKED: tl.constexpr,
):  # fmt: skip
    """One head of one block of frames of one utterance."""
    block, batch, head = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2)
    dim = tl.num_programs(2) * WIDTH
    rows, cols = block * BLOCK_T + tl.arange(0, BLOCK_T), tl.arange(0, BLOCK_W)
    real = rows < frames
    inside = real[:, None] & (cols < WIDTH)[None, :]
    start = batch * frames * dim + head * WIDTH
    place = rows[:, None] * dim + cols[None, :]
    tile = tl.load(x + start + place, mask=inside, other=0.0)
    for path in tl.static_range(PATHS):
        number = head * PATHS + path
        first = _matrix(w1 + head * PATHS * WIDTH * WIDTH + path * WIDTH, PATHS * WIDTH, WIDTH, BLOCK_W)
        hidden = _act(_linear(tile, first, b1 + number * WIDTH, WIDTH, BLOCK_W), GELU).to(tile.dtype)
        second = _matrix(w2 + number * WIDTH * WIDTH, WIDTH, WIDTH, BLOCK_W)
        out = _act(_linear(hidden, second, b2 + number * WIDTH, WIDTH, BLOCK_W), GELU)
        if path == PATHS - 1:
            if MASKED:
                real = real & (tl.load(mask + batch * frames + rows, mask=real, other=0) != 0)
            total = tl.sum(tl.where(real[:, None], out, 0.0), axis=0)
            own = (batch * tl.num_programs(0) + block) * dim + head * WIDTH
            tl.store(sums + own + cols, total, mask=cols < WIDTH)
        else:
            tl.store(f + start + place, out.to(tile.dtype), mask=inside)


@triton.jit(do_not_specialize=["frames"])
def _backward(
    x, mask, w1, b1, w2, b2, df, dsum, dx, hiddens, dfirsts, dseconds, dbias1, dbias2, frames,
    WIDTH: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_T: tl.constexpr, PATHS: tl.constexpr, GELU: tl.constexpr,
    MASKED: tl.constexpr,
):  # fmt: skip
    """The backward pass of one head of one block: x's gradient, and for each path its hidden layer and the gradients
    before both activations, whose sums over the block are the biases' gradients."""
    block, batch, head = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2)
    dim = tl.num_programs(2) * WIDTH
    rows, cols = block * BLOCK_T + tl.arange(0, BLOCK_T), tl.arange(0, BLOCK_W)
    real = rows < frames
    inside = real[:, None] & (cols < WIDTH)[None, :]
    start = batch * frames * dim + head * WIDTH
    place = rows[:, None] * dim + cols[None, :]
    every = tl.num_programs(1).to(tl.int64) * frames  # N
    part = (batch * tl.num_programs(0) + block) * dim * PATHS
    tile = tl.load(x + start + place, mask=inside, other=0.0)
    grad = tl.zeros([BLOCK_T, BLOCK_W], dtype=tl.float32)
    for path in tl.static_range(PATHS):
        number = head * PATHS + path
        w1_own, w2_own = w1 + head * PATHS * WIDTH * WIDTH + path * WIDTH, w2 + number * WIDTH * WIDTH
        before_first = _linear(
            tile, _matrix(w1_own, PATHS * WIDTH, WIDTH, BLOCK_W), b1 + number * WIDTH, WIDTH, BLOCK_W
        )
        hidden = _act(before_first, GELU).to(tile.dtype)
        own = (number * every + batch * frames) * WIDTH
        flat = rows[:, None] * WIDTH + cols[None, :]
        tl.store(hiddens + own + flat, hidden, mask=inside)
        second = _matrix(w2_own, WIDTH, WIDTH, BLOCK_W)
        slope = _act_slope(_linear(hidden, second, b2 + number * WIDTH, WIDTH, BLOCK_W), GELU)
        if path == PATHS - 1:
            if MASKED:
                real = real & (tl.load(mask + batch * frames + rows, mask=real, other=0) != 0)
            given = tl.load(dsum + batch * dim + head * WIDTH + cols, mask=cols < WIDTH, other=0.0)
            dsecond = tl.where(real[:, None], given[None, :] * slope, 0.0)
        else:
            dsecond = tl.load(df + start + place, mask=inside, other=0.0).to(tl.float32) * slope
        tl.store(dbias2 + part + number * WIDTH + cols, tl.sum(dsecond, axis=0), mask=cols < WIDTH)
        low = dsecond.to(tile.dtype)
        tl.store(dseconds + own + flat, low, mask=inside)
        dfirst = tl.dot(low, tl.trans(second), input_precision="ieee") * _act_slope(before_first, GELU)
        tl.store(dbias1 + part + number * WIDTH + cols, tl.sum(dfirst, axis=0), mask=cols < WIDTH)
        low = dfirst.to(tile.dtype)
        own = (head * every + batch * frames) * (PATHS * WIDTH) + path * WIDTH
        tl.store(dfirsts + own + rows[:, None] * (PATHS * WIDTH) + cols[None, :], low, mask=inside)
        again = _matrix(w1_own, PATHS * WIDTH, WIDTH, BLOCK_W)  # from the cache: to hold it takes registers
        grad += tl.dot(low, tl.trans(again), input_precision="ieee")
    tl.store(dx + start + place, grad.to(tile.dtype), mask=inside)


FRAMES_FORWARD, FRAMES_BACKWARD = 128, 32
"""Frames that a program takes: with these nothing spills out of the registers (ptxas for sm_80 and sm_90, W = 96)."""


def _launch(kernel: Any, frames_per_block: int, mask: Tensor | None, gelu: bool, tensors: tuple[Tensor, ...]) -> None:
    """``tensors``: x, w1, b1, w2, b2 and what the kernel writes."""
    (batch, frames, _), (heads, width, both) = tensors[0].shape, tensors[1].shape
    block_w = max(16, triton.next_power_of_2(width))
    x, *rest = (tensor.contiguous() for tensor in tensors)
    with torch.cuda.device_of(x):  # Triton launches on the current device
        kernel[triton.cdiv(frames, frames_per_block), batch, heads](
            x, x if mask is None else mask.contiguous().view(torch.uint8), *rest, frames,
            WIDTH=width, BLOCK_W=block_w, BLOCK_T=frames_per_block, PATHS=both // width, GELU=gelu,
            MASKED=mask is not None, num_warps=8 if block_w > 64 else 4,
        )  # fmt: skip


@torch.library.custom_op("mixvec::branches", mutates_args=())
def branches(
    x: Tensor, mask: Tensor | None, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, gelu: bool
) -> tuple[Tensor, Tensor]:
    """``plain_branches`` in one kernel."""
    batch, frames, dim = x.shape
    blocks = triton.cdiv(frames, FRAMES_FORWARD)
    f = torch.empty_like(x, memory_format=torch.contiguous_format) if w1.shape[2] > w1.shape[1] else x.new_empty(0)
    sums = x.new_empty(batch, blocks, dim, dtype=torch.float32)
    _launch(_forward, FRAMES_FORWARD, mask, gelu, (x, w1, b1, w2, b2, f, sums))
    return f, sums.sum(1)


@branches.register_fake
def _(
    x: Tensor, mask: Tensor | None, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, gelu: bool
) -> tuple[Tensor, Tensor]:
    f = torch.empty_like(x, memory_format=torch.contiguous_format) if w1.shape[2] > w1.shape[1] else x.new_empty(0)
    return f, x.new_empty(x.shape[0], x.shape[2], dtype=torch.float32)


@torch.library.custom_op("mixvec::branches_backward", mutates_args=())
def branches_backward(
    df: Tensor, dsum: Tensor, x: Tensor, mask: Tensor | None, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, gelu: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients by x, w1, b1, w2 and b2, from those by f and by the sum of s."""
    (batch, frames, dim), (heads, width, both) = x.shape, w1.shape
    blocks, paths = triton.cdiv(frames, FRAMES_BACKWARD), both // width
    dx = torch.empty_like(x, memory_format=torch.contiguous_format)
    hidden, dsecond = x.new_empty(2, heads * paths, batch * frames, width)
    dfirst = x.new_empty(heads, batch * frames, both)
    db1, db2 = x.new_empty(2, batch * blocks, dim * paths, dtype=torch.float32)
    _launch(
        _backward, FRAMES_BACKWARD, mask, gelu,
        (x, w1, b1, w2, b2, df, dsum, dx, hidden, dfirst, dsecond, db1, db2),
    )  # fmt: skip
    per_head = x.reshape(batch * frames, heads, width).permute(1, 2, 0)  # (H, W, N)
    dw1, dw2 = per_head @ dfirst, hidden.transpose(1, 2) @ dsecond
    return dx, dw1, db1.sum(0).view_as(b1).to(b1.dtype), dw2, db2.sum(0).view_as(b2).to(b2.dtype)


@branches_backward.register_fake
def _(
    df: Tensor, dsum: Tensor, x: Tensor, mask: Tensor | None, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, gelu: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    made = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in (x, w1, b1, w2, b2)]
    return made[0], made[1], made[2], made[3], made[4]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.gelu = inputs
    ctx.save_for_backward(*tensors)


def _gradients(ctx: Any, df: Tensor, dsum: Tensor) -> tuple[Tensor | None, ...]:
    x, mask, *weights = ctx.saved_tensors
    dx, *rest = branches_backward(df, dsum, x, mask, *weights, ctx.gelu)
    return dx, None, *rest, None


branches.register_autograd(_gradients, setup_context=_keep)
