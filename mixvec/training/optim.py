"""The learning rate over a run, and the step that every loop ends with."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import AdamW

from ..data.batches import Loaded
from ..errors import UserError
from .checkpoint import RunState
from .config import OptimConfig
from .faults import NONFINITE, note_nonfinite
from .run import Run


def adamw(parameters: Iterable[Any], optim: OptimConfig, device: torch.device) -> AdamW:
    """AdamW over parameters or groups of them that will lie on ``device``; on a GPU as one kernel."""
    fused = True if device.type == "cuda" else None
    return AdamW(parameters, optim.lr, optim.betas, optim.eps, optim.weight_decay, fused=fused)


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


def step(
    run: Run, model: nn.Module, optimizer: Any, state: RunState, loss: Tensor, loaded: Sequence[Loaded[Any]]
) -> float:
    """Clip and apply the gradient; leave the update out where it or the loss is not finite, on all ranks alike.

    Args:
        loss: () this rank's share of the update's loss.
        loaded: this rank's micro-batches of the update, named in nonfinite.jsonl where it is left out.

    Returns:
        the gradient's norm before clipping; NaN where the update was left out.

    Raises:
        UserError: ``run.max_nonfinite`` updates in a row were left out.
    """
    accelerator = run.accelerator
    accelerator.unscale_gradients()
    parameters = [p for p in model.parameters() if p.grad is not None]
    total = get_total_norm([p.grad for p in parameters if p.grad is not None])
    if accelerator.num_processes > 1:
        loss = accelerator.reduce(loss, "sum")
    norm, loss_value = torch.stack([total.float(), loss.float()]).tolist()
    finite = math.isfinite(norm) and math.isfinite(loss_value)
    if not finite:
        note_nonfinite(run, model, state, norm, loss_value, loaded)  # before clipping spreads the NaN
    clip_grads_with_norm_(parameters, run.config.optim.clip_norm, total)
    if finite or (not math.isfinite(norm) and accelerator.scaler is not None):  # the scaler itself leaves it out
        optimizer.step()
    elif accelerator.scaler is not None:
        accelerator.scaler.update()
    optimizer.zero_grad()
    state.skipped_updates = 0 if finite else state.skipped_updates + 1
    if state.skipped_updates >= run.config.run.max_nonfinite:
        what = "gradient norm" if math.isfinite(loss_value) else "loss"
        raise UserError(
            f"{state.skipped_updates} updates in a row had a {what} that is not finite; the last at update "
            f"{state.update + 1}. Their utterances are in {run.dir / NONFINITE}. Lower optim.lr, look at that audio, "
            "or use run.precision=fp32"
        )
    if finite:
        remember(state, norm)
    return norm if finite else math.nan


def median_norm(state: RunState) -> float:
    """The running median of the gradient's norm; NaN before the first."""
    return statistics.median(state.norms) if state.norms else math.nan


def is_loud(state: RunState, norm: float) -> bool:
    """Whether ``norm`` is over ten times the running median, once that stands on ten updates."""
    return len(state.norms) >= 10 and norm > 10 * median_norm(state)


def remember(state: RunState, norm: float) -> None:
    """Take ``norm`` into the running median; a loud one stays out, unless a thousand in a row make it the new level."""
    state.loud_updates = state.loud_updates + 1 if is_loud(state, norm) else 0
    if state.loud_updates > 1000:
        state.norms, state.loud_updates = [], 0
    if not state.loud_updates:
        state.norms = [*state.norms, norm][-100:]
