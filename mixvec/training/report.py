"""What every run reports while it trains: a row of numbers, a line, warnings, and what it cost."""

from __future__ import annotations

import resource
import statistics
from typing import Any

import torch

from .checkpoint import RunState
from .diagnose import TOLD_ONCE
from .optim import is_loud
from .run import Run

TOLD_AGAIN = 20
"""Log lines after which a warning that still holds is told in full again."""


def memory_mb(device: torch.device) -> float:
    """The most that this process has held so far: allocated on the GPU, or resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6  # Linux counts in KiB


def energy_row(run: Run, state: RunState) -> dict[str, float]:
    """What the run has drawn so far, for a log line; nothing where the devices do not tell. Every rank calls this."""
    state.energy_j = run.energy_j()
    return {} if state.energy_j is None else {"energy_kwh": state.energy_j / 3.6e6}


def energy_words(row: dict[str, Any]) -> str:
    """The same for the screen."""
    return f"{row['energy_kwh']:.3g} kWh  " if "energy_kwh" in row else ""


def tell(run: Run, row: dict[str, Any], line: str, found: dict[str, str]) -> int | None:
    """Log a row and its line, and the warnings; the exit code to end with where ``run.stop_on`` names one.

    A warning that holds on is a word at the end of the next lines, and told in full again every ``TOLD_AGAIN``.

    Every rank calls this; what the main rank found holds for all.
    """
    held = {name: run.told.get(name, 0) for name in found}
    still = [name for name in found if held[name] % TOLD_AGAIN and name not in TOLD_ONCE]
    lines = [found[name] for name in found if held[name] % TOLD_AGAIN == 0]
    kept = TOLD_ONCE if line else run.told.keys()  # an evaluation, which has no line, asks about the scores alone
    run.told = {name: count for name, count in run.told.items() if name in kept} | {
        name: 1 if name in TOLD_ONCE else count + 1 for name, count in held.items()
    }
    run.log(row, "\n".join([line + f"  STILL {', '.join(still)}" * bool(still), *lines]))
    stop_on = run.config.run.stop_on
    return run.stop_for([found[name] for name in stop_on if name in found]) if stop_on else None


def count_loud(state: RunState, norms: list[float]) -> int:
    """How many log lines in a row had a loud gradient, this one's ``norms`` included; the state remembers."""
    loud = bool(norms) and is_loud(state, statistics.median(norms))
    state.loud_windows = state.loud_windows + 1 if loud else 0
    return state.loud_windows
