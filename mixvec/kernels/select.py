"""Which form of SummaryMixing's branches a run on a GPU uses: decided by measurement, at the start of the run.

Without a call of ``choose_branches`` a GPU runs the plain path. The environment variable MIXVEC_FUSED overrides the
measurement: ``off`` never uses the Triton kernel, ``on`` uses it wherever it agrees with the plain path, however fast.
"""

from __future__ import annotations

import os
import time

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..model.mixing import Branches, SummaryMixing, plain_branches

ENVIRONMENT = "MIXVEC_FUSED"
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
        UserError: MIXVEC_FUSED is neither auto, on nor off.
    """
    override = os.environ.get(ENVIRONMENT, "auto")
    if override not in ("auto", "on", "off"):
        raise UserError(f"{ENVIRONMENT}={override} must be one of auto, on, off")
    mixers = [module for module in encoder.modules() if isinstance(module, SummaryMixing)]
    if not mixers or not (can_choose(mixers[0]) or override == "on"):
        return ""
    chosen: Branches = plain_branches
    reason = f" ({ENVIRONMENT}=off)"
    if override != "off":
        devices = [mixers[0].first.weight.device] if mixers[0].first.weight.is_cuda else []
        try:
            with torch.random.fork_rng(devices), torch.inference_mode(False), torch.set_grad_enabled(True):
                chosen, reason = _measured(mixers[0], shape, dtype, override)
        except Exception as error:  # a compiler, a driver or a library may raise anything
            cause = next(iter(str(error).strip().splitlines()), "")
            reason = f", as the Triton kernel cannot run: {type(error).__name__}: {cause}"
    for mixer in mixers:
        mixer.branches = chosen
    return f"SummaryMixing: {'plain path' if chosen is plain_branches else 'Triton kernel'}{reason}"


def _measured(mixer: SummaryMixing, shape: tuple[int, int], dtype: torch.dtype, override: str) -> tuple[Branches, str]:
    """The form to use, and why."""
    from .triton import branches as kernel

    difference = largest_difference(kernel, mixer, dtype)
    if not difference <= TOLERANCE.get(dtype, 0.0):
        return plain_branches, f", as the Triton kernel's results differ by {difference:.3g}"
    if override == "on":
        return kernel, f" ({ENVIRONMENT}=on)"
    own_s, plain_s = (seconds(form, mixer, shape, dtype) for form in (kernel, plain_branches))
    reason = (f" (forward and backward of {shape[0]} x {shape[1]} frames: kernel {own_s * 1e3:.3f} ms, plain path "
              f"{plain_s * 1e3:.3f} ms)")  # fmt: skip
    return kernel if own_s < plain_s else plain_branches, reason


def can_choose(mixer: SummaryMixing) -> bool:
    """Whether the mixer is on a GPU, where the Triton kernel may be faster."""
    return mixer.first.weight.is_cuda


def largest_difference(branches: Branches, mixer: SummaryMixing, dtype: torch.dtype) -> float:
    """The largest difference to the plain path, outputs and gradients, over the largest value of each tensor."""
    given = _given(mixer, (2, 150), dtype, 70)
    pairs = zip(_run(plain_branches, mixer, *given), _run(branches, mixer, *given), strict=True)
    found = [(one.detach().float(), other.detach().float()) for one, other in pairs if one.numel()]
    return max(float((one - other).abs().max() / one.abs().max()) for one, other in found)


def seconds(branches: Branches, mixer: SummaryMixing, shape: tuple[int, int], dtype: torch.dtype) -> float:
    """The shortest time of a forward and backward pass at ``shape``, padding included."""
    given, times = _given(mixer, shape, dtype, shape[1] - 1), []
    for _ in range(REPEATS):
        _wait(mixer)
        began = time.perf_counter()
        _run(branches, mixer, *given)
        _wait(mixer)
        times.append(time.perf_counter() - began)
    return min(times)


def _wait(mixer: SummaryMixing) -> None:
    if mixer.first.weight.is_cuda:
        torch.cuda.synchronize(mixer.first.weight.device)


def _given(
    mixer: SummaryMixing, shape: tuple[int, int], dtype: torch.dtype, shortest: int
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Noise (B, T, D), a mask in which every second row has ``shortest`` frames, and the weights of a trial."""
    device, dim = mixer.first.weight.device, mixer.heads * mixer.first.weight.shape[1]
    weights = [w.detach().to(dtype).requires_grad_() for w in (*mixer.first.parameters(), *mixer.second.parameters())]
    x = torch.randn(*shape, dim, device=device, dtype=dtype, requires_grad=True)
    mask = torch.ones(shape, dtype=torch.bool, device=device)
    mask[1::2, shortest:] = False
    return x, mask, weights


def _run(branches: Branches, mixer: SummaryMixing, x: Tensor, mask: Tensor, weights: list[Tensor]) -> list[Tensor]:
    """f, the sum of s, and the gradients of a loss."""
    w1, b1, w2, b2 = weights
    with torch.autocast(x.device.type, enabled=False):
        f, sums = branches(x, mask, w1, b1, w2, b2, mixer.gelu)
        loss = f.float().square().sum() + (sums / x.shape[1]).square().sum() * x.shape[1]
        return [f, sums, *torch.autograd.grad(loss, [x, *weights])]
