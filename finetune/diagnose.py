"""Named warnings of a fine-tuning run: those shared with pretraining (``mixvec.training.diagnose``), and its own."""

from __future__ import annotations

import math
from typing import Any

from mixvec.training.checkpoint import RunState
from mixvec.training.diagnose import exploding_gradient, schedule_too_long, starved_loader, warnings_of

from .config import FinetuneConfig
from .sections import FinetuneRun

LONG_FROZEN = 0.9
"""A share of the run after which the learning rate has almost decayed to zero."""
WORSE = 0.02
"""Two points of an error rate or an accuracy. Two standard errors count too, since most validation sets are small."""


def diagnose(row: dict[str, Any], config: FinetuneConfig) -> dict[str, str]:
    """Warnings by name (``sections.DIAGNOSES``) for a row of ``health.report``; empty for a healthy run."""
    return warnings_of(
        {
            "exploding-gradient": exploding_gradient(row),
            "starved-loader": starved_loader(row, config.data.workers),
            "schedule-too-long": schedule_too_long(row, config.run, config.optim),
            "frozen-encoder": _frozen(config),
        }
    )


def diagnose_score(score: float, name: str, utterances: int, state: RunState, run: FinetuneRun) -> dict[str, str]:
    """Warnings by name for a score on ``data.valid``, compared with the best one in ``state``."""
    return warnings_of({"overfitting": _overfitting(score, name, utterances, state, run)})


def _frozen(config: FinetuneConfig) -> str | None:
    """An encoder that never learns; ``freeze=1`` is deliberate."""
    if config.pretrained is None or config.freeze == 1.0 or config.baseline is not None:
        return None
    if config.optim.encoder_lr == 0.0:
        evidence = "optim.encoder_lr=0"
    elif config.freeze >= LONG_FROZEN:
        evidence = f"freeze={config.freeze:g} unfreezes it when the learning rate has almost decayed"
    else:
        return None
    return f"{evidence}: the encoder learns nothing. Lower freeze or raise optim.encoder_lr; freeze=1 probes it frozen."


def _overfitting(score: float, name: str, utterances: int, state: RunState, run: FinetuneRun) -> str | None:
    """A score worse than the best for a fifth of the run and two evaluations, beyond chance, while the loss falls."""
    long = state.update - state.best_update >= max(0.2 * run.updates, 2 * run.eval_every)
    if not long or state.best is None or state.loss is None or state.best_loss is None:
        return None
    likely = min(max(state.best, 0.0), 1.0)
    error = math.sqrt(likely * (1.0 - likely) / utterances)
    if not (abs(score - state.best) > max(WORSE, 2.0 * error) and state.loss < 0.9 * state.best_loss):
        return None
    return (
        f"{name} on data.valid is {score:.3f} and was {state.best:.3f} at update {state.best_update}; the training "
        f"loss fell from {state.best_loss:.3g} to {state.loss:.3g}. Likely causes: too little labelled audio for so "
        "many run.updates, optim.encoder_lr too high, augment.time_prob or dropout too low. The best model is kept."
    )
