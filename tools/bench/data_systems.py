"""Reading: FLAC files into padded batches of 16 kHz audio, in one process.

``whole files`` and ``crops``: ours is pretraining's loader without workers, masks and distractors left out;
``libsndfile loop`` is the least that can be done: open, seek, read, pad.

``first epoch``: from a folder of files to the end of the first epoch, the preparation included. ``datasets map`` goes
the way of transformers' pretraining example: every file is decoded and normalised to an array by ``map``, which is
written to disk, filtered, then read back, padded by the feature extractor, with masks and negatives drawn. The index
of ours is emptied before each turn.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor

from mixvec import encoder_config
from mixvec.data.batches import Clip, LoaderConfig, Updates, pad
from mixvec.data.sources import find_utterances
from mixvec.model.frontend import SAMPLE_RATE_HZ, MelFrontEnd
from pretrain.objectives.contrastive import ObjectiveConfig, collate_masked

from .cases import FRAME_RATE_HZ, Case, Work

CLIPS_PER_BATCH = 10


def data(case: Case, variant: str) -> Work:
    """One pass over the corpus; with ``crops`` each clip is a part of a file of up to twice its length."""
    ((clips, seconds),) = case.batches
    folder = tempfile.TemporaryDirectory(prefix="mixvec-bench-")
    files = _write_corpus(Path(folder.name) / "audio", clips, seconds, 2.0 if case.group == "crops" else 1.0)
    first = case.group == "first epoch"
    if variant == "ours":
        step = partial(_our_first_epoch, folder.name, seconds) if first else _ours(files[0].parent, seconds)
    else:
        step = partial(_datasets, folder.name, files) if first else _libsndfile(files, seconds)

    def keeping_the_folder() -> float:
        assert Path(folder.name).is_dir()
        return step()

    if not first:
        return Work(keeping_the_folder, "no workers")
    audio = sum(path.stat().st_size for path in files)
    keeping_the_folder()
    taken = sum(path.stat().st_size for path in Path(folder.name).rglob("*") if path.is_file()) - audio
    return Work(keeping_the_folder, f"no workers; {taken / 1e6:.3g} MB of disk for {audio / 1e6:.3g} MB of FLAC")


def _write_corpus(folder: Path, clips: int, seconds: float, most: float) -> list[Path]:
    """FLAC files of ``seconds`` to ``most`` times that: noise with syllables, which packs about as speech does."""
    folder.mkdir()
    rng, files = np.random.default_rng(0), []
    for number in range(clips):
        length = round(seconds * rng.uniform(1.0, most) * SAMPLE_RATE_HZ)
        syllables = np.sin(2 * np.pi * 4.0 * np.arange(length) / SAMPLE_RATE_HZ) ** 2
        noise = np.convolve(rng.standard_normal(length), np.hanning(16), mode="same")
        files.append(folder / f"{number:04}.flac")
        soundfile.write(files[-1], 0.02 * syllables * noise, SAMPLE_RATE_HZ, subtype="PCM_16")
    return files


def _updates(folder: Path, seconds: float, collate: Callable[[list[Clip]], Any]) -> Updates[Any]:
    batch_s = CLIPS_PER_BATCH * seconds
    return Updates(find_utterances(str(folder), "data.train"), collate,
                   LoaderConfig(batch_s, batch_s, crop_s=seconds, min_s=0.5, workers=0, seed=0))  # fmt: skip


def _ours(folder: Path, seconds: float) -> Callable[[], float]:
    updates = _updates(folder, seconds, lambda clips: pad([clip.waveform for clip in clips]))
    return lambda: sum(loaded.seconds for loaded in updates.once())


def _our_first_epoch(folder: str, seconds: float) -> float:
    os.environ["MIXVEC_CACHE"] = cache = os.path.join(folder, "cache")
    for index in Path(cache).rglob("*.arrow"):
        index.unlink()
    config = encoder_config("base")
    front_end = MelFrontEnd(config.mel_bins, 8, config.conv_strides)  # only asked for its frame lengths
    collate = partial(collate_masked, config=ObjectiveConfig(), frame_lengths=front_end.frame_lengths)
    updates = _updates(Path(folder) / "audio", seconds, collate)
    epoch = islice(updates.start(), updates.epoch_length(0))
    return sum(part.seconds for _, loaded in epoch for part in loaded)


def _libsndfile(files: list[Path], seconds: float) -> Callable[[], float]:
    rng, wanted = np.random.default_rng(0), round(seconds * SAMPLE_RATE_HZ)

    def read(path: Path) -> Tensor:
        with soundfile.SoundFile(path) as file:
            file.seek(int(rng.integers(0, max(1, file.frames - wanted + 1))))
            return torch.from_numpy(file.read(wanted, dtype="float32"))

    def step() -> float:
        groups = (files[first : first + CLIPS_PER_BATCH] for first in range(0, len(files), CLIPS_PER_BATCH))
        return sum(int(pad([read(path) for path in group])[1].sum()) for group in groups) / SAMPLE_RATE_HZ

    return step


def _datasets(folder: str, files: list[Path]) -> float:
    from datasets import Dataset, disable_progress_bars
    from torch.utils.data import DataLoader
    from transformers import Wav2Vec2FeatureExtractor

    disable_progress_bars()
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)

    def prepare(row: dict[str, str]) -> dict[str, Any]:
        samples, rate_hz = soundfile.read(row["file"], dtype="float32")
        values = extractor(samples, sampling_rate=rate_hz).input_values[0]
        return {"input_values": values, "input_length": len(values)}

    paths = sorted(str(path) for path in files[0].parent.rglob("*.flac"))
    caches = [os.path.join(folder, name) for name in ("map.arrow", "filter.arrow")]
    arrays = Dataset.from_dict({"file": paths}).map(
        prepare, remove_columns=["file"], cache_file_name=caches[0], load_from_cache_file=False
    )
    arrays = arrays.filter(
        lambda length: length > SAMPLE_RATE_HZ // 2, input_columns=["input_length"], cache_file_name=caches[1],
        load_from_cache_file=False,
    ).remove_columns("input_length")  # fmt: skip
    loader = DataLoader(arrays, CLIPS_PER_BATCH, shuffle=True, collate_fn=partial(_padded, extractor))
    return sum(float(batch["attention_mask"].sum()) for batch in loader) / SAMPLE_RATE_HZ


def _padded(extractor: Any, rows: list[dict[str, Any]]) -> Any:
    """A padded batch with masks and 100 negatives, as transformers' collator for pretraining makes it."""
    from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices, _sample_negative_indices

    batch = extractor.pad(rows, padding=True, return_tensors="pt")
    frames = batch["input_values"].shape[1] * FRAME_RATE_HZ // SAMPLE_RATE_HZ
    real = torch.arange(frames) < (batch["attention_mask"].sum(1, keepdim=True) * FRAME_RATE_HZ // SAMPLE_RATE_HZ)
    mask = _compute_mask_indices((len(rows), frames), 0.65, 10, attention_mask=real.long())
    batch["mask_time_indices"] = torch.from_numpy(mask)
    batch["negatives"] = torch.from_numpy(_sample_negative_indices((len(rows), frames), 100, mask_time_indices=mask))
    return batch
