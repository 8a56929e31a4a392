"""The learning rate over a run, and the step that every loop ends with."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from mixvec import UserError

from .checkpoint import RunState
from .config import OptimConfig
from .run import Run


def learning_rate(progress: float, optim: OptimConfig) -> float:
    """Linear warm-up from zero, then linear decay to zero, at a fraction ``progress`` of the run in (0, 1]."""
    warmup = optim.warmup_fraction
    if progress < warmup:
        return optim.lr * progress / warmup
    return optim.lr * (1.0 - progress) / (1.0 - warmup) if warmup < 1 else optim.lr


def set_learning_rate(optimizer: Any, lr: float) -> None:
    """Set every group's rate to ``lr`` times the group's own ``scale`` (1 where it has none)."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("scale", 1.0)


def step(run: Run, model: nn.Module, optimizer: Any, state: RunState) -> float:
    """Clip and apply the gradient; leave it out where it is not finite, which every rank sees alike.

    Returns:
        the gradient's norm before clipping.

    Raises:
        UserError: the tenth such update in a row.
    """
    norm = float(run.accelerator.clip_grad_norm_(model.parameters(), run.config.optim.clip_norm))
    finite = math.isfinite(norm)
    if finite or run.accelerator.scaler is not None:  # with fp16 the scaler itself leaves the step out, and adapts
        optimizer.step()
    optimizer.zero_grad()
    state.skipped_updates = 0 if finite else state.skipped_updates + 1
    if not finite:
        run.say(f"update {state.update + 1}: the gradient is not finite; left out ({state.skipped_updates} in a row)")
    if state.skipped_updates >= 10:
        raise UserError(
            "ten updates in a row had a gradient that is not finite: lower optim.lr, or use run.precision=fp32"
        )
    return norm
