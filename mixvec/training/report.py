"""What every run reports: the numbers that all log rows have, and the named warnings that all runs share.

A warning has a name, its evidence, its likely causes and the keys to change.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field
from typing import Any

import torch

from .checkpoint import RunState
from .config import OptimConfig, RunConfig
from .device import memory_mb
from .optim import is_outlier, median_norm
from .run import Run

OUTLIER_WINDOWS = 3


@dataclass
class Window:
    """The updates since the last log line."""

    started_s: float = 0.0
    waited_s: float = 0.0
    """Seconds the training had waited for data when the window began."""
    norms: list[float] = field(default_factory=list)
    """Gradient norms of the updates, as ``optim.step`` returns them."""


def common_row(run: Run, state: RunState, window: Window, waited_s: float) -> dict[str, Any]:
    """The numbers of a log line that pretraining and fine-tuning share. Every rank calls this.

    Args:
        waited_s: seconds the training has waited for data so far.
    """
    accelerator, norms = run.accelerator, window.norms
    share = (waited_s - window.waited_s) / max(run.elapsed_s - window.started_s, 1e-9)
    own = torch.tensor([share, memory_mb(accelerator.device)], device=accelerator.device)
    share, memory = accelerator.gather(own).view(-1, 2).amax(0).tolist()
    finite = [norm for norm in norms if math.isfinite(norm)]
    outlier = bool(finite) and is_outlier(state, statistics.median(finite))
    state.outlier_windows = state.outlier_windows + 1 if outlier else 0
    state.energy_j = run.energy_j()
    row = {
        "update": state.update,
        "gradient_norm": finite[-1] if finite else math.nan,
        "gradient_norm_median": median_norm(state),
        "gradient_outlier_windows": state.outlier_windows,
        "nonfinite_updates": sum(map(math.isnan, norms)),
        "scaler_backoffs": sum(map(math.isinf, norms)),
        "hours_seen": state.seconds_seen / 3600,
        "seconds_left": run.elapsed_s / state.update * (run.config.run.updates - state.update),
        "wait_share": share,
        "memory_mb": memory,
    }
    if run.config.run.max_hours is not None:
        row["session_seconds_left"] = run.config.run.max_hours * 3600 - run.stop.session_s
    return row if state.energy_j is None else row | {"energy_kwh": state.energy_j / 3.6e6}


def time_left(row: dict[str, Any]) -> str:
    """The end of a status line: energy so far where it is known, and the time that is left."""
    left_s = row["seconds_left"]
    unit, name = (3600, "h") if left_s >= 3600 else (60, "min") if left_s >= 60 else (1, "s")
    left = f"{left_s / unit:.{int(name == 'h')}f} {name}"
    energy = f"{row['energy_kwh']:.3g} kWh  " if "energy_kwh" in row else ""
    return f"{energy}{left} left"


def warnings_of(found: dict[str, str | None]) -> dict[str, str]:
    """The warning for each name that something was found for."""
    return {name: f"WARNING {name}: {line}" for name, line in found.items() if line}


def shared_warnings(row: dict[str, Any], config: Any) -> dict[str, str | None]:
    """What may be wrong with any run by its log row, by the name of the warning; None where it is not.

    Gradient norms that stay far above their running median or are not finite; training that waits for audio for more
    than 30 % of the time; and a session that ``run.max_hours`` ends long before the learning rate has decayed.
    """
    outliers, skipped = row.get("gradient_outlier_windows", 0), row.get("nonfinite_updates", 0)
    evidence, share = [], row.get("wait_share", 0.0)
    if outliers >= OUTLIER_WINDOWS:
        evidence.append(f"its norm was over 10 times its running median, {row['gradient_norm_median']:.2g}, "
                        f"for {outliers} log lines in a row")  # fmt: skip
    if skipped:
        evidence.append(f"{skipped} updates since the last line were not finite and left out (see nonfinite.jsonl)")
    exploding = (
        f"{'; '.join(evidence)}. Likely causes: optim.lr too high or optim.warmup_fraction too small, "
        "optim.clip_norm too large, run.precision=fp16 (use bf16 or fp32), broken audio."
    )
    starved = (
        f"{share:.0%} of the time goes into waiting for audio. Likely causes: data.workers too few (now "
        f"{config.data.workers} for each rank), a slow disk or network, long MP3 files, in which seeking is slow, "
        "compressed audio on a slow processor."
    )
    return {
        "exploding-gradient": exploding if evidence else None,
        "starved-loader": starved if share > 0.3 else None,
        "schedule-too-long": _schedule_too_long(row, config.run, config.optim),
    }


def _schedule_too_long(row: dict[str, Any], run: RunConfig, optim: OptimConfig) -> str | None:
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
