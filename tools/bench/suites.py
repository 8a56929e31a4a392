"""What is compared. A suite is one function from a preset to its cases; its name goes into ``SUITES``.

Nothing here imports torch or another framework: a system is named, and imported in its own process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from .measure import Case, System

Preset = Literal["cpu", "gpu", "smoke"]
TOY = ("size=tiny", "encoder.dim=32", "encoder.num_layers=2", "encoder.ffn_dim=64", "encoder.conv_channels=32",
       "encoder.heads=4")  # fmt: skip
FFN_95M = "encoder.ffn_dim=1472"
"""With this key ``base`` has 95.7 M parameters in pretraining, where wav2vec 2.0 BASE has 95.0 M."""
ATTENTION = "encoder.mixer=attention"


def mixers(preset: Preset) -> list[Case]:
    """SummaryMixing and self-attention over lengths: a mixer of ``base`` in training, ``small`` in inference."""
    lengths_s = (2, 4) if preset == "smoke" else (10, 60, 300, 600)
    made = []
    for length_s in lengths_s:
        clips, toy = max(1, 360 // length_s) if preset == "gpu" else 1, TOY if preset == "smoke" else ()
        systems = {
            name: System("tools.bench.ours:mixer", ((*toy, *keys), clips, length_s, device(preset)))
            for name, keys in (("SummaryMixing", ()), ("self-attention", (ATTENTION,)))
        }
        made.append(Case(f"mixer, {clips} x {length_s} s", systems, clips * length_s, device(preset)))
    for length_s in lengths_s:
        systems = {
            name: System("tools.bench.ours:inference", (("size=small", *toy, *keys), length_s, device(preset)))
            for name, keys in (("SummaryMixing", ()), ("self-attention", (ATTENTION,)))
        }
        if length_s <= 60:  # it takes too long beyond
            systems["transformers BASE"] = System("tools.bench.hf:inference", (bool(toy), length_s, device(preset)))
        made.append(Case(f"inference, 1 x {length_s} s", systems, length_s, device(preset)))
    return [replace(case, repeats=3) if (case.audio_s or 0) >= 300 else case for case in made]


def update(preset: Preset) -> list[Case]:
    """A whole update of pretraining: front end to AdamW, with each framework's own objective."""
    toy, on = TOY if preset == "smoke" else (), device(preset)
    clips, length_s = {"cpu": (4, 15), "gpu": (18, 20), "smoke": (2, 2)}[preset]

    def ours(config: str, *keys: str) -> System:
        return System("tools.bench.ours:update", (config, (*toy, *keys), clips, length_s, on))

    def other(target: str) -> System:
        return System(target, (bool(toy), clips, length_s, on))

    groups = {
        "base": {"SummaryMixing": ours("base"), "self-attention": ours("base", ATTENTION),
                 "transformers Conformer": other("tools.bench.hf:update_conformer")},
        "95 M": {"SummaryMixing": ours("base", *(() if toy else (FFN_95M,))),
                 "transformers wav2vec 2.0": other("tools.bench.hf:update"),
                 "fairseq2 wav2vec 2.0": other("tools.bench.fairseq:update"),
                 "speechbrain wav2vec 2.0": other("tools.bench.speech:update")},
        "frame rates": {f"{rate} frames/s": ours(config) for rate, config in (
            (50, "base"), (25, "base-25hz"), (12.5, "base-12hz"))},
    }  # fmt: skip
    return [
        Case(f"{name}, {clips} x {length_s} s", systems, clips * length_s, on, repeats=3)
        for name, systems in groups.items()
    ]


def data(preset: Preset) -> list[Case]:
    """Reading FLAC files in one process, and what comes before the first batch."""
    clips, length_s = (6, 2) if preset == "smoke" else (60, 15)
    target, planned = "tools.bench.reading:", 1000 if preset == "smoke" else 10_000_000
    read = {name: System(target + what, (clips, length_s)) for name, what in (
        ("ours", "ours"), ("libsndfile loop", "libsndfile"))}  # fmt: skip
    first = {name: System(target + what, (clips, length_s)) for name, what in (
        ("ours", "first_epoch"), ("datasets map", "datasets_map"))}  # fmt: skip
    return [
        Case(f"padded batches, {clips} x {length_s} s", read, clips * length_s),
        Case(f"first epoch, {clips} x {length_s} s", first, clips * length_s, repeats=3),
        Case(f"plan of {planned:,} utterances", {"ours": System(target + "plan", (planned,))}, repeats=3),
    ]


def checkpoint(preset: Preset) -> list[Case]:
    """A checkpoint of ``base`` in pretraining: what training waits for, what is written meanwhile, resuming."""
    toy, on = TOY if preset == "smoke" else (), device(preset)
    parts = {"training waits": "save", "written in the background": "write", "resuming": "load"}
    systems = {name: System("tools.bench.saving:checkpoint", (toy, part, on)) for name, part in parts.items()}
    return [Case("checkpoint of base", systems, device=on, repeats=3)]


SUITES: dict[str, Callable[[Preset], list[Case]]] = {
    "mixers": mixers,
    "update": update,
    "data": data,
    "checkpoint": checkpoint,
}


def device(preset: Preset) -> str:
    return "cuda" if preset == "gpu" else "cpu"
