"""Reading: FLAC files into padded batches of 16 kHz audio, cropped at random, in one process.

``ours`` is pretraining's loader without workers; it also draws the masks and distractors. ``libsndfile`` is the least
that can be done: read, cut, pad. ``datasets`` decodes every file to an array with ``map`` first, which it writes to
disk, as its users do, and then reads the arrays back.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from mixvec import encoder_config
from mixvec.frontend import SAMPLE_RATE_HZ, MelFrontEnd
from pretrain.loader import Updates, collate_masked, pad
from pretrain.objective import ObjectiveConfig
from pretrain.sources import find_utterances

from .cases import Case, Work

CLIPS_PER_BATCH = 10


def data(case: Case, variant: str) -> Work:
    """One pass over the corpus, each clip cropped to the case's seconds."""
    ((clips, seconds),) = case.batches
    folder = tempfile.TemporaryDirectory(prefix="mixvec-bench-")
    files = _write_corpus(Path(folder.name) / "audio", clips, seconds)
    if variant == "ours":
        step = _ours(files[0].parent, seconds)
    elif variant == "libsndfile":
        step = _libsndfile(files, seconds)
    else:
        step = _datasets(files, seconds, Path(folder.name))

    def keeping_the_folder() -> float:
        assert Path(folder.name).is_dir()
        return step()

    return Work(keeping_the_folder, {"datasets": "one pass, its map to arrays included"}.get(variant, "no workers"))


def _write_corpus(folder: Path, clips: int, seconds: float) -> list[Path]:
    """FLAC files of ``seconds`` to twice that: noise with a slope and syllables, which packs about as speech does."""
    folder.mkdir()
    rng, files = np.random.default_rng(0), []
    for number in range(clips):
        length = round(seconds * rng.uniform(1.0, 2.0) * SAMPLE_RATE_HZ)
        syllables = np.sin(2 * np.pi * 4.0 * np.arange(length) / SAMPLE_RATE_HZ) ** 2
        noise = np.convolve(rng.standard_normal(length), np.hanning(16), mode="same")
        files.append(folder / f"{number:04}.flac")
        soundfile.write(files[-1], 0.02 * syllables * noise, SAMPLE_RATE_HZ, subtype="PCM_16")
    return files


def _ours(folder: Path, seconds: float) -> Callable[[], float]:
    config = encoder_config("base")
    front_end = MelFrontEnd(config.mel_bins, 8, config.conv_strides)  # only asked for its frame lengths
    collate = partial(collate_masked, config=ObjectiveConfig(), frame_lengths=front_end.frame_lengths)
    corpus = find_utterances(str(folder), "data.train")
    batch_s = CLIPS_PER_BATCH * seconds
    updates = Updates(corpus, collate, update_s=batch_s, batch_max_s=batch_s, crop_s=seconds, min_s=0.5, workers=0,
                      seed=0)  # fmt: skip
    return lambda: sum(loaded.seconds for loaded in updates.once())


def _batches(clips: list[np.ndarray], rng: np.random.Generator, seconds: float) -> float:
    """Crop and pad; the seconds that are left."""
    wanted, cropped = round(seconds * SAMPLE_RATE_HZ), []
    for clip in clips:
        start = int(rng.integers(0, max(1, len(clip) - wanted + 1)))
        cropped.append(torch.from_numpy(clip[start : start + wanted]))
    groups: list[list[Tensor]] = [cropped[i : i + CLIPS_PER_BATCH] for i in range(0, len(cropped), CLIPS_PER_BATCH)]
    return sum(int(pad(group)[1].sum()) for group in groups) / SAMPLE_RATE_HZ


def _libsndfile(files: list[Path], seconds: float) -> Callable[[], float]:
    rng = np.random.default_rng(0)

    def step() -> float:
        total = 0.0
        for first in range(0, len(files), CLIPS_PER_BATCH):
            clips = [soundfile.read(file, dtype="float32")[0] for file in files[first : first + CLIPS_PER_BATCH]]
            total += _batches(clips, rng, seconds)
        return total

    return step


def _datasets(files: list[Path], seconds: float, folder: Path) -> Callable[[], float]:
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    rng, table = np.random.default_rng(0), Dataset.from_dict({"file": [str(file) for file in files]})

    def decode(row: dict[str, str]) -> dict[str, np.ndarray]:
        return {"array": soundfile.read(row["file"], dtype="float32")[0]}

    def step() -> float:
        cache = str(folder / "map.arrow")
        arrays = table.map(decode, cache_file_name=cache, load_from_cache_file=False).with_format("numpy")
        starts = range(0, len(arrays), CLIPS_PER_BATCH)
        return sum(_batches(list(arrays[i : i + CLIPS_PER_BATCH]["array"]), rng, seconds) for i in starts)

    return step
