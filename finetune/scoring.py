"""Word and character error rates: the errors that they count, and bootstrap intervals.

Symbols: N utterances, C clusters (speakers, or utterances where speakers are not known), R resamples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

import jiwer
import numpy as np

RESAMPLES = 10_000
LENGTHS_S = (0.0, 2.0, 4.0, 8.0, 16.0)
"""Lower ends of the buckets of ``by_length``; the last bucket is open."""


class Errors(NamedTuple):
    """Each utterance's errors, in words or in characters."""

    counts: np.ndarray
    """(N, 4): hits, substitutions, deletions, insertions. The first three add up to the reference's length."""
    confusions: Counter[tuple[str, str]]
    """(reference, prediction) of each error; one side is empty where a word or character was deleted or inserted."""


class Rate(NamedTuple):
    """An error rate (errors over the length of all references) with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float
    length: int
    substitutions: int
    deletions: int
    insertions: int


class Difference(NamedTuple):
    """The second system's error rate minus the first's, with the interval of a paired bootstrap."""

    value: float
    low: float
    high: float
    second_better: float
    """Probability of improvement (Bisani and Ney 2004): the share of resamples in which it is lower, ties halved."""


def error_rates(references: list[str], predictions: list[str]) -> dict[str, float]:
    """``wer`` and ``cer``: errors in words and in characters over the length of all references."""
    return {"wer": float(jiwer.wer(references, predictions)), "cer": float(jiwer.cer(references, predictions))}


def count_words(references: Sequence[str], predictions: Sequence[str]) -> Errors:
    """Word errors of each utterance. A reference may be empty: every predicted word is an insertion then."""
    return _count(references, predictions, jiwer.process_words)


def count_characters(references: Sequence[str], predictions: Sequence[str]) -> Errors:
    """Character errors of each utterance, spaces included."""
    return _count(references, predictions, jiwer.process_characters)


def _count(references: Sequence[str], predictions: Sequence[str], align: Callable[[str, str], Any]) -> Errors:
    counts, confusions = np.zeros((len(references), 4), dtype=np.int64), Counter[tuple[str, str]]()
    for row, (reference, prediction) in enumerate(zip(references, predictions, strict=True)):
        found = align(reference, prediction)
        counts[row] = found.hits, found.substitutions, found.deletions, found.insertions
        for chunk in found.alignments[0]:
            wanted = found.references[0][chunk.ref_start_idx : chunk.ref_end_idx]
            given = found.hypotheses[0][chunk.hyp_start_idx : chunk.hyp_end_idx]
            if chunk.type != "equal":
                confusions.update(zip_longest(wanted, given, fillvalue=""))
    return Errors(counts, confusions)


def clusters_of(speakers: Sequence[str | None]) -> np.ndarray:
    """The cluster (N,) of each utterance to resample: its speaker where at least two are known, else itself.

    Utterances of one speaker are correlated, so an interval that resamples utterances alone would be too narrow.
    """
    if None in speakers or len(set(speakers)) < 2:
        return np.arange(len(speakers))
    return np.unique(np.array(speakers), return_inverse=True)[1]


def rate_of(counts: np.ndarray, clusters: np.ndarray, resamples: int = RESAMPLES) -> Rate:
    """The error rate of counts (N, 4), with its 95 % bootstrap interval over clusters (N,)."""
    (drawn,), (value,) = _rates([counts], clusters, resamples)
    hits, substitutions, deletions, insertions = counts.sum(axis=0).tolist()
    low, high = np.percentile(drawn, (2.5, 97.5)).tolist()
    return Rate(value, low, high, hits + substitutions + deletions, substitutions, deletions, insertions)


def compare(first: np.ndarray, second: np.ndarray, clusters: np.ndarray) -> Difference:
    """The paired bootstrap of two systems' counts (N, 4) on the same utterances (Bisani and Ney, ICASSP 2004)."""
    drawn, (one, other) = _rates([first, second], clusters, RESAMPLES)
    differences = drawn[1] - drawn[0]
    better = float((differences < 0).mean() + 0.5 * (differences == 0).mean())
    low, high = np.percentile(differences, (2.5, 97.5)).tolist()
    return Difference(other - one, low, high, better)


def _rates(systems: list[np.ndarray], clusters: np.ndarray, resamples: int) -> tuple[list[np.ndarray], list[float]]:
    """Each system's error rates (R,) of resampled clusters, and of all; no reference at all counts as one word."""
    sums = np.concatenate([np.stack([own[:, 1:].sum(1), own[:, :3].sum(1)], axis=1) for own in systems], axis=1)
    drawn = np.vstack([resampled(sums, clusters, resamples, seed=0), sums.sum(axis=0)])  # (R + 1, 2 systems)
    rates = (drawn[:, ::2] / np.maximum(drawn[:, 1::2], 1)).T
    return list(rates[:, :-1]), rates[:, -1].tolist()


def resampled(values: np.ndarray, clusters: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Sums (R, K) of values (N, K) over as many clusters as there are, drawn with replacement."""
    sums = np.zeros((int(clusters.max()) + 1, values.shape[1]))
    np.add.at(sums, clusters, values)
    rng, count = np.random.default_rng(seed), len(sums)
    most = max(1, 2_000_000 // count)  # draws held in memory at once
    chunks = [min(most, resamples - begin) for begin in range(0, resamples, most)]
    return np.concatenate([sums[rng.integers(0, count, (chunk, count))].sum(axis=1) for chunk in chunks])


def by_length(durations_s: Sequence[float]) -> dict[str, np.ndarray]:
    """Buckets of duration by name, each with a mask (N,) of its utterances; empty buckets are omitted."""
    number = np.searchsorted(LENGTHS_S, np.asarray(durations_s), "right") - 1
    ends = [f"to {end:g} s" for end in LENGTHS_S[1:]] + ["or more s"]
    names = [f"{begin:g} {end}" for begin, end in zip(LENGTHS_S, ends, strict=True)]
    return {name: number == i for i, name in enumerate(names) if (number == i).any()}
