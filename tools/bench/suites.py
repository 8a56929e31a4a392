"""What is compared. A suite is one function from a preset to its cases; its name goes into ``SUITES``."""

from __future__ import annotations

import atexit
from collections.abc import Callable
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any, Literal

from . import ours, peers
from .measure import Case, System

Preset = Literal["cpu", "gpu", "smoke"]
TOY = ("size=tiny", "encoder.dim=32", "encoder.num_layers=2", "encoder.ffn_dim=64", "encoder.conv_channels=32",
       "encoder.heads=4")  # fmt: skip
FFN_95M = "encoder.ffn_dim=1472"
"""With this key ``base`` has 95.7 M parameters in pretraining, where wav2vec 2.0 BASE has 95.0 M."""
ATTENTION = "encoder.mixer=attention"


def mixers(preset: Preset) -> list[Case]:
    """SummaryMixing and self-attention over lengths: a mixer of ``base`` in training, ``small`` in inference."""
    cases, toy = [], TOY if preset == "smoke" else ()
    for name, build, keys in (("mixer", ours.mixer, toy), ("inference", ours.inference, ("size=small", *toy))):
        for length_s in (2,) if preset == "smoke" else (10, 60, 300, 600):
            clips = max(1, 360 // length_s) if preset == "gpu" and name == "mixer" else 1
            systems = {
                "SummaryMixing": System(build, (keys, clips, length_s, device(preset))),
                "self-attention": System(build, ((*keys, ATTENTION), clips, length_s, device(preset))),
            }
            cases.append(Case(f"{name}, {clips} x {length_s} s", systems, clips * length_s))
    return cases


def update(preset: Preset) -> list[Case]:
    """A whole update of pretraining: front end to AdamW, with each framework's own objective."""
    toy = preset == "smoke"
    clips, length_s = {"cpu": (4, 15), "gpu": (18, 20), "smoke": (2, 2)}[preset]

    def system(build: Callable[..., ours.Learner], *arguments: Any, needs: str = "") -> System:
        return System(ours.update, (build, arguments, clips, length_s, device(preset)), needs)

    def mixvec(config: str, *keys: str) -> System:
        return system(ours.learner, ours.load(config, (*TOY, *keys) if toy else keys))

    def transformers(kind: str, shape: dict[str, Any]) -> System:
        needs = "transformers.models.wav2vec2.modeling_wav2vec2"
        return system(peers.transformers, kind, shape | peers.TOY if toy else shape, needs=needs)

    conformer = {} if toy else {"transformers Conformer": transformers("Wav2Vec2Conformer", peers.CONFORMER)}
    fairseq2 = system(peers.fairseq2, peers.FAIRSEQ2_TOY if toy else {}, needs="mixvec.wav2vec2")
    groups = {
        "base": {"SummaryMixing": mixvec("base"), "self-attention": mixvec("base", ATTENTION), **conformer},
        "95 M": {"SummaryMixing": mixvec("base", *(() if toy else (FFN_95M,))),
                 "transformers wav2vec 2.0": transformers("Wav2Vec2", {}),
                 "fairseq2 wav2vec 2.0, not compiled": fairseq2},
        "frame rates": {"50 frames/s": mixvec("base"), "25 frames/s": mixvec("base-25hz"),
                        "12.5 frames/s": mixvec("base-12hz")},
    }  # fmt: skip
    return [Case(f"{name}, {clips} x {length_s} s", systems, clips * length_s) for name, systems in groups.items()]


def inference(preset: Preset) -> list[Case]:
    """A recogniser of ``small`` as PyTorch runs it, as an ONNX file in fp32 and in int8, by the length of the audio."""
    if preset == "gpu":
        return []  # the files are for CPUs
    scratch, smoke = Path(mkdtemp(prefix="mixvec-bench-")), preset == "smoke"
    atexit.register(rmtree, scratch, ignore_errors=True)
    files = {"eager": "eager", "ONNX fp32": "fp32.onnx", "ONNX int8": "int8.onnx"}
    if smoke:
        del files["ONNX fp32"]
    ours.publish(scratch, ("size=small", *(TOY if smoke else ())), files.values())
    return [Case(f"recogniser, 1 x {length_s} s",
                 {name: System(ours.published, (str(scratch / file), length_s)) for name, file in files.items()},
                 length_s) for length_s in ((2,) if smoke else (2, 10, 60, 300))]  # fmt: skip


def streaming(preset: Preset) -> list[Case]:
    """``small`` in chunks of 640 ms: one chunk by the age of the stream, and training by the length of the audio."""
    if preset == "gpu":
        return []  # streams are for CPUs
    toy = TOY[1:] if preset == "smoke" else ()
    ages, lengths = ((10,), (2,)) if toy else ((10, 60, 600, 3600), (10, 20, 40, 80))
    contexts = {f"{name}, {shown}": (keys, left)
                for name, keys in (("SummaryMixing", toy), ("self-attention", (*toy, ATTENTION)))
                for left, shown in ((8, "8 left"), (None, "all"))}  # fmt: skip
    chunks = {f"{name}, after {age_s} s": System(ours.chunk, (*context, age_s))
              for name, context in contexts.items() for age_s in ages
              if age_s <= 600 or name != "self-attention, all"}  # takes half an hour to get there  # fmt: skip
    return [Case("a chunk", chunks, ours.CHUNK_S)] + [
        Case(f"training, 1 x {length_s} s",
             {name: System(ours.streaming_training, (*own, length_s)) for name, own in contexts.items()}, length_s)
        for length_s in lengths]  # fmt: skip


SUITES: dict[str, Callable[[Preset], list[Case]]] = {
    "mixers": mixers, "inference": inference, "update": update, "streaming": streaming,
}  # fmt: skip


def device(preset: Preset) -> str:
    return "cuda" if preset == "gpu" else "cpu"
