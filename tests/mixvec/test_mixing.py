"""The mixers against oracles written frame by frame from the equations, gradients included."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mixvec import SelfAttention, SummaryMixing
from mixvec.kernels import cpu
from mixvec.model.mixing import Branches, plain_branches

BATCH, FRAMES, DIM = 3, 6, 8
Module = TypeVar("Module", bound=nn.Module)
LENGTHS = (6, 1, 4)


def inputs(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """x (B, T, D) with junk beyond each length, and its mask (B, T)."""
    mask = torch.arange(FRAMES) < torch.tensor(LENGTHS).unsqueeze(1)
    x = torch.randn(BATCH, FRAMES, DIM, dtype=dtype)
    return x.masked_fill(~mask.unsqueeze(-1), 1e4), mask


def lively(module: Module) -> Module:
    """Norms and biases away from one and zero, so that none can be forgotten."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module.eval()


def summary_oracle(
    p: dict[str, Tensor], x: Tensor, length: int, heads: int, lite: bool, norm: bool, act: Callable[[Tensor], Tensor]
) -> Tensor:
    """One utterance x (T, D): h_t = c(f(x_t), s̄), s̄ the mean of s over ``length`` frames, one frame at a time."""
    width = DIM // heads

    def mlp(frame: Tensor, path: int, paths: int) -> Tensor:
        out = []
        for h in range(heads):
            piece = frame[h * width : (h + 1) * width]
            columns = slice(path * width, (path + 1) * width)
            hidden = act(piece @ p["first.weight"][h][:, columns] + p["first.bias"][h, 0, columns])
            second = h * paths + path
            out.append(act(hidden @ p["second.weight"][second] + p["second.bias"][second, 0]))
        return torch.cat(out)

    def layer_norm(v: Tensor, name: str) -> Tensor:
        if not norm:
            return v
        centred = v - v.mean()
        return centred / (centred.square().mean() + 1e-5).sqrt() * p[f"{name}.weight"] + p[f"{name}.bias"]

    total = torch.zeros(DIM, dtype=x.dtype)
    for t in range(length):
        total = total + mlp(x[t], 0 if lite else 1, 1 if lite else 2)
    summary = layer_norm(total / length, "summary_norm")
    if lite:
        return summary.unsqueeze(0)
    rows = []
    for t in range(length):
        both = torch.cat([layer_norm(mlp(x[t], 0, 2), "local_norm"), summary])
        rows.append(act(p["combine.weight"] @ both + p["combine.bias"]))
    return torch.stack(rows)


def attention_oracle(p: dict[str, Tensor], x: Tensor, length: int, heads: int) -> Tensor:
    """One utterance x (T, D): softmax(q kᵀ / √d) v over ``length`` frames, head by head."""
    width, out = DIM // heads, []
    q, k, v = (x[:length] @ p["qkv.weight"].T + p["qkv.bias"]).chunk(3, dim=1)
    for h in range(heads):
        part = slice(h * width, (h + 1) * width)
        out.append((q[:, part] @ k[:, part].T / math.sqrt(width)).softmax(-1) @ v[:, part])
    return torch.cat(out, dim=1) @ p["out.weight"].T + p["out.bias"]


def compare(module: nn.Module, oracle: Callable[[dict[str, Tensor], Tensor, int], Tensor], masked: bool) -> None:
    """A mixer's outputs and gradients are those of ``oracle``, which gets parameters in fp64, x (T, D) and a length."""
    x, mask = inputs()
    x = (x.clamp(max=30.0) if masked else torch.randn_like(x)).requires_grad_()
    p = {name: value.detach().double().requires_grad_() for name, value in module.named_parameters()}
    doubles = x.detach().double().requires_grad_()
    got = module(x, mask if masked else None)
    loss, expected_loss = torch.zeros(()), torch.zeros((), dtype=torch.float64)
    for row in range(BATCH):
        expected = oracle(p, doubles[row], LENGTHS[row] if masked else FRAMES)
        torch.testing.assert_close(got[row, : len(expected)].double(), expected, rtol=1e-4, atol=1e-5)
        weights = torch.randn(expected.shape)
        loss = loss + (got[row, : len(expected)] * weights).sum()
        expected_loss = expected_loss + (expected * weights.double()).sum()
    loss.backward()
    expected_loss.backward()
    for name, parameter in [*module.named_parameters(), ("x", x)]:
        wanted = doubles.grad if name == "x" else p[name].grad
        assert parameter.grad is not None and wanted is not None, name
        torch.testing.assert_close(parameter.grad.double(), wanted, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("lite", [False, True])
@pytest.mark.parametrize(("heads", "norm"), [(1, False), (4, True)])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("plain", [False, True])
def test_summary_mixing_equals_the_equations(
    lite: bool, heads: int, norm: bool, masked: bool, plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plainly, and in tiles of two frames, of which the last may be one."""
    monkeypatch.setattr(cpu, "TILE_NUMBERS", 2 * BATCH * DIM)
    act, function = ("gelu", F.gelu) if heads == 1 else ("swish", F.silu)
    mixer = lively(SummaryMixing(DIM, heads, lite=lite, norm=norm, act=act))  # type: ignore[arg-type]
    assert mixer.branches is cpu.branches, "what importing mixvec makes the default"
    if plain:
        mixer.branches = plain_branches
    compare(mixer, lambda p, x, length: summary_oracle(p, x, length, heads, lite, norm, function), masked)


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("masked", [False, True])
def test_self_attention_equals_the_softmax(heads: int, masked: bool) -> None:
    compare(lively(SelfAttention(DIM, heads)), lambda p, x, n: attention_oracle(p, x, n, heads), masked)


class Largest(TorchDispatchMode):
    """Records the size of the largest tensor that any operation gives."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


def test_memory_is_linear_in_time() -> None:
    """The largest tensor, backward pass included, doubles with the frames: it is as wide as x."""
    mixer = SummaryMixing(DIM, 4)
    for frames in (300, 600):
        with Largest() as largest:
            mixer(torch.randn(1, frames, DIM), torch.ones(1, frames, dtype=torch.bool)).sum().backward()
        assert largest.numel == frames * DIM


def test_heads_cut_parameters() -> None:
    sizes = [sum(p.numel() for p in SummaryMixing(64, heads, norm=False).parameters()) for heads in (1, 4)]
    combine = 128 * 64 + 64
    assert sizes == [combine + 4 * (64 * 64 + 64), combine + 4 * (64 * 64 // 4 + 64)]
    for mixer in (SummaryMixing, SelfAttention):
        with pytest.raises(ValueError, match="dim=8 is not a multiple of heads=3"):
            mixer(8, 3)


@pytest.mark.parametrize("form", [plain_branches, cpu.branches])
@pytest.mark.parametrize("with_mask", [False, True])
def test_sums_are_accumulated_in_fp32(form: Branches, with_mask: bool) -> None:
    """20 000 frames: a sum kept in bf16 has three digits, and one in fp16 leaves its range."""
    mask = torch.ones(2, 20_000, dtype=torch.bool) if with_mask else None
    for dtype, scale in ((torch.bfloat16, 1.0), (torch.float16, 10.0)):
        one = torch.eye(4).expand(1, 4, 4).to(dtype)
        zero = torch.zeros(1, 1, 4, dtype=dtype)
        x = (scale * (torch.rand(2, 20_000, 4) + 1)).to(dtype)
        _, sums = form(x, mask, one, zero, one, zero, False)
        expected = F.silu(F.silu(x)).double().sum(dim=1)
        assert sums.dtype == torch.float32
        torch.testing.assert_close(sums.double(), expected, rtol=1e-5, atol=0.0)
