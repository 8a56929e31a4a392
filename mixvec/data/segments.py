"""Long recordings, cut virtually: segments of at most ``data.max_s``, read by seeking.

The segments of a recording are of even length and cover all of it, so an epoch reads everything once. Only recordings
longer than ``data.max_s`` are cut.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from .config import DataConfig
from .sources import Corpus
from .utterances import Utterance

GRID_S = 0.04
"""Even cuts fall on multiples of it: whole samples at every common rate, so each sample is read exactly once."""


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


def cut_long(corpus: Corpus, data: DataConfig) -> Cut:
    """Replace the recordings of ``corpus`` that are longer than ``data.max_s`` by their segments.

    Args:
        corpus: of ``data.train``, with no utterance under ``data.min_s``.
    """
    whole, durations_s = corpus.utterances, corpus.utterances.durations_s
    long = int((durations_s > data.max_s).sum())
    if not long:
        return Cut(0, 0, 0.0)
    parts = even_segments(durations_s, data.min_s, data.max_s)
    corpus.utterances = whole.segments(*parts)
    left_out_s = max(0.0, float(durations_s.sum() - parts.durations_s.sum()))
    return Cut(long, len(parts.owners) - len(whole) + long, left_out_s)
