"""A case: several systems, each in a fresh process, one turn at a time."""

from __future__ import annotations

import importlib
import math
import multiprocessing
import signal
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch

ANSWER_S = 1800.0
"""A system that gives no answer for so long is ended."""
TURN_S = 0.3
"""A turn is one step, or as many as fill this."""
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Work(NamedTuple):
    """A system, built and ready: one unit of work, and what to know of it."""

    step: Callable[[], object]
    note: str = ""


@dataclass(frozen=True)
class System:
    """``module:function``, which is imported in the system's own process, and its arguments; it returns a ``Work``."""

    target: str
    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Case:
    """The first of ``systems`` is the peer, to which the ratios of the others are taken."""

    name: str
    systems: dict[str, System]
    audio_s: float | None = None
    """Seconds of audio in one unit of work."""
    device: str = "cpu"
    repeats: int = 5


@dataclass(frozen=True)
class Row:
    """One system on one case. A value that was not measured is None, and the note gives the reason."""

    suite: str
    case: str
    system: str
    seconds: float | None = None
    """Median over the repeats of the seconds that a unit of work takes."""
    seconds_min: float | None = None
    seconds_max: float | None = None
    ratio: float | None = None
    """These seconds over those of ``peer``."""
    peer: str | None = None
    peak_mb: float | None = None
    """Of the device's allocator; on the CPU (Linux only) resident memory beyond what the imports take."""
    audio_s_per_s: float | None = None
    note: str = ""


class Child:
    """The parent's end of a system's process."""

    def __init__(self, system: System, device: str) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tools.bench.ours"])
        self.connection, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, system, device), daemon=True)
        self.process.start()
        other.close()
        self.failure = ""
        self.seconds: list[float] = []

    def ask(self, order: str) -> Any:
        """The answer to an order; None where there is none, and ``failure`` is the reason."""
        if self.failure:
            return None
        with suppress(OSError):  # it has ended; an answer that it left can still be read
            self.connection.send(order)
        try:
            if not self.connection.poll(ANSWER_S):
                raise EOFError
            kind, value = self.connection.recv()
        except (EOFError, OSError):
            self.process.join(5)
            self.failure = f"its process gave no answer (exit code {self.process.exitcode}; -9: killed, out of memory)"
            return None
        self.failure = value if kind == "failed" else ""
        return None if self.failure else value

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def measure(suite: str, case: Case, repeats: int) -> list[Row]:
    """All systems of a case: built one after another, then one turn each, in rounds."""
    children = {name: Child(system, case.device) for name, system in case.systems.items()}
    try:
        notes = {name: child.ask("build") for name, child in children.items()}
        for _ in range(repeats):
            for child in children.values():
                if (seconds := child.ask("turn")) is not None:
                    child.seconds.append(seconds)
        peaks = {name: child.ask("end") for name, child in children.items()}
    finally:
        for child in children.values():
            child.stop()
    peer, rows = next(iter(case.systems)), []
    for name, child in children.items():
        if child.failure or not child.seconds:
            rows.append(Row(suite, case.name, name, note=child.failure))
            continue
        seconds, base = median(child.seconds), children[peer]
        ratio = None if base.failure else seconds / median(base.seconds)
        speed = case.audio_s / seconds if case.audio_s else None
        rows.append(Row(suite, case.name, name, seconds, min(child.seconds), max(child.seconds), ratio, peer,
                        peaks[name], speed, notes[name] or ""))  # fmt: skip
    return rows


def serve(connection: Connection, system: System, device: str) -> None:
    """In the child: answer each order with ("ok", value), or once with ("failed", reason) and end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers it, and ends its children
    warnings.simplefilter("ignore")
    try:
        module, _, function = system.target.partition(":")
        build = getattr(importlib.import_module(module), function)
        base = resident_mb("VmRSS")
        connection.recv()
        work: Work = build(*system.arguments)
        units = math.ceil(TURN_S / max(timed(work.step, device, 1), timed(work.step, device, 1)))
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        with suppress(OSError):
            CLEAR.write_text("5")  # sets VmHWM back to VmRSS
        connection.send(("ok", work.note))
        while connection.recv() == "turn":
            connection.send(("ok", timed(work.step, device, units)))
        peak = resident_mb("VmHWM")
        if device == "cuda":
            connection.send(("ok", torch.cuda.max_memory_allocated() / 2**20))
        else:
            connection.send(("ok", None if peak is None or base is None else max(0.0, peak - base)))
    except EOFError:  # the parent has ended
        return
    except Exception as error:
        connection.send(("failed", reason(error)))


def timed(step: Callable[[], object], device: str, units: int) -> float:
    """Seconds of one step out of ``units``, the device's queue empty before and after."""
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(units):
        step()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / units


def resident_mb(name: str) -> float | None:
    """VmRSS, or its high-water mark VmHWM, of this process; None where there is no /proc."""
    lines = STATUS.read_text().splitlines() if STATUS.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:")), None)


def reason(error: Exception) -> str:
    """A failure as one line of the table."""
    text = next(iter(str(error).strip().splitlines()), "")
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in text:
        return "out of memory"
    return f"not installed: {text}" if isinstance(error, ImportError) else f"{type(error).__name__}: {text}"[:200]
