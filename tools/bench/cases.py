"""What is measured: shapes and competitors, as data. Nothing here imports torch or a competitor.

A system is a module of this package and a variant. The module has one function per suite that it takes part in, named
like the suite; given the case and the variant it returns a ``Work``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

Suite = Literal["mixer", "objective", "update", "inference", "data", "checkpoint"]
Preset = Literal["cpu", "gpu", "smoke"]
SUITES: tuple[Suite, ...] = ("mixer", "objective", "update", "inference", "data", "checkpoint")
PRESETS: tuple[Preset, ...] = ("cpu", "gpu", "smoke")
FRAME_RATE_HZ = 50
OURS = "ours"
"""The system that every ratio is taken to."""

BUDGET_S = {"cpu": float("inf"), "gpu": 510.0, "smoke": float("inf")}
"""After this long a preset starts nothing more, and says so in the rows that it leaves out."""


@dataclass(frozen=True)
class System:
    name: str
    module: str
    """Under ``tools.bench`` where it has no dot."""
    variant: str = ""
    max_s: float = float("inf")
    """Longer clips are left out: they would take too long."""

    @property
    def path(self) -> str:
        return self.module if "." in self.module else f"tools.bench.{self.module}"


@dataclass(frozen=True)
class Case:
    suite: Suite
    group: str
    """Cases of a group differ in length alone: one panel of the plot."""
    batches: tuple[tuple[int, float], ...]
    """Clips and the seconds of each; one unit of work goes through all of these batches."""
    systems: tuple[System, ...]
    repeats: int = 5
    device: Literal["cpu", "cuda"] = "cpu"
    bf16: bool = False
    """Under autocast, every system alike."""
    toy: bool = False
    """Toy widths."""

    @property
    def name(self) -> str:
        return f"{self.group}, " + " + ".join(f"{clips} x {seconds:g} s" for clips, seconds in self.batches)

    @property
    def audio_s(self) -> float:
        return sum(clips * seconds for clips, seconds in self.batches)

    @property
    def length_s(self) -> float:
        """Seconds of the mean clip."""
        return self.audio_s / sum(clips for clips, _ in self.batches)


@dataclass(frozen=True)
class Work:
    """A system, built and ready."""

    step: Callable[[], Any]
    """One unit of work; what it returns (a loss, for the objective) is for the tests."""
    note: str = ""


SUMMARY = System(OURS, "ours", "summary")
FUSED = System("ours fused", "ours", "summary fused")
COMPILED = System("ours compiled", "ours", "summary compiled")
WHOLE = System("ours compiled and fused", "ours", "summary compiled fused")
"""What pretraining does on a GPU unless told otherwise."""
TWIN = System("attention twin", "ours", "attention")
TWIN_COMPILED = System("attention twin compiled", "ours", "attention compiled")
MATERIALISED = System("materialised attention", "ours", "materialised")
IN_OUR_LOOP = System("wav2vec2-base in our loop", "ours", "wav2vec2")
FAIRSEQ2 = System("fairseq2", "fairseq2_systems")
TRANSFORMERS = System("transformers", "transformers_systems", "base")
TRANSFORMERS_CONFORMER = System("transformers Conformer", "transformers_systems", "conformer")
SPEECHBRAIN = System("speechbrain", "speechbrain_systems")

MIXERS = (SUMMARY, TWIN, MATERIALISED)
OBJECTIVES = (SUMMARY, FAIRSEQ2, TRANSFORMERS)
BASES = (SUMMARY, TWIN, TRANSFORMERS_CONFORMER)
FRAME_RATES = (SUMMARY, System("base-25hz", "ours", "25hz"), System("base-12hz", "ours", "12hz"))
BASES_95M = (SUMMARY, IN_OUR_LOOP, FAIRSEQ2, TRANSFORMERS, SPEECHBRAIN)
READERS = (System(OURS, "data_systems", "ours"), System("libsndfile loop", "data_systems", "libsndfile"))
FIRST_EPOCH = (READERS[0], System("datasets map", "data_systems", "datasets"))
PLANNERS = (System(OURS, "scale_systems", "plan"), System("ours, going on", "scale_systems", "resume"))
INDEXERS = (System(OURS, "scale_systems", "index"), System("ours, nothing changed", "scale_systems", "again"))

SAVERS = (System(OURS, "checkpoint_systems", "save"), System("ours, written behind it", "checkpoint_systems", "write"),
          System("ours, going on", "checkpoint_systems", "resume"))  # fmt: skip
CHECKPOINT = Case("checkpoint", "base, saving", ((1, 1),), SAVERS, repeats=3)
"""Of the whole pretraining; the batch is of no matter."""


def cases(preset: Preset) -> list[Case]:
    """All cases of a preset, in the order in which they run."""
    return {"cpu": cpu_cases, "gpu": gpu_cases, "smoke": smoke_cases}[preset]()


def cpu_cases() -> list[Case]:
    slow = (SUMMARY, replace(TWIN, max_s=600), replace(TRANSFORMERS, max_s=60))
    return [
        *(Case("mixer", "mixer", ((1, s),), MIXERS, repeats=5 if s < 300 else 3) for s in (10, 60, 300, 600)),
        *(Case("mixer", "block", ((1, s),), (SUMMARY, TWIN), repeats=5 if s < 300 else 3) for s in (60, 300)),
        Case("objective", "objective", ((8, 15),), OBJECTIVES),
        Case("update", "base", ((4, 15),), BASES, repeats=3),
        Case("update", "95 M", ((4, 15),), BASES_95M, repeats=3),
        Case("update", "frames", ((4, 15),), FRAME_RATES, repeats=3),
        *(Case("inference", "small with CTC", ((1, s),), slow, repeats=5 if s < 600 else 3)
          for s in (10, 60, 600, 3600)),
        *_data_cases(60, 15, 10_000_000, 100_000),
        CHECKPOINT,
    ]  # fmt: skip


def _data_cases(clips: int, seconds: float, planned: int, files: int) -> list[Case]:
    return [
        Case("data", "whole files", ((clips, seconds),), READERS),
        Case("data", "crops", ((clips, seconds),), READERS),
        Case("data", "first epoch", ((clips, seconds),), FIRST_EPOCH, repeats=3),
        Case("data", "plan", ((planned, 14.4),), PLANNERS, repeats=3),
        Case("data", "index", ((files, 0.1),), INDEXERS, repeats=3),
    ]


def gpu_cases() -> list[Case]:
    """The paper's 360 s per GPU and step, as clips of 10, 20 and 30 s; then what length does.

    What matters most comes first. Compiling takes its time at every shape, so it is not done at each.
    """
    clips, long = ((36, 10), (18, 20), (12, 30)), ((4, 100),)
    ours, twins = (SUMMARY, FUSED, COMPILED, WHOLE), (TWIN, TWIN_COMPILED, MATERIALISED)
    readers = (SUMMARY, replace(TWIN, max_s=3600), replace(TRANSFORMERS, max_s=600))
    made = [
        Case("update", "base", clips, (*ours, *twins, TRANSFORMERS_CONFORMER)),
        Case("update", "base", long, (SUMMARY, WHOLE, *twins)),
        Case("update", "95 M", ((18, 20),), (SUMMARY, WHOLE, *BASES_95M[1:])),
        Case("update", "frames", clips, FRAME_RATES),
        CHECKPOINT,
        *(Case("mixer", "mixer", ((max(1, 360 // s), s),),
               (*MIXERS, FUSED, *((COMPILED, WHOLE) if s in (10, 300) else ())))
          for s in (10, 60, 300, 600)),
        *(Case("mixer", "block", ((max(1, 360 // s), s),),
               (SUMMARY, FUSED, TWIN, *((WHOLE, TWIN_COMPILED) if s == 60 else ())))
          for s in (10, 60, 300)),
        Case("objective", "objective", ((8, 15),), OBJECTIVES),
        *(Case("inference", "small with CTC", ((1, s),), readers) for s in (10, 60, 600, 3600, 7200)),
    ]  # fmt: skip
    return [replace(case, device="cuda", bf16=True) for case in made]


def smoke_cases() -> list[Case]:
    made = [
        Case("mixer", "mixer", ((1, 2),), MIXERS),
        Case("mixer", "mixer", ((1, 4),), MIXERS),
        Case("mixer", "block", ((1, 2),), (SUMMARY, TWIN)),
        Case("objective", "objective", ((2, 4),), OBJECTIVES),
        Case("update", "base", ((2, 2),), BASES),
        Case("update", "95 M", ((2, 2),), BASES_95M),
        Case("update", "frames", ((2, 2),), FRAME_RATES),
        Case("inference", "small with CTC", ((1, 2),), (SUMMARY, TWIN, TRANSFORMERS)),
        *_data_cases(3, 2, 1000, 30),
        CHECKPOINT,
    ]
    return [replace(case, toy=True, repeats=2) for case in made]
