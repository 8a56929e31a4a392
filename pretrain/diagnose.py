"""Names for what goes wrong in a pretraining, each with its evidence, its likely causes and the keys to change."""

from __future__ import annotations

from typing import Any

from mixvec.training.diagnose import exploding_gradient, schedule_too_long, starved_loader, warnings_of

from .config import PretrainConfig
from .objectives import Objective

MIN_BATCH_S = 600.0
SMALL_SIZES = ("tiny", "small")


def diagnose(row: dict[str, Any], config: PretrainConfig, objective: Objective) -> dict[str, str]:
    """Warnings by name (``config.DIAGNOSES``); empty for a healthy row.

    Args:
        row: as ``report.report`` makes it.
    """
    warmup = config.optim.warmup_fraction * config.run.updates
    well_past = row["update"] > max(warmup, 0.2 * config.run.updates, 99)
    found = {
        **objective.diagnose(row, past_warmup=well_past),
        "exploding-gradient": exploding_gradient(row),
        "dimensional-collapse": _dimensions(row, past_warmup=row["update"] > warmup),
        "starved-loader": starved_loader(row, config.data.workers),
        "schedule-too-long": schedule_too_long(row, config.run, config.optim),
        "small-batch": _batch(config),
    }
    return warnings_of(found)


def _dimensions(row: dict[str, Any], *, past_warmup: bool) -> str | None:
    """Healthy runs of widths 128 and 256 had 5 in the warm-up and 14 to 25 later, whatever the width."""
    rank, width = row.get("effective_rank"), row.get("width", 0)
    if rank is None or not rank < (max(1.5, 0.01 * width) if past_warmup else 1.5):
        return None
    return (
        f"the encoder's frames vary in about {rank:.1f} of {width} dimensions: they become alike. Likely causes: "
        "optim.lr too high, optim.weight_decay too high, objective.diversity_weight too low, audio without variety."
    )


def _batch(config: PretrainConfig) -> str | None:
    if config.size in SMALL_SIZES or config.batch.update_s >= MIN_BATCH_S:
        return None
    return (
        f"batch.update_s={config.batch.update_s:g} is under ten minutes of audio, and size={config.size} has learnt "
        "well with 1.5 h and more. Raise batch.update_s: it costs time, not memory (batch.max_s bounds that), or "
        "use size=small."
    )
