"""The log line of a fine-tuning run, and its named warnings."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mixvec.training import report as shared
from mixvec.training.checkpoint import RunState
from mixvec.training.optim import learning_rate
from mixvec.training.report import common_row, shared_warnings, time_left, warnings_of
from mixvec.training.run import Run

from .config import FinetuneConfig
from .sections import FinetuneRun

LONG_FROZEN = 0.9
"""A share of the run after which the learning rate has almost decayed to zero."""
WORSE = 0.02
"""Two points of an error rate or an accuracy. Two standard errors count too, since most validation sets are small."""


@dataclass
class Window(shared.Window):
    """The updates since the last log line."""

    losses: list[Tensor] = field(default_factory=list)
    """This rank's share () of each update's loss."""


def report(run: Run, state: RunState, window: Window, waited_s: float, frozen: bool) -> int | None:
    """Log the mean loss of the window, and warnings; the exit code where ``run.stop_on`` names one, else None."""
    losses, updates = run.accelerator.reduce(torch.stack(window.losses), "sum"), run.config.run.updates
    row = common_row(run, state, window, waited_s) | {
        "loss": float(losses[losses.isfinite()].mean()),
        "gradient_norm": window.norms[-1] if math.isfinite(window.norms[-1]) else math.nan,
        "encoder_frozen": frozen,
        "lr": learning_rate(state.update / updates, run.config.optim),
        "seconds": run.elapsed_s,
    }
    state.loss = row["loss"]
    line = (f"update {state.update}/{updates}  loss {row['loss']:.3f}  gradient {row['gradient_norm']:.2f}  "
            f"waiting {row['wait_share']:.0%}{'  encoder frozen' if frozen else ''}  {time_left(row)}")  # fmt: skip
    found = diagnose(row, run.config)
    run.log.warn(row, line, found)
    return run.stop_for(found)


def diagnose(row: dict[str, Any], config: FinetuneConfig) -> dict[str, str]:
    """Warnings by name (``sections.DIAGNOSES``) for a row of ``report``; empty for a healthy run."""
    late = f"freeze={config.freeze:g} unfreezes it when the learning rate has almost decayed"
    frozen = "optim.encoder_lr=0" if config.optim.encoder_lr == 0.0 else late if config.freeze >= LONG_FROZEN else None
    deliberate = config.pretrained is None or config.freeze == 1.0 or config.baseline is not None
    remedy = "the encoder learns nothing. Lower freeze or raise optim.encoder_lr; freeze=1 probes it frozen."
    own = {"frozen-encoder": f"{frozen}: {remedy}" if frozen and not deliberate else None}
    return warnings_of(shared_warnings(row, config) | own)


def diagnose_score(score: float, name: str, utterances: int, state: RunState, run: FinetuneRun) -> dict[str, str]:
    """A warning where a score on ``data.valid`` has been worse than the best one for a fifth of the run and two
    evaluations, beyond chance, while the training loss falls."""
    long = state.update - state.best_update >= max(0.2 * run.updates, 2 * run.eval_every)
    if not long or state.best is None or state.loss is None or state.best_loss is None:
        return {}
    likely = min(max(state.best, 0.0), 1.0)
    error = math.sqrt(likely * (1.0 - likely) / utterances)
    if not (abs(score - state.best) > max(WORSE, 2.0 * error) and state.loss < 0.9 * state.best_loss):
        return {}
    evidence = (
        f"{name} on data.valid is {score:.3f} and was {state.best:.3f} at update {state.best_update}; the training "
        f"loss fell from {state.best_loss:.3g} to {state.loss:.3g}. Likely causes: too little labelled audio for so "
        "many run.updates, optim.encoder_lr too high, augment.time_prob or dropout too low. The best model is kept."
    )
    return warnings_of({"overfitting": evidence})
