"""Long recordings, cut virtually: segments of at most ``data.max_s``, found before training and read by seeking.

Without ``data.gate`` the segments of a recording are of even length and cover all of it, so an epoch reads everything
once; with it they are where there is speech (``mixvec/gate.py``). Only recordings longer than ``data.max_s`` are cut.

To find speech every long recording is read once; what was found is kept in the cache, never any audio.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from ..errors import UserError
from ..gate import find_speech, frame_levels
from .cache import Cache, key_of
from .config import DataConfig
from .headers import content_of, opened, place_of, progress_bar
from .sources import Corpus
from .utterances import Utterance

GRID_S = 0.04
"""Even cuts fall on multiples of it: whole samples at every common rate, so each sample is read exactly once."""

Once = Callable[[Callable[[], list[np.ndarray | str]]], list[np.ndarray | str]]


class Segments(NamedTuple):
    """M segments of N recordings, in order."""

    owners: np.ndarray
    """(M,) the number of the recording."""
    starts_s: np.ndarray
    """(M,) from the recording's own start."""
    durations_s: np.ndarray


@dataclass(frozen=True)
class Cut:
    """The result of ``cut_long``."""

    recordings: int
    segments: int
    left_out_s: float
    """Seconds that no segment covers."""

    def __str__(self) -> str:
        left_out = f"; {self.left_out_s / 3600:.2f} h are left out" if self.left_out_s >= 1 else ""
        return f"{self.recordings:,} long recordings are cut into {self.segments:,} segments{left_out}"


def even_segments(durations_s: np.ndarray, min_s: float, max_s: float) -> Segments:
    """Recordings of (N,) seconds in as few segments as ``max_s`` allows, which cover them evenly.

    None lasts less than ``min_s``, unless its recording does (or ``min_s`` is within ``GRID_S`` of ``max_s``). Where
    ``min_s`` is over half of ``max_s``, that can mean leaving out the end.
    """
    longest_s = max(np.floor(max_s / GRID_S + 1e-9) * GRID_S, min(GRID_S, max_s))
    counts = np.where(durations_s > max_s, np.ceil(durations_s / longest_s - 1e-9), 1).astype(np.int64)
    short = (counts > 1) & (durations_s / counts - GRID_S < min_s)
    counts -= short
    covered_s = np.where(short, counts * longest_s, durations_s)
    owners = np.repeat(np.arange(len(durations_s)), counts)
    numbers = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
    step = (covered_s / counts)[owners] / GRID_S
    starts_s = np.ceil(numbers * step - 1e-6) * GRID_S
    ends_s = np.where(numbers + 1 < counts[owners], np.ceil((numbers + 1) * step - 1e-6) * GRID_S, covered_s[owners])
    return Segments(owners, starts_s, ends_s - starts_s)


def even_segments_of(utterance: Utterance, min_s: float, max_s: float) -> list[Utterance]:
    """The ``even_segments`` of one utterance."""
    _, starts_s, durations_s = even_segments(np.array([utterance.duration_s]), min_s, max_s)
    return [
        replace(utterance, start_s=utterance.start_s + start_s, duration_s=duration_s)
        for start_s, duration_s in zip(starts_s.tolist(), durations_s.tolist(), strict=True)
    ]


def cut_long(corpus: Corpus, data: DataConfig, once: Once = lambda work: work()) -> Cut:
    """Replace the recordings of ``corpus`` that are longer than ``data.max_s`` by their segments.

    Args:
        corpus: of ``data.train``, with no utterance under ``data.min_s``.
        once: calls a function on one rank and returns its result on all.
    """
    whole, durations_s = corpus.utterances, corpus.utterances.durations_s
    is_long = durations_s > data.max_s
    long = np.flatnonzero(is_long)
    if not len(long):
        return Cut(0, 0, 0.0)
    if data.gate.below_db is None:
        parts = even_segments(durations_s[long], data.min_s, data.max_s)
    else:
        recordings = [whole[int(number)] for number in long]
        parts = _usable(recordings, once(lambda: _speech(recordings, data)), corpus)
    counts = np.ones(len(whole), dtype=np.int64)
    counts[long] = np.bincount(parts.owners, minlength=len(long))
    owners, cut = np.repeat(np.arange(len(whole)), counts), np.repeat(is_long, counts)
    starts_s, lengths_s = np.zeros(len(owners)), durations_s[owners]
    starts_s[cut], lengths_s[cut] = parts.starts_s, parts.durations_s
    corpus.utterances = whole.segments(owners, starts_s, lengths_s)
    return Cut(len(long), len(parts.owners), max(0.0, float(durations_s[long].sum() - parts.durations_s.sum())))


def _usable(recordings: list[Utterance], found: list[np.ndarray | str], corpus: Corpus) -> Segments:
    """The segments found, one recording after the other; recordings with a reason instead are skipped."""
    bounds_s = [np.zeros((0, 2)) if isinstance(answer, str) else answer for answer in found]
    for recording, answer in zip(recordings, found, strict=True):
        if isinstance(answer, str):
            corpus.skip(recording.source, answer)
    owners = np.repeat(np.arange(len(bounds_s)), [len(own) for own in bounds_s])
    begins_s, ends_s = np.concatenate(bounds_s).T
    return Segments(owners, begins_s, ends_s - begins_s)


def _speech(recordings: list[Utterance], data: DataConfig) -> list[np.ndarray | str]:
    """The segments of each recording, or why it cannot be used; from the cache where nothing has changed."""
    answers: list[np.ndarray | str] = []

    def look(recording: Utterance) -> np.ndarray | str:
        place = place_of(recording.source, recording.stored)
        try:
            content = content_of(place, recording.stored)
            key = key_of(
                "speech", place, content, recording.start_s, recording.duration_s, data.min_s, data.max_s, data.gate
            )
            known = cache.get([key]).get(key)
            bounds_s = _find(recording, data) if known is None else np.frombuffer(known).reshape(-1, 2)
            if known is None and content[1] != -1:
                cache.put({key: bounds_s.tobytes()})
        except UserError as error:
            return str(error)
        return bounds_s if len(bounds_s) else f"{recording.source}: all silence by data.gate"

    with (
        closing(Cache()) as cache,
        progress_bar("searched for speech in", " min") as progress,
        ThreadPoolExecutor(_cores(), thread_name_prefix="gate") as pool,
    ):
        for recording, answer in zip(recordings, pool.map(look, recordings), strict=True):
            answers.append(answer)
            progress.update(recording.duration_s / 60)
    return answers


def _find(recording: Utterance, data: DataConfig) -> np.ndarray:
    with opened(recording.source, recording.stored) as file:
        levels_db, frame_s = frame_levels(file, recording.start_s, recording.duration_s)
    if len(levels_db) * frame_s < data.min_s:
        raise UserError(f"{recording.source}: only {len(levels_db) * frame_s:.2f} s of its "
                        f"{recording.duration_s:.2f} s could be decoded")  # fmt: skip
    gate = data.gate
    assert gate.below_db is not None
    return find_speech(levels_db, frame_s, data.min_s, data.max_s, gate.below_db, gate.silence_s, gate.pad_s)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
