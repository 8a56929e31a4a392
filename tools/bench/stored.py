"""What is on disk: FLAC files to padded batches in one process, and a checkpoint of a pretraining."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile
import torch
from accelerate import Accelerator
from torch.optim import AdamW

from mixvec.data.batches import LoaderConfig, Updates, pad
from mixvec.data.sources import find_utterances
from mixvec.model.frontend import SAMPLE_RATE_HZ
from mixvec.training import checkpoint as checkpoints
from mixvec.training.background import Background
from mixvec.training.config import RunConfig

from .measure import Work
from .ours import load, training

CLIPS_PER_BATCH = 10


def first_epoch(reader: Literal["mixvec", "libsndfile", "datasets"], clips: int, seconds: float) -> Work:
    """From a folder of FLAC files, of noise with syllables, to the last padded batch of the first epoch.

    ``libsndfile`` opens, reads and pads, and does nothing else. ``datasets`` decodes and normalises every file to an
    array on disk with ``map``, as transformers' example of pretraining does.
    """
    root = tempfile.TemporaryDirectory(prefix="mixvec-bench-")  # gone with the last of the functions that name it
    rng, length = np.random.default_rng(0), round(seconds * SAMPLE_RATE_HZ)
    syllables = np.sin(2 * np.pi * 4.0 * np.arange(length) / SAMPLE_RATE_HZ) ** 2
    for number in range(clips):
        hiss = np.convolve(rng.standard_normal(length), np.hanning(16), mode="same")
        soundfile.write(Path(root.name, f"{number:04}.flac"), 0.02 * syllables * hiss, SAMPLE_RATE_HZ)
    read = {"mixvec": _mixvec, "libsndfile": _libsndfile, "datasets": _datasets}[reader]

    def step() -> None:
        cache = Path(root.name, "cache")
        shutil.rmtree(cache, ignore_errors=True)
        cache.mkdir()
        read(Path(root.name), cache, seconds)

    return Work(step)


def _mixvec(folder: Path, cache: Path, seconds: float) -> None:
    os.environ["MIXVEC_CACHE"] = str(cache)
    batch_s = CLIPS_PER_BATCH * seconds
    updates = Updates(
        find_utterances(str(folder), "data.train"), lambda clips: pad([clip.waveform for clip in clips]),
        LoaderConfig(batch_s, batch_s, crop_s=seconds, min_s=0.5, workers=0, seed=0),
    )  # fmt: skip
    for _ in islice(updates.start(), updates.epoch_length(0)):
        pass


def _libsndfile(folder: Path, cache: Path, seconds: float) -> None:
    files = sorted(folder.glob("*.flac"))
    for first in range(0, len(files), CLIPS_PER_BATCH):
        chosen = files[first : first + CLIPS_PER_BATCH]
        pad([torch.from_numpy(soundfile.read(path, dtype="float32")[0]) for path in chosen])


def _datasets(folder: Path, cache: Path, seconds: float) -> None:
    from datasets import Dataset, disable_progress_bars

    def prepare(row: dict[str, str]) -> dict[str, Any]:
        samples = soundfile.read(row["file"], dtype="float32")[0]
        return {"input_values": (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)}

    disable_progress_bars()
    files = Dataset.from_dict({"file": sorted(map(str, folder.glob("*.flac")))})
    arrays = files.map(prepare, remove_columns=["file"], cache_file_name=str(cache / "map.arrow"))
    for batch in arrays.with_format("torch").shuffle(seed=0).iter(CLIPS_PER_BATCH):
        pad(list(batch["input_values"]))


class Deferred(Background):
    """Keeps the work that it was given last, and does not do it."""

    work: Callable[[], object]

    def add(self, work: Callable[[], object]) -> None:
        self.work = work


def checkpoint(part: Literal["copy", "write", "load"], keys: Sequence[str], device: str) -> Work:
    """A part of a checkpoint of ``base``: the copy that training waits for, writing it, or loading it again."""
    model, loss = training(load("base", keys), 2, 2.0, device)
    optimizer, accelerator, deferred = AdamW(model.parameters(), 1e-5), Accelerator(cpu=device == "cpu"), Deferred()
    torch.autograd.backward(loss())
    optimizer.step()  # which makes the moments
    optimizer.zero_grad()
    root = tempfile.TemporaryDirectory(prefix="mixvec-bench-")

    def copy() -> None:
        checkpoints.save(Path(root.name), checkpoints.RunState(1), model, optimizer, accelerator, RunConfig(), deferred)

    def resume() -> None:
        checkpoints.load(checkpoints.listed(Path(root.name))[-1], model, optimizer, accelerator)

    copy()
    deferred.work()
    size = sum(path.stat().st_size for path in Path(root.name).rglob("*.*"))
    steps = {"copy": copy, "write": lambda: deferred.work(), "load": resume}
    return Work(steps[part], f"{size / 1e6:,.0f} MB; every {RunConfig().save_every:,} updates by default")
