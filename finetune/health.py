"""The log line of a fine-tuning run: losses, gradients, waiting times and warnings."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mixvec.training.checkpoint import RunState
from mixvec.training.report import common_row, time_left
from mixvec.training.run import Run

from .diagnose import diagnose


@dataclass
class Window:
    """The updates since the last log line."""

    started_s: float = 0.0
    waited_s: float = 0.0
    """Seconds the training had waited for data when the window began."""
    losses: list[Tensor] = field(default_factory=list)
    """This rank's share () of each update's loss."""
    norms: list[float] = field(default_factory=list)
    """Gradient norms of the updates, as ``optim.step`` returns them."""


def report(run: Run, state: RunState, window: Window, waited_s: float, frozen: bool) -> int | None:
    """Log the mean loss of the window and warnings; the exit code to end with, or None.

    Returns:
        the exit code to end with, where ``run.stop_on`` names one of the warnings.
    """
    accelerator = run.accelerator
    each = accelerator.reduce(torch.stack(window.losses), "sum")
    share = (waited_s - window.waited_s) / max(run.elapsed_s - window.started_s, 1e-9)
    row = common_row(run, state, window.norms) | {
        "loss": float(each[each.isfinite()].mean()),
        "gradient_norm": window.norms[-1] if math.isfinite(window.norms[-1]) else math.nan,
        "encoder_frozen": frozen,
        "wait_share": float(accelerator.gather(torch.tensor([share], device=accelerator.device)).max()),
        "seconds": run.elapsed_s,
    }
    state.loss = row["loss"]
    line = (
        f"update {state.update}/{run.config.run.updates}  loss {row['loss']:.3f}  gradient {row['gradient_norm']:.2f}  "
        f"waiting {row['wait_share']:.0%}{'  encoder frozen' if frozen else ''}  {time_left(row)}"
    )
    found = diagnose(row, run.config)
    run.log.warn(row, line, found)
    return run.stop_for(found)
