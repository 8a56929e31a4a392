"""A case: several systems, each in a process of its own, one turn at a time."""

from __future__ import annotations

import importlib
import math
import resource
import signal
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from statistics import median
from typing import Any, NamedTuple

import torch

from mixvec.parent import follow_parent

Row = dict[str, Any]
"""``case``, ``system``, ``note``; where it was measured ``seconds``, the median, ``seconds_min``, ``seconds_max``,
``audio_s_per_s``, ``peak_mb`` (of the device's allocator; on a CPU resident memory beyond what the imports take), and
``ratio``, the seconds over those of ``peer``."""


class Work(NamedTuple):
    """A system, built and ready: one unit of work, and a note for the table."""

    step: Callable[[], object]
    note: str = ""


class System(NamedTuple):
    """``build(*arguments)`` makes the work, in the system's own process."""

    build: Callable[..., Work]
    arguments: tuple[Any, ...] = ()
    needs: str = ""
    """The module of another framework, which is imported before the memory is counted."""


class Case(NamedTuple):
    """The first of ``systems`` is the peer, to which the ratios of the others are taken."""

    name: str
    systems: dict[str, System]
    audio_s: float
    """Seconds of audio in one unit of work."""


def measure(case: Case, repeats: int, turn_s: float = 0.3) -> list[Row]:
    """All systems of a case: built one after another, then one turn each, in rounds.

    Args:
        turn_s: a turn is one step, or as many as fill this.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(["tools.bench.ours"])
    pools = {name: ProcessPoolExecutor(1, context, initializer=_start) for name in case.systems}
    rows: dict[str, Row] = {name: {"case": case.name, "system": name, "note": ""} for name in pools}
    turns: dict[str, list[float]] = {name: [] for name in pools}

    def ask(function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
        """The results of a function in the processes of the systems that work, which keep their state."""
        found = {}
        for name in list(turns):
            try:
                found[name] = pools[name].submit(function, *(own[name] for own in arguments)).result()
            except Exception as error:
                rows[name]["note"] = reason(error)
                del turns[name]
        return found

    try:
        for name, note in ask(_build, case.systems, dict.fromkeys(pools, turn_s)).items():
            rows[name]["note"] = note
        for _ in range(repeats):
            for name, took_s in ask(_turn).items():
                turns[name].append(took_s)
        peaks = ask(_peak_mb)
    finally:
        for pool in pools.values():
            pool.shutdown(cancel_futures=True)
    peer = next(iter(pools))
    for name, own in turns.items():
        rows[name] |= {"seconds": median(own), "seconds_min": min(own), "seconds_max": max(own), "peak_mb": peaks[name],
                       "audio_s_per_s": case.audio_s / median(own)}  # fmt: skip
        if peer in turns:
            rows[name] |= {"ratio": median(own) / median(turns[peer]), "peer": peer}
    return list(rows.values())


def reason(error: Exception) -> str:
    """A failure as one line of the table."""
    text = next(iter(str(error).strip().splitlines()), "").replace("|", "/")
    if isinstance(error, BrokenProcessPool):
        return "its process died, as it does when the machine is out of memory"
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in text:
        return "out of memory"
    return f"not installed: {text}" if isinstance(error, ImportError) else f"{type(error).__name__}: {text}"[:200]


_built: tuple[Work, int, float]
"""In a system's process: its work, the steps of a turn, and the MB that the imports take."""


def _start() -> None:
    follow_parent(signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a traceback
    warnings.simplefilter("ignore")


def _build(system: System, turn_s: float) -> str:
    """Build a system and warm it up; its note."""
    global _built
    if system.needs:
        importlib.import_module(system.needs)
    imports_mb = _peak_mb_of_process()
    _built = system.build(*system.arguments), 1, imports_mb
    if turn_s > 0:
        _turn()
        _built = _built[0], math.ceil(turn_s / _turn()), imports_mb
    return _built[0].note


def _turn() -> float:
    """Seconds of a step, the device's queue empty before and after."""
    (step, _), steps, _ = _built
    _finish_on_device()
    started = time.perf_counter()
    for _ in range(steps):
        step()
    _finish_on_device()
    return (time.perf_counter() - started) / steps


def _finish_on_device() -> None:
    if torch.cuda.memory_reserved():
        torch.cuda.synchronize()


def _peak_mb() -> float:
    if torch.cuda.memory_reserved():
        return torch.cuda.max_memory_allocated() / 2**20
    return _peak_mb_of_process() - _built[2]


def _peak_mb_of_process() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
