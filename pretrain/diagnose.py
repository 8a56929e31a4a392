"""Names for what goes wrong in a pretraining, each with its evidence, its likely causes and the keys to change."""

from __future__ import annotations

from typing import Any

from .config import OptimConfig, PretrainConfig, RunConfig

TOLD_ONCE = {"schedule-too-long", "small-batch", "frozen-encoder", "overfitting"}
"""Said once a session."""
LOUD_WINDOWS = 3
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


def warnings_of(found: dict[str, str | None]) -> dict[str, str]:
    """The warning for each name that something was found for."""
    return {name: f"WARNING {name}: {line}" for name, line in found.items() if line}


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


def exploding_gradient(row: dict[str, Any]) -> str | None:
    loud, skipped = row.get("gradient_loud_windows", 0), row.get("nonfinite_updates", 0)
    if loud < LOUD_WINDOWS and not skipped:
        return None
    evidence = []
    if loud >= LOUD_WINDOWS:
        evidence.append(f"its norm was over 10 times its running median, {row['gradient_norm_median']:.2g}, for {loud} "
                        "log lines in a row")  # fmt: skip
    if skipped:
        evidence.append(f"{skipped} updates since the last line were not finite and left out (see nonfinite.jsonl)")
    return (
        f"{'; '.join(evidence)}. Likely causes: optim.lr too high or optim.warmup_fraction too small, "
        "optim.clip_norm too large, run.precision=fp16 (take bf16 or fp32), broken audio."
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


def starved_loader(row: dict[str, Any], workers: int) -> str | None:
    share = row.get("wait_share", 0.0)
    if not share > 0.3:
        return None
    return (
        f"{share:.0%} of the time goes into waiting for audio. Likely causes: data.workers too few (now "
        f"{workers} for each rank), a slow disk or network, long MP3 files, in which "
        "seeking takes its time, compressed audio on a slow processor."
    )


def schedule_too_long(row: dict[str, Any], run: RunConfig, optim: OptimConfig) -> str | None:
    hours, left_s, todo = run.max_hours, row.get("seconds_left", 0.0), run.updates - row["update"]
    if hours is None or todo <= 0:
        return None
    reach = row["update"] + round(max(row["session_seconds_left"], 0.0) / max(left_s / todo, 1e-9))
    warm = round(optim.warmup_fraction * run.updates)
    if row["update"] < warm and reach < warm:
        evidence = f"run.max_hours={hours:g} ends this session near update {reach}, before the warm-up ends at {warm}"
    elif left_s > 2 * hours * 3600:
        evidence = f"{left_s / 3600:.1f} h of work are left, and run.max_hours={hours:g} ends this session before that"
    else:
        return None
    return (
        f"{evidence}; the learning rate falls to its end at update {run.updates} alone. Unless the run is "
        f"queued again until then, lower run.updates to what it can reach (near {reach}) in another run.dir."
    )


def _batch(config: PretrainConfig) -> str | None:
    if config.size in SMALL_SIZES or config.batch.update_s >= MIN_BATCH_S:
        return None
    return (
        f"batch.update_s={config.batch.update_s:g} is under ten minutes of audio, and size={config.size} has learnt "
        "well with 1.5 h and more. Raise batch.update_s: it costs time, not memory (batch.max_s bounds that), or "
        "take size=small."
    )
