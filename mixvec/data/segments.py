"""Utterances of other lengths than the corpus has, without copying audio.

Recordings longer than ``data.max_s`` are cut into segments of even length that cover all of them, read by seeking. With
``data.join_s`` neighbours are joined, since a model that is trained on short clips loses accuracy on long ones: they
follow each other in the corpus and are segments of one recording, or of one speaker, or, where rows name no speaker,
files of one folder. Each is in one joined utterance, in every epoch in the same one.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePath

import numpy as np

from .config import DataConfig
from .sources import Corpus
from .utterances import Utterance

GRID_S = 0.04
"""Even cuts fall on multiples of it: whole samples at every common rate, so each sample is read exactly once."""
OVERLAP_S = 0.01
"""By how much a joined segment may begin before the end of the one before, as rounded times do."""


def even_segments(durations_s: np.ndarray, min_s: float, max_s: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Recordings of (N,) seconds in as few segments as ``max_s`` allows, which cover them evenly, in order: of which
    recording each is (M,), from where in it (M,) and for how long (M,).

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
    return owners, starts_s, ends_s - starts_s


def even_segments_of(utterance: Utterance, min_s: float, max_s: float) -> list[Utterance]:
    """The ``even_segments`` of one utterance."""
    _, starts_s, durations_s = even_segments(np.array([utterance.duration_s]), min_s, max_s)
    spans = zip((utterance.start_s + starts_s).tolist(), durations_s.tolist(), strict=True)
    return [replace(utterance, start_s=start_s, duration_s=duration_s) for start_s, duration_s in spans]


def cut_long(corpus: Corpus, data: DataConfig) -> str | None:
    """Replace the recordings of ``corpus``, none under ``data.min_s``, that are longer than ``data.max_s`` by their
    segments; what it did, for the log."""
    whole, durations_s = corpus.utterances, corpus.utterances.durations_s
    long = int((durations_s > data.max_s).sum())
    if not long:
        return None
    owners, starts_s, lengths_s = even_segments(durations_s, data.min_s, data.max_s)
    corpus.utterances = whole.segments(owners, starts_s, lengths_s)
    left_out_h = float(durations_s.sum() - lengths_s.sum()) / 3600
    left_out = f"; {left_out_h:.2f} h are left out" if left_out_h >= 1 / 3600 else ""
    return f"{long:,} long recordings are cut into {len(owners) - len(whole) + long:,} segments{left_out}"


def join_neighbours(corpus: Corpus, join_s: float) -> str | None:
    """Join the neighbours of ``corpus``, in order, as many as ``join_s`` seconds hold; what it did, for the log."""
    firsts, counts, total_s = list[int](), list[int](), 0.0
    before: Utterance | None = None
    for number, utterance in enumerate(corpus.utterances):
        if before and total_s + utterance.duration_s <= join_s and _follows(before, utterance):
            counts[-1] += 1
            total_s += utterance.duration_s
        else:
            firsts.append(number)
            counts.append(1)
            total_s = utterance.duration_s
        before = utterance
    found = len(corpus.utterances)
    if len(firsts) == found:
        return None
    corpus.utterances = corpus.utterances.joined(np.array(firsts), np.array(counts))
    return f"{found:,} utterances are joined to {len(firsts):,} of up to {join_s:g} s (data.join_s)"


def _follows(one: Utterance, other: Utterance) -> bool:
    """Whether ``other`` is a neighbour of ``one``, which precedes it in the corpus."""
    if one.corpus_number != other.corpus_number or (one.text is None) != (other.text is None):
        return False
    if one.source == other.source:
        return other.start_s >= one.start_s + one.duration_s - OVERLAP_S
    if one.speaker or other.speaker:
        return one.speaker == other.speaker
    files = one.stored is None and other.stored is None
    return files and PurePath(one.source).parent == PurePath(other.source).parent
