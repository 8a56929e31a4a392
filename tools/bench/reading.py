"""Reading FLAC files into padded batches of 16 kHz audio, in one process, and planning an epoch.

``libsndfile`` is the least that can be done: open, read, pad. ``datasets_map`` goes the way of the pretraining example
of transformers: ``map`` decodes and normalises every file to an array on disk, which is then read back and padded.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor

from mixvec.data.batches import Clip, LoaderConfig, Updates, pad
from mixvec.data.plan import deal, plan_epoch
from mixvec.data.sources import find_utterances
from mixvec.model.frontend import SAMPLE_RATE_HZ

from .measure import Work

CLIPS_PER_BATCH = 10


class Corpus:
    """FLAC files of noise with syllables, which packs about as speech does; gone with this object."""

    def __init__(self, clips: int, seconds: float) -> None:
        self.clips, self.seconds = clips, seconds
        self.root = tempfile.TemporaryDirectory(prefix="mixvec-bench-")
        self.folder, self.cache = Path(self.root.name, "audio"), Path(self.root.name, "cache")
        self.folder.mkdir()
        rng, length = np.random.default_rng(0), round(seconds * SAMPLE_RATE_HZ)
        syllables = np.sin(2 * np.pi * 4.0 * np.arange(length) / SAMPLE_RATE_HZ) ** 2
        for number in range(clips):
            hiss = np.convolve(rng.standard_normal(length), np.hanning(16), mode="same")
            soundfile.write(self.folder / f"{number:04}.flac", 0.02 * syllables * hiss, SAMPLE_RATE_HZ)

    def updates(self) -> Updates[Any]:
        """Batches of pretraining's loader without workers; audio only."""
        os.environ["MIXVEC_CACHE"] = str(self.cache)
        batch_s = CLIPS_PER_BATCH * self.seconds
        return Updates(find_utterances(str(self.folder), "data.train"), collate,
                       LoaderConfig(batch_s, batch_s, crop_s=self.seconds, min_s=0.5, workers=0, seed=0))  # fmt: skip


def collate(clips: list[Clip]) -> tuple[Tensor, Tensor]:
    return pad([clip.waveform for clip in clips])


def ours(clips: int, seconds: float) -> Work:
    """One pass over the corpus, its index made before."""
    corpus = Corpus(clips, seconds)
    updates = corpus.updates()
    return Work(lambda: [corpus, sum(loaded.seconds for loaded in updates.once())][1])


def first_epoch(clips: int, seconds: float) -> Work:
    """From a folder of files to the end of the first epoch, with an empty index."""
    corpus = Corpus(clips, seconds)

    def step() -> None:
        shutil.rmtree(corpus.cache, ignore_errors=True)
        updates = corpus.updates()
        for _ in islice(updates.start(), updates.epoch_length(0)):
            pass

    step()
    return Work(step, f"{_megabytes(corpus.cache):.3g} MB on disk for {_megabytes(corpus.folder):.3g} MB of FLAC")


def libsndfile(clips: int, seconds: float) -> Work:
    """One pass over the corpus."""
    corpus = Corpus(clips, seconds)

    def step() -> None:
        files = sorted(corpus.folder.iterdir())
        for first in range(0, len(files), CLIPS_PER_BATCH):
            chosen = files[first : first + CLIPS_PER_BATCH]
            pad([torch.from_numpy(soundfile.read(path, dtype="float32")[0]) for path in chosen])

    return Work(step)


def datasets_map(clips: int, seconds: float) -> Work:
    """From a folder of files to the end of the first epoch."""
    from datasets import Dataset, disable_progress_bars
    from torch.utils.data import DataLoader
    from transformers import Wav2Vec2FeatureExtractor

    disable_progress_bars()
    corpus, extractor_of = Corpus(clips, seconds), Wav2Vec2FeatureExtractor
    made: Callable[..., Any] = extractor_of
    extractor = made(do_normalize=True, return_attention_mask=True)

    def prepare(row: dict[str, str]) -> dict[str, Any]:
        samples, rate_hz = soundfile.read(row["file"], dtype="float32")
        return {"input_values": extractor(samples, sampling_rate=rate_hz).input_values[0]}

    def step() -> None:
        corpus.cache.mkdir(exist_ok=True)
        paths = sorted(str(path) for path in corpus.folder.iterdir())
        arrays = Dataset.from_dict({"file": paths}).map(
            prepare, remove_columns=["file"], cache_file_name=str(corpus.cache / "map.arrow"),
            load_from_cache_file=False,
        )  # fmt: skip
        loader: DataLoader[Any] = DataLoader(
            arrays, CLIPS_PER_BATCH, shuffle=True,
            collate_fn=lambda rows: extractor.pad(rows, padding=True, return_tensors="pt"),
        )  # fmt: skip
        for _ in loader:
            pass

    step()
    return Work(step, f"{_megabytes(corpus.cache):.3g} MB on disk for {_megabytes(corpus.folder):.3g} MB of FLAC")


def plan(count: int) -> Work:
    """All updates of an epoch, and one in the middle of it dealt to a rank of eight, as when resuming."""
    durations_s = np.minimum(np.random.default_rng(0).lognormal(np.log(14.4) - 0.125, 0.5, count), 30.0)

    def step() -> None:
        updates = plan_epoch(durations_s, 5760.0, 0, 0)
        deal(updates[len(updates) // 2], durations_s, 360.0, ranks=8, rank=0)

    return Work(step, f"{durations_s.sum() / 3600:,.0f} h")


def _megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
