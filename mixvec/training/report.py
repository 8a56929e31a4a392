"""What the log row of every run has: the gradient, the time that is left, memory and energy."""

from __future__ import annotations

import math
import resource
import statistics
from typing import Any

import torch

from .checkpoint import RunState
from .optim import is_outlier, median_norm
from .run import Run


def common_row(run: Run, state: RunState, norms: list[float]) -> dict[str, Any]:
    """The numbers of a log line that pretraining and fine-tuning share. Every rank calls this.

    Args:
        norms: gradient norms of the updates since the last line; NaN where an update was left out, infinite where
            fp16's loss scaler left it out.
    """
    finite = [norm for norm in norms if math.isfinite(norm)]
    state.energy_j = run.energy_j()
    row = {
        "update": state.update,
        "gradient_norm": finite[-1] if finite else math.nan,
        "gradient_norm_median": median_norm(state),
        "gradient_outlier_windows": count_outliers(state, finite),
        "nonfinite_updates": sum(map(math.isnan, norms)),
        "scaler_backoffs": sum(map(math.isinf, norms)),
        "hours_seen": state.seconds_seen / 3600,
        "seconds_left": run.elapsed_s / state.update * (run.config.run.updates - state.update),
    }
    if run.config.run.max_hours is not None:
        row["session_seconds_left"] = run.config.run.max_hours * 3600 - run.stop.session_s
    return row if state.energy_j is None else row | {"energy_kwh": state.energy_j / 3.6e6}


def count_outliers(state: RunState, norms: list[float]) -> int:
    """How many log lines in a row had an outlying gradient, this one's ``norms`` included; ``state`` remembers."""
    outlier = bool(norms) and is_outlier(state, statistics.median(norms))
    state.outlier_windows = state.outlier_windows + 1 if outlier else 0
    return state.outlier_windows


def memory_mb(device: torch.device) -> float:
    """The most that this process has held so far: allocated on the GPU, or resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6  # Linux counts in KiB


def time_left(row: dict[str, Any]) -> str:
    """The end of a status line: energy so far where it is known, and the time that is left."""
    left_s = row["seconds_left"]
    unit, name = (3600, "h") if left_s >= 3600 else (60, "min") if left_s >= 60 else (1, "s")
    left = f"{left_s / unit:.{int(name == 'h')}f} {name}"
    energy = f"{row['energy_kwh']:.3g} kWh  " if "energy_kwh" in row else ""
    return f"{energy}{left} left"
