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
    """AdamW over parameters or groups of them that will be on ``device``; on a GPU as one kernel."""
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

    An infinite gradient under fp16's loss scaler is no fault: the scaler doubles its factor until that happens, halves
    it, and leaves the update out. It becomes one when it happens ``run.max_nonfinite`` times in a row.

    Args:
        loss: () this rank's share of the update's loss.
        loaded: this rank's micro-batches of the update, named in nonfinite.jsonl where it is left out.

    Returns:
        the gradient's norm before clipping; NaN where the update was left out, infinity where the scaler did so.

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
    backs_off = accelerator.scaler is not None and math.isfinite(loss_value) and not finite
    if not finite and not backs_off:
        note_nonfinite(run, model, state, norm, loss_value, loaded)  # before clipping spreads the NaN
    clip_grads_with_norm_(parameters, run.config.optim.clip_norm, total)
    if finite or backs_off:  # the scaler itself leaves it out
        optimizer.step()
    elif accelerator.scaler is not None:
        accelerator.scaler.update()
    optimizer.zero_grad()
    state.skipped_updates = 0 if finite else state.skipped_updates + 1
    if state.skipped_updates >= run.config.run.max_nonfinite:
        what = "gradient norm" if math.isfinite(loss_value) else "loss"
        listed = "" if backs_off else f" Their utterances are in {run.dir / NONFINITE}."
        raise UserError(
            f"{state.skipped_updates} updates in a row had a {what} that is not finite; the last at update "
            f"{state.update + 1}.{listed} Lower optim.lr, check that audio, or use run.precision=fp32"
        )
    if finite:
        remember(state, norm)
    return norm if finite else math.inf if backs_off else math.nan


def median_norm(state: RunState) -> float:
    """The running median of the gradient's norm; NaN before the first."""
    return statistics.median(state.grad_norms) if state.grad_norms else math.nan


def is_outlier(state: RunState, norm: float) -> bool:
    """Whether ``norm`` is over ten times the running median, once that is known from ten updates."""
    return len(state.grad_norms) >= 10 and norm > 10 * median_norm(state)


def remember(state: RunState, norm: float) -> None:
    """Add ``norm`` to the running median; outliers stay out, unless a thousand in a row make it the new level."""
    state.outlier_updates = state.outlier_updates + 1 if is_outlier(state, norm) else 0
    if state.outlier_updates > 1000:
        state.grad_norms, state.outlier_updates = [], 0
    if not state.outlier_updates:
        state.grad_norms = [*state.grad_norms, norm][-100:]
