"""What is compared. A suite is one function from a preset to its cases; its name goes into ``SUITES``."""

from __future__ import annotations

import atexit
from collections.abc import Callable
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Literal

from . import ours, peers, streams
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
        for length_s in (2, 4) if preset == "smoke" else (10, 60, 300, 600):
            clips = max(1, 360 // length_s) if preset == "gpu" and name == "mixer" else 1
            systems = {
                "SummaryMixing": System(build, (keys, clips, length_s, device(preset))),
                "self-attention": System(build, ((*keys, ATTENTION), clips, length_s, device(preset))),
            }
            cases.append(Case(f"{name}, {clips} x {length_s} s", systems, clips * length_s))
    return cases


def update(preset: Preset) -> list[Case]:
    """A whole update of pretraining: front end to AdamW, with each framework's own objective."""
    toy = TOY if preset == "smoke" else ()
    clips, length_s = {"cpu": (4, 15), "gpu": (18, 20), "smoke": (2, 2)}[preset]
    size = clips, length_s, device(preset)

    def mixvec(config: str, *keys: str) -> System:
        return System(ours.update, (config, (*toy, *keys), *size))

    def transformers(kind: peers.Kind) -> System:
        return System(peers.transformers, (kind, bool(toy), *size), "transformers.models.wav2vec2.modeling_wav2vec2")

    groups = {
        "base": {"SummaryMixing": mixvec("base"), "self-attention": mixvec("base", ATTENTION),
                 "transformers Conformer": transformers("Wav2Vec2Conformer")},
        "95 M": {"SummaryMixing": mixvec("base", *(() if toy else (FFN_95M,))),
                 "transformers wav2vec 2.0": transformers("Wav2Vec2"),
                 "fairseq2 wav2vec 2.0": System(peers.fairseq2, (bool(toy), *size), "mixvec.wav2vec2")},
        "frame rates": {"50 frames/s": mixvec("base"), "25 frames/s": mixvec("base-25hz"),
                        "12.5 frames/s": mixvec("base-12hz")},
    }  # fmt: skip
    return [Case(f"{name}, {clips} x {length_s} s", systems, clips * length_s) for name, systems in groups.items()]


def inference(preset: Preset) -> list[Case]:
    """A recogniser of ``small`` as PyTorch runs it, as an ONNX file in fp32 and in int8, by the length of the audio."""
    if preset == "gpu":
        return []  # the files are for CPUs
    scratch = Path(mkdtemp(prefix="mixvec-bench-"))
    atexit.register(rmtree, scratch, ignore_errors=True)
    ours.publish(scratch, ("size=small", *(TOY if preset == "smoke" else ())))
    files = {"eager": "eager", "ONNX fp32": "fp32.onnx", "ONNX int8": "int8.onnx"}
    return [Case(f"recogniser, 1 x {length_s} s",
                 {name: System(ours.published, (str(scratch / file), 1, length_s)) for name, file in files.items()},
                 length_s) for length_s in ((2,) if preset == "smoke" else (2, 10, 60, 300))]  # fmt: skip


def streaming(preset: Preset) -> list[Case]:
    """``small`` in chunks of 640 ms: one chunk by the age of the stream, and training by the length of the audio."""
    if preset == "gpu":
        return []  # streams are for CPUs
    toy, smoke = (TOY[1:] if preset == "smoke" else ()), preset == "smoke"
    ages, lengths = ((10, 20), (2, 4)) if smoke else ((10, 60, 600, 3600), (10, 20, 40, 80))
    attention = (*toy, ATTENTION)
    contexts = {"SummaryMixing, 8 left": (toy, 8), "SummaryMixing, all": (toy, None),
                "self-attention, 8 left": (attention, 8), "self-attention, all": (attention, None)}  # fmt: skip
    chunks = {f"{name}, after {age_s} s": System(streams.chunk, (*context, age_s))
              for name, context in contexts.items() for age_s in ages
              if age_s <= 600 or name != "self-attention, all"}  # takes half an hour to get there  # fmt: skip
    return [Case("a chunk", chunks, streams.CHUNK_S)] + [
        Case(f"training, 1 x {length_s} s",
             {name: System(streams.training, (*context, length_s)) for name, context in contexts.items()}, length_s)
        for length_s in lengths]  # fmt: skip


SUITES: dict[str, Callable[[Preset], list[Case]]] = {
    "mixers": mixers, "inference": inference, "update": update, "streaming": streaming,
}  # fmt: skip


def device(preset: Preset) -> str:
    return "cuda" if preset == "gpu" else "cpu"
