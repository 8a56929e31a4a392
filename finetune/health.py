"""The log line of a fine-tuning run: losses, gradients, waiting times and warnings."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mixvec.training.checkpoint import RunState
from mixvec.training.optim import median_norm
from mixvec.training.report import count_loud, energy_row, energy_words, tell
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
    """Gradient norm of each update; NaN where the update was skipped."""


def report(run: Run, state: RunState, window: Window, waited_s: float, frozen: bool) -> int | None:
    """Log the mean loss of the window and the run's warnings. Every rank calls this. Skipped updates are in no mean.

    Returns:
        the exit code to end with, where ``run.stop_on`` names one of the warnings.
    """
    accelerator, todo = run.accelerator, run.config.run.updates - state.update
    each = accelerator.reduce(torch.stack(window.losses), "sum")
    norms = [norm for norm in window.norms if not math.isnan(norm)]
    share = (waited_s - window.waited_s) / max(run.elapsed_s - window.started_s, 1e-9)
    row = {"update": state.update, "loss": float(each[each.isfinite()].mean()), "gradient_norm": window.norms[-1],
           "gradient_norm_median": median_norm(state), "gradient_loud_windows": count_loud(state, norms),
           "nonfinite_updates": len(window.norms) - len(norms), "encoder_frozen": frozen,
           "wait_share": float(accelerator.gather(torch.tensor([share], device=accelerator.device)).max()),
           "seconds": run.elapsed_s, "seconds_left": run.elapsed_s / state.update * todo}  # fmt: skip
    if run.config.run.max_hours is not None:
        row["session_seconds_left"] = run.config.run.max_hours * 3600 - run.session_s
    row |= energy_row(run, state)
    state.loss = row["loss"]
    line = (
        f"update {state.update}/{run.config.run.updates}  loss {row['loss']:.3f}  gradient {row['gradient_norm']:.2f}  "
        f"waiting {row['wait_share']:.0%}{'  encoder frozen' if frozen else ''}  "
        f"{energy_words(row)}{row['seconds_left']:.0f} s left"
    )
    return tell(run, row, line, diagnose(row, run.config))
