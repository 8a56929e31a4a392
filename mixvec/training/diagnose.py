"""Names for what goes wrong in any training run, each with its evidence, its likely causes and the keys to change."""

from __future__ import annotations

from typing import Any

from .config import OptimConfig, RunConfig

OUTLIER_WINDOWS = 3


def warnings_of(found: dict[str, str | None]) -> dict[str, str]:
    """The warning for each name that something was found for."""
    return {name: f"WARNING {name}: {line}" for name, line in found.items() if line}


def exploding_gradient(row: dict[str, Any]) -> str | None:
    """Report gradient norms that stay far above their running median, and updates that were left out."""
    outliers, skipped = row.get("gradient_outlier_windows", 0), row.get("nonfinite_updates", 0)
    if outliers < OUTLIER_WINDOWS and not skipped:
        return None
    evidence = []
    if outliers >= OUTLIER_WINDOWS:
        evidence.append(f"its norm was over 10 times its running median, {row['gradient_norm_median']:.2g}, "
                        f"for {outliers} log lines in a row")  # fmt: skip
    if skipped:
        evidence.append(f"{skipped} updates since the last line were not finite and left out (see nonfinite.jsonl)")
    return (
        f"{'; '.join(evidence)}. Likely causes: optim.lr too high or optim.warmup_fraction too small, "
        "optim.clip_norm too large, run.precision=fp16 (use bf16 or fp32), broken audio."
    )


def starved_loader(row: dict[str, Any], workers: int) -> str | None:
    """Report that training waits for audio for more than 30 % of the time."""
    share = row.get("wait_share", 0.0)
    if not share > 0.3:
        return None
    return (
        f"{share:.0%} of the time goes into waiting for audio. Likely causes: data.workers too few (now "
        f"{workers} for each rank), a slow disk or network, long MP3 files, in which "
        "seeking is slow, compressed audio on a slow processor."
    )


def schedule_too_long(row: dict[str, Any], run: RunConfig, optim: OptimConfig) -> str | None:
    """Report that ``run.max_hours`` ends the session long before the learning rate has decayed."""
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
