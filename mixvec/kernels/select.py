"""Where SummaryMixing's two branches run in the Triton kernels of ``kernels.py``: on GPUs, where that is faster.

The environment variable MIXVEC_FUSED decides: ``auto`` (the default), ``on`` wherever Triton runs, ``off``. The rule of
``auto`` reads the device and the shape, never a clock: a run that goes on must compute what it computed before.
"""

from __future__ import annotations

import os
import warnings
from functools import cache
from typing import Literal

import torch

ENVIRONMENT = "MIXVEC_FUSED"
CHOICES = ("auto", "on", "off")
TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.05}
"""Of the largest value; in half precision the plain path rounds more often than the kernels."""


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def usable(
    asked: bool | None, device: torch.device, dtype: torch.dtype, width: int, paths: int, act: Literal["swish", "gelu"]
) -> bool:
    """Whether to run the kernels here; at the first yes they are tried against the plain path.

    Where Triton is missing or fails, one warning names the cause, and the answer is no.

    Args:
        asked: True or False where the code has decided, None to leave it to MIXVEC_FUSED.
        dtype: what the products run in.
        width: D/H of a head. paths: 2 for f and s, 1 for s alone.

    Raises:
        UserError: MIXVEC_FUSED is none of ``CHOICES``.
    """
    said = os.environ.get(ENVIRONMENT, "auto") if asked is None else CHOICES[1 if asked else 2]
    if said not in CHOICES:
        from ..errors import UserError

        raise UserError(f"{ENVIRONMENT}={said} must be one of {', '.join(CHOICES)}")
    if said == "off" or dtype not in TOLERANCE or (said == "auto" and not _pays(device, dtype, width)):
        return False
    return _tried(device, dtype, width, paths, act)


def _pays(device: torch.device, dtype: torch.dtype, width: int) -> bool:
    """In half precision, from Ampere on, with heads that fit on chip: there the plain path is bound by memory."""
    half = dtype in (torch.bfloat16, torch.float16)
    return device.type == "cuda" and half and 16 <= width <= 128 and torch.cuda.get_device_capability(device) >= (8, 0)


@cache
def _tried(device: torch.device, dtype: torch.dtype, width: int, paths: int, act: Literal["swish", "gelu"]) -> bool:
    cards = [device] if device.type == "cuda" else []
    try:
        with (
            torch.random.fork_rng(cards),
            torch.inference_mode(False),
            torch.set_grad_enabled(True),
            torch.autocast(device.type, enabled=False),
        ):
            worst = _difference(device, dtype, width, paths, act)
        if not worst <= TOLERANCE[dtype]:
            raise ArithmeticError(f"the kernels' results differ by {worst:.3g} of the largest value")
    except Exception as error:  # a compiler, a driver or a library may raise anything
        cause = next(iter(str(error).strip().splitlines()), "")
        _warn(f"SummaryMixing runs without its Triton kernels: {type(error).__name__}: {cause}")
        return False
    return True


def _difference(
    device: torch.device, dtype: torch.dtype, width: int, paths: int, act: Literal["swish", "gelu"]
) -> float:
    """The largest difference between kernels and plain path, outputs and gradients, over the largest value of each."""
    from ..model.mixing import SummaryMixing

    mixer = SummaryMixing(2 * width, 2, lite=paths == 1, act=act).to(device, dtype)
    weights = [*mixer.first.parameters(), *mixer.second.parameters()]
    x = torch.randn(2, 150, 2 * width, device=device, dtype=dtype, requires_grad=True)
    mask = torch.arange(150, device=device) < torch.tensor([[150], [70]], device=device)
    found = []
    for branches in (mixer.plain_branches, mixer.fused_branches):
        f, mean = branches(x, mask)
        slopes = torch.autograd.grad(f.float().square().sum() + 150 * mean.square().sum(), [x, *weights])
        found.append([value.detach().float() for value in (f, mean, *slopes)])
    pairs = [pair for pair in zip(*found, strict=True) if pair[0].numel()]
    return max(float((plain - fused).abs().max() / plain.abs().max()) for plain, fused in pairs)


@cache
def _warn(line: str) -> None:
    """Once for each line."""
    warnings.warn(line, RuntimeWarning, stacklevel=2)


def compute_dtype(x: torch.Tensor) -> torch.dtype:
    """What a matrix product of ``x`` runs in, autocast considered."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype
