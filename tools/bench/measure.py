"""A case: its systems side by side, each in a fresh process, one turn at a time, so that noise hits all alike."""

from __future__ import annotations

import multiprocessing
import time
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch

from .cases import OURS, Case, System
from .child import serve

ANSWER_S = 1800.0
"""A system that is silent for so long is given up."""
DENSE_BF16_FLOPS = {"H100 80GB HBM3": 989.4e12, "H200": 989.4e12, "H100 PCIe": 756.5e12, "A100": 312e12}
"""Per second, by a part of the device's name, from NVIDIA's data sheets, which state twice as much "with sparsity"."""


TIME_IS_UP = "left out: the preset's time is up"
PRELOADED = ("torch",)
"""Imported once by the server that children are forked from, which does nothing else: it saves seconds in each."""
PRELOADED_FOR_TOYS = (
    "torch",
    "transformers.models.wav2vec2.modeling_wav2vec2",
    "transformers.models.wav2vec2_conformer.modeling_wav2vec2_conformer",
)


@dataclass(frozen=True)
class Row:
    """One system on one case. What was not measured is None, and the note says why."""

    suite: str
    case: str
    group: str
    length_s: float
    system: str
    seconds: float | None = None
    """The median over the repeats of the seconds that a unit of work takes; beside it the least and the most."""
    seconds_min: float | None = None
    seconds_max: float | None = None
    peak_mb: float | None = None
    audio_s_per_s: float | None = None
    ratio_to_ours: float | None = None
    """This system's seconds over ours: above 1, ours is faster."""
    share_of_peak: float | None = None
    """Of the device's dense bf16 peak, for ours, where both are known."""
    note: str = ""


@dataclass
class Child:
    """The parent's end of a system's process."""

    system: System
    process: Any = None
    connection: Any = None
    failed: bool = False
    note: str = ""
    flops: int | None = None
    seconds: list[float] = field(default_factory=list)
    peak_mb: float | None = None

    def start(self, case: Case) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(PRELOADED_FOR_TOYS if case.toy else PRELOADED))
        self.connection, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, case, self.system))
        self.process.start()
        other.close()

    def fail(self, note: str) -> None:
        self.failed, self.note = True, note

    def ask(self, order: str, wait_s: float) -> Any:
        """Send an order and wait for its answer; None where there is none any more."""
        with suppress(OSError):  # it has ended; what it left, if anything, is still there to read
            self.connection.send(order)
        return self.answer(wait_s)

    def answer(self, wait_s: float) -> Any:
        if not self.connection.poll(wait_s):
            self.process.kill()
            return self.fail(f"no answer within {wait_s:.0f} s")
        try:
            kind, value = self.connection.recv()
        except (EOFError, OSError):
            self.process.join(10)
            code = self.process.exitcode
            killed = " (killed, as a rule for want of memory)" if code == -9 else ""
            return self.fail(f"its process ended with code {code}{killed}")
        return self.fail(value) if kind == "failed" else value

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.connection.close()


def measure(case: Case, repeats: int, deadline: float = float("inf")) -> list[Row]:
    """All systems of a case, in its order: imported together, built one after another, then one turn each, in rounds.

    Nothing is started after ``deadline``, on the clock of ``time.monotonic``.
    """
    if case.device == "cuda" and not torch.cuda.is_available():
        return [make_row(case, Child(system, note="no CUDA device here"), None) for system in case.systems]
    children = [Child(system) for system in case.systems]
    try:
        for child in children:
            if case.length_s > child.system.max_s:
                child.fail(f"left out: over {child.system.max_s:g} s it takes too long")
            elif time.monotonic() > deadline:
                child.fail(TIME_IS_UP)
            else:
                child.start(case)
        for child in alive(children):
            child.answer(patience(deadline))
        for child in alive(children):
            if time.monotonic() > deadline:
                child.fail(TIME_IS_UP)
                continue
            built = child.ask("build", patience(deadline))
            if built is not None:
                child.note, child.flops = built
        for number in range(repeats):
            if number and time.monotonic() > deadline:
                break
            for child in alive(children):
                seconds = child.ask("turn", patience(deadline))
                if seconds is not None:
                    child.seconds.append(seconds)
        for child in alive(children):
            child.peak_mb = child.ask("end", ANSWER_S)
    finally:
        for child in children:
            child.stop()
    ours = next((child for child in children if child.system.name == OURS and not child.failed), None)
    return [make_row(case, child, ours) for child in children]


def alive(children: list[Child]) -> list[Child]:
    return [child for child in children if not child.failed]


def patience(deadline: float) -> float:
    """Seconds to wait for an answer: what is left until the deadline, but 20 at least, to end what was begun."""
    return min(ANSWER_S, max(20.0, deadline - time.monotonic()))


def make_row(case: Case, child: Child, ours: Child | None) -> Row:
    """``ours``: where it was measured."""
    shape = (case.suite, case.name, case.group, case.length_s, child.system.name)
    if child.failed or not child.seconds:
        return Row(*shape, note=child.note)
    seconds = median(child.seconds)
    ratio = seconds / median(ours.seconds) if ours is not None and ours.seconds else None
    share = None
    if child.system.name.startswith(OURS) and ours is not None and ours.flops and case.bf16:
        device = torch.cuda.get_device_name()
        peak = next((flops for name, flops in DENSE_BF16_FLOPS.items() if name in device), None)
        share = None if peak is None else ours.flops / seconds / peak
    return Row(*shape, seconds, min(child.seconds), max(child.seconds), child.peak_mb, case.audio_s / seconds, ratio,
               share, child.note)  # fmt: skip
