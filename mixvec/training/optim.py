"""What every update of a run has: its learning rate, its random numbers, and the step that it ends with.

Randomness inside the network is a function of (seed, update, utterance), whatever the ranks and micro-batches.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import AdamW

from ..data.batches import Loaded
from ..errors import UserError
from ..model.context import Context
from ..model.noise import set_keys
from .checkpoint import RunState
from .config import OptimConfig
from .log import append
from .run import Run

NONFINITE = "nonfinite.jsonl"


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


def seed_update(model: Any, seed: int, update: int, keys: Tensor) -> None:
    """Seed what the next forward pass of ``model``, for utterances with these keys (B,), draws.

    Dropout is a function of each utterance's key; which layers LayerDrop skips, and the chunks in which an encoder
    learns to stream, are functions of the update. What does not know keys (dropout inside fused attention, and
    fairseq2's modules) draws from the rank's own generator.
    """
    set_keys(model, keys)
    draws = np.random.default_rng([seed, update, 8])
    for module in model.modules():
        if hasattr(module, "layer_drop_draws"):
            module.layer_drop_draws = draws.random(module.num_layers).tolist()
        if hasattr(module, "drawn_context") and module.config.streaming:
            frames_per_s = module.sample_rate_hz / module.hop_samples
            module.drawn_context = draw_context(np.random.default_rng([seed, update, 9]), frames_per_s)


def draw_context(rng: np.random.Generator, frames_per_s: float) -> Context | None:
    """Draw what the frames of an update may see; None, in four updates of ten, is everything.

    Otherwise chunks of 0.32 to 1.28 s, three in four with 2 to 32 of them in the past, the others with all of the past:
    dynamic chunk training as in arXiv 2409.07165.
    """
    sees_all, sees_past = rng.random(2)
    chunk = rng.integers(round(0.32 * frames_per_s), round(1.28 * frames_per_s), endpoint=True)
    left = rng.integers(2, 32, endpoint=True)
    return None if sees_all < 0.4 else Context(int(chunk), int(left) if sees_past < 0.75 else None)


def step(
    run: Run, model: nn.Module, optimizer: Any, state: RunState, loss: Tensor, loaded: Sequence[Loaded[Any]]
) -> float:
    """Clip and apply the gradient; leave the update out where it or the loss is not finite, on all ranks alike.

    An infinite gradient under fp16's loss scaler is no fault: the scaler doubles its factor until that happens, halves
    it, and leaves the update out. It becomes one when it happens ``run.max_nonfinite`` times in a row.

    Args:
        loss: () this rank's share of the update's loss; ``loaded`` are its micro-batches.

    Returns:
        the gradient's norm before clipping; NaN where the update was left out, infinity where the scaler did so.

    Raises:
        UserError: ``run.max_nonfinite`` updates in a row were left out.
    """
    accelerator, update = run.accelerator, state.update + 1
    accelerator.unscale_gradients()
    parameters = [p for p in model.parameters() if p.grad is not None]
    total = get_total_norm([p.grad for p in parameters if p.grad is not None])
    if accelerator.num_processes > 1:
        loss = accelerator.reduce(loss, "sum")
    norm, loss_value = torch.stack([total.float(), loss.float()]).tolist()
    quantity, value = ("gradient norm", norm) if math.isfinite(loss_value) else ("loss", loss_value)
    finite = math.isfinite(value)
    backs_off = accelerator.scaler is not None and quantity != "loss" and not finite
    state.skipped_updates = 0 if finite else state.skipped_updates + 1
    where = "" if finite or backs_off else _note(run, model, state, quantity, value, loaded)
    clip_grads_with_norm_(parameters, run.config.optim.clip_norm, total)
    if finite or backs_off:  # the scaler itself leaves it out
        optimizer.step()
    elif accelerator.scaler is not None:
        accelerator.scaler.update()
    optimizer.zero_grad()
    if state.skipped_updates >= run.config.run.max_nonfinite:
        raise UserError(
            f"{state.skipped_updates} updates in a row had a {quantity} that is not finite; the last at update "
            f"{update}.{where} Lower optim.lr, check that audio, or use run.precision=fp32"
        )
    if finite:
        remember(state, norm)
    return norm if finite else math.inf if backs_off else math.nan


def _note(
    run: Run, model: nn.Module, state: RunState, quantity: str, value: float, loaded: Sequence[Loaded[Any]]
) -> str:
    """Append to nonfinite.jsonl what was not finite, the first parameter with such a gradient, and the utterances,
    before clipping spreads a NaN; a sentence on where they are."""
    sources: list[str] = gather_object([source for part in loaded for source in part.sources])
    named = run.accelerator.unwrap_model(model).named_parameters()
    bad = next((n for n, p in named if p.grad is not None and not p.grad.isfinite().all()), None)
    row = {"update": state.update + 1, "quantity": quantity, "value": str(value), "parameter": bad, "sources": sources}
    if run.accelerator.is_main_process:
        append(run.dir / NONFINITE, row)
    run.log.print(
        f"update {row['update']}: the {quantity} is {value}; left out ({state.skipped_updates} in a row; its "
        f"{len(sources)} utterances are in {run.dir / NONFINITE})"
    )
    return f" Their utterances are in {run.dir / NONFINITE}."


def median_norm(state: RunState) -> float:
    """The running median of the gradient's norm; NaN before the first."""
    return statistics.median(state.grad_norms) if state.grad_norms else math.nan


def is_outlier(state: RunState, norm: float) -> bool:
    """Whether ``norm`` is over ten times the running median, once that is known from ten updates."""
    return len(state.grad_norms) >= 10 and norm > 10 * median_norm(state)


def remember(state: RunState, norm: float) -> None:
    """Add ``norm`` to the running median; outliers are left out, unless a thousand in a row make it the new level."""
    state.outlier_updates = state.outlier_updates + 1 if is_outlier(state, norm) else 0
    if state.outlier_updates > 1000:
        state.grad_norms, state.outlier_updates = [], 0
    if not state.outlier_updates:
        state.grad_norms = [*state.grad_norms, norm][-100:]
