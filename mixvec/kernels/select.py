"""Which form of SummaryMixing's branches a run on a GPU uses: decided by measurement, at the start of the run.

Without a call of ``choose_branches`` a GPU runs the plain path. The environment variable MIXVEC_FUSED overrides the
measurement: ``off`` never uses the Triton kernel, ``on`` uses it wherever it agrees with the plain path, however fast.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..model.mixing import Branches, SummaryMixing, plain_branches

ENVIRONMENT = "MIXVEC_FUSED"
CHOICES = ("auto", "on", "off")
TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.05}
"""Largest difference over the largest value; in half precision the plain path rounds more often than the kernel."""
REPEATS = 5


def choose_branches(encoder: nn.Module, shape: tuple[int, int], dtype: torch.dtype) -> str:
    """Install the Triton kernel or the plain path in every ``SummaryMixing`` of ``encoder``; return a line for the log.

    The kernel is installed where its results and gradients agree with the plain path's and it is faster at the shape
    of the run. A clock decides, so that a resumed run, or another rank, may choose otherwise: it then computes the same
    to rounding, and no longer to the last bit. MIXVEC_FUSED=on or off makes the choice reproducible.

    Args:
        encoder: on the device of the run.
        shape: (B, T) of a typical micro-batch.
        dtype: the dtype of matrix products, that of autocast if it is enabled.

    Returns:
        One line without a line break; empty where there is nothing to choose (no SummaryMixing, or no GPU).

    Raises:
        UserError: MIXVEC_FUSED is none of ``CHOICES``.
    """
    override = os.environ.get(ENVIRONMENT, "auto")
    if override not in CHOICES:
        raise UserError(f"{ENVIRONMENT}={override} must be one of {', '.join(CHOICES)}")
    mixers = [module for module in encoder.modules() if isinstance(module, SummaryMixing)]
    if not mixers or not (can_choose(mixers[0]) or override == "on"):
        return ""
    install(mixers, plain_branches)
    if override == "off":
        return f"SummaryMixing: plain path ({ENVIRONMENT}=off)"
    devices = [mixers[0].first.weight.device] if mixers[0].first.weight.is_cuda else []
    try:
        from .triton import branches as kernel

        with torch.random.fork_rng(devices), torch.inference_mode(False), torch.set_grad_enabled(True):
            difference = largest_difference(kernel, mixers[0], dtype)
            if not difference <= TOLERANCE.get(dtype, 0.0):
                return f"SummaryMixing: plain path, as the Triton kernel's results differ by {difference:.3g}"
            if override == "on":
                install(mixers, kernel)
                return f"SummaryMixing: Triton kernel ({ENVIRONMENT}=on)"
            own_s, plain_s = (seconds(form, mixers[0], shape, dtype) for form in (kernel, plain_branches))
    except Exception as error:  # a compiler, a driver or a library may raise anything
        cause = next(iter(str(error).strip().splitlines()), "")
        return f"SummaryMixing: plain path, as the Triton kernel cannot run: {type(error).__name__}: {cause}"
    if own_s < plain_s:
        install(mixers, kernel)
    chosen = "Triton kernel" if own_s < plain_s else "plain path"
    return (f"SummaryMixing: {chosen} (forward and backward of {shape[0]} x {shape[1]} frames: kernel "
            f"{own_s * 1e3:.3f} ms, plain path {plain_s * 1e3:.3f} ms)")  # fmt: skip


def can_choose(mixer: SummaryMixing) -> bool:
    """Whether the mixer is on a GPU, where the Triton kernel may be faster."""
    return mixer.first.weight.is_cuda


def install(mixers: list[SummaryMixing], branches: Branches) -> None:
    """Make every mixer compute its branches by ``branches``."""
    for mixer in mixers:
        mixer.branches = branches


def largest_difference(branches: Branches, mixer: SummaryMixing, dtype: torch.dtype) -> float:
    """The largest difference to the plain path, outputs and gradients, over the largest value of each tensor."""
    found = []
    run = _trial(mixer, (2, 150), dtype, lengths=[150, 70])
    for form in (plain_branches, branches):
        f, sums, gradients = run(form)
        found.append([value.detach().float() for value in (f, sums, *gradients)])
    pairs = [pair for pair in zip(*found, strict=True) if pair[0].numel()]
    return max(float((plain - other).abs().max() / plain.abs().max()) for plain, other in pairs)


def seconds(branches: Branches, mixer: SummaryMixing, shape: tuple[int, int], dtype: torch.dtype) -> float:
    """The shortest time of a forward and backward pass at ``shape``, padding included."""
    run = _trial(mixer, shape, dtype, lengths=[shape[1] - row % 2 for row in range(shape[0])])
    best = float("inf")
    for _ in range(REPEATS):
        _wait(mixer)
        began = time.perf_counter()
        run(branches)
        _wait(mixer)
        best = min(best, time.perf_counter() - began)
    return best


def _trial(
    mixer: SummaryMixing, shape: tuple[int, int], dtype: torch.dtype, lengths: list[int]
) -> Callable[[Branches], tuple[Tensor, Tensor, tuple[Tensor, ...]]]:
    """A function that runs a form of the branches on noise: f, the sum of s, and the gradients."""
    device, dim = mixer.first.weight.device, mixer.heads * mixer.first.weight.shape[1]
    named = [*mixer.first.parameters(), *mixer.second.parameters()]
    weights = [weight.detach().to(dtype).requires_grad_() for weight in named]
    x = torch.randn(*shape, dim, device=device, dtype=dtype, requires_grad=True)
    mask = torch.arange(shape[1], device=device) < torch.tensor(lengths, device=device).unsqueeze(1)

    def run(branches: Branches) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        with torch.autocast(device.type, enabled=False):
            w1, b1, w2, b2 = weights
            f, sums = branches(x, mask, w1, b1, w2, b2, mixer.gelu)
            loss = f.float().square().sum() + (sums / shape[1]).square().sum() * shape[1]
            return f, sums, torch.autograd.grad(loss, [x, *weights])

    return run


def _wait(mixer: SummaryMixing) -> None:
    if mixer.first.weight.is_cuda:
        torch.cuda.synchronize(mixer.first.weight.device)
