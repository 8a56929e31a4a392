"""Names for what goes wrong in a pretraining, each with its evidence, its likely causes and the keys to change."""

from __future__ import annotations

from typing import Any

from mixvec.training.diagnose import exploding_gradient, schedule_too_long, starved_loader, warnings_of

from .config import PretrainConfig

MIN_BATCH_S = 600.0
SMALL_SIZES = ("tiny", "small")


def diagnose(row: dict[str, Any], config: PretrainConfig) -> dict[str, str]:
    """Warnings by name (``config.DIAGNOSES``); empty for a healthy row.

    Args:
        row: as ``health.Window.row`` and ``health.report`` make it.
    """
    found = {
        "collapsed-codebook": _codebook(row),
        "stuck-at-chance": _chance(row, config),
        "exploding-gradient": exploding_gradient(row),
        "dimensional-collapse": _dimensions(row, config),
        "starved-loader": starved_loader(row, config.data.workers),
        "schedule-too-long": schedule_too_long(row, config.run, config.optim),
        "small-batch": _batch(config),
    }
    return warnings_of(found)


def _codebook(row: dict[str, Any]) -> str | None:
    in_use = row["code_perplexity"] / row["max_perplexity"]
    if not (in_use < 0.02 or (in_use < 0.1 and row["accuracy"] > 0.9)):  # on the way down, accuracy is not near 1 yet
        return None
    return (
        f"{row['code_perplexity']:.1f} of {row['max_perplexity']} codes in use and accuracy {row['accuracy']:.2f}: the "
        "targets become alike, and the loss says nothing. Likely causes: optim.lr too high, "
        "objective.diversity_weight too low, batch.update_s too small, silent or repeated audio."
    )


def _chance(row: dict[str, Any], config: PretrainConfig) -> str | None:
    past_warmup = row["update"] > max(config.optim.warmup_fraction * config.run.updates, 0.2 * config.run.updates, 99)
    if not (past_warmup and row["contrastive_loss"] > 0.99 * row["chance_loss"]):
        return None
    return (
        f"loss {row['contrastive_loss']:.3f} against ln(K+1) = {row['chance_loss']:.3f} after warm-up. Likely causes: "
        "optim.lr too low or too high, batch.update_s too small, too few run.updates, audio that is silent or not "
        "speech."
    )


def _dimensions(row: dict[str, Any], config: PretrainConfig) -> str | None:
    """Healthy runs of widths 128 and 256 were seen at 5 in the warm-up and at 14 to 25 later, whatever the width."""
    rank, width = row.get("effective_rank"), row.get("width", 0)
    past_warmup = row["update"] > config.optim.warmup_fraction * config.run.updates
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
        "take size=small."
    )
