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

TURN_S = 0.3
"""A turn is one step, or as many as fill this."""
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
    audio_s: float | None = None
    """Seconds of audio in one unit of work."""


def measure(case: Case, repeats: int) -> list[Row]:
    """All systems of a case: built one after another, then one turn each, in rounds."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["tools.bench.ours"])
    pools = {name: ProcessPoolExecutor(1, context, initializer=_start) for name in case.systems}
    failures: dict[str, str] = {}

    def ask(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """The result of a function in the system's process, which keeps its state; None once anything has failed."""
        if name not in failures:
            try:
                return pools[name].submit(function, *arguments).result()
            except Exception as error:
                failures[name] = reason(error)
        return None

    try:
        notes = {name: ask(name, _build, system) for name, system in case.systems.items()}
        turns = [{name: ask(name, _turn) for name in pools} for _ in range(repeats)]
        peaks = {name: ask(name, _peak_mb) for name in pools}
    finally:
        for pool in pools.values():
            pool.shutdown(cancel_futures=True)
    peer, rows = next(iter(pools)), list[Row]()
    for name in pools:
        rows.append({"case": case.name, "system": name, "note": failures.get(name, notes[name])})
        if name in failures:
            continue
        own = [turn[name] for turn in turns]
        rows[-1] |= {"seconds": median(own), "seconds_min": min(own), "seconds_max": max(own), "peak_mb": peaks[name]}
        if peer not in failures:
            rows[-1] |= {"ratio": median(own) / median(turn[peer] for turn in turns), "peer": peer}
        if case.audio_s is not None:
            rows[-1]["audio_s_per_s"] = case.audio_s / median(own)
    return rows


def reason(error: Exception) -> str:
    """A failure as one line of the table."""
    text = next(iter(str(error).strip().splitlines()), "").replace("|", "/")
    if isinstance(error, BrokenProcessPool):
        return "its process died, as it does when the machine is out of memory"
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in text:
        return "out of memory"
    return f"not installed: {text}" if isinstance(error, ImportError) else f"{type(error).__name__}: {text}"[:200]


class _Built(NamedTuple):
    work: Work
    steps: int
    imports_mb: float


_built: _Built  # in a system's process


def _start() -> None:
    follow_parent(signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a traceback
    warnings.simplefilter("ignore")


def _build(system: System) -> str:
    """Build a system and warm it up; its note."""
    global _built
    if system.needs:
        importlib.import_module(system.needs)
    imports_mb = _peak_mb_of_process()
    _built = _Built(system.build(*system.arguments), 1, imports_mb)
    _turn()
    _built = _built._replace(steps=math.ceil(TURN_S / _turn()))
    return _built.work.note


def _turn() -> float:
    """Seconds of a step, the device's queue empty before and after."""
    _finish_on_device()
    started = time.perf_counter()
    for _ in range(_built.steps):
        _built.work.step()
    _finish_on_device()
    return (time.perf_counter() - started) / _built.steps


def _finish_on_device() -> None:
    if torch.cuda.memory_reserved():
        torch.cuda.synchronize()


def _peak_mb() -> float:
    if torch.cuda.memory_reserved():
        return torch.cuda.max_memory_allocated() / 2**20
    return _peak_mb_of_process() - _built.imports_mb


def _peak_mb_of_process() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
