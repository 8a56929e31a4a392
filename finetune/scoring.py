"""Word and character error rates with what they are made of, and how sure they are.

Symbols: N utterances, C clusters (speakers, or utterances where speakers are not known), R resamples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jiwer
import numpy as np

RESAMPLES = 10_000
LENGTHS_S = (0.0, 2.0, 4.0, 8.0, 16.0)
"""Where the buckets of ``by_length`` begin; the last is open."""


class Errors(NamedTuple):
    """Each utterance's errors, in words or in characters."""

    counts: np.ndarray
    """(N, 4): hits, substitutions, deletions, insertions. The first three add up to the reference's length."""
    confusions: Counter[tuple[str, str]]
    """(reference, prediction) of each error of words; one side is empty where the word was deleted or inserted."""


class Rate(NamedTuple):
    """Errors over the length of all references, and what 95 of 100 resampled data sets have."""

    value: float
    low: float
    high: float
    length: int
    substitutions: int
    deletions: int
    insertions: int


class Difference(NamedTuple):
    """The second's error rate less the first's, resampled together; negative where the second is better."""

    value: float
    low: float
    high: float
    second_better: float
    """The share of resamples in which it is, ties halved: the probability of improvement of Bisani and Ney (2004)."""


def count_words(references: Sequence[str], predictions: Sequence[str]) -> Errors:
    """The fewest errors in words, utterance by utterance. A reference may be empty: all said is inserted then."""
    counts, confusions = np.zeros((len(references), 4), dtype=np.int64), Counter[tuple[str, str]]()
    for row, (reference, prediction) in enumerate(zip(references, predictions, strict=True)):
        found = jiwer.process_words(reference, prediction)
        counts[row] = found.hits, found.substitutions, found.deletions, found.insertions
        for chunk in found.alignments[0]:
            if chunk.type == "equal":
                continue
            wanted = found.references[0][chunk.ref_start_idx : chunk.ref_end_idx]
            said = found.hypotheses[0][chunk.hyp_start_idx : chunk.hyp_end_idx]
            blanks = [""] * max(len(wanted), len(said))
            confusions.update(zip(wanted or blanks, said or blanks, strict=True))
    return Errors(counts, confusions)


def count_characters(references: Sequence[str], predictions: Sequence[str]) -> Errors:
    """The same in characters, spaces among them."""
    counts = np.zeros((len(references), 4), dtype=np.int64)
    for row, (reference, prediction) in enumerate(zip(references, predictions, strict=True)):
        found = jiwer.process_characters(reference, prediction)
        counts[row] = found.hits, found.substitutions, found.deletions, found.insertions
    return Errors(counts, Counter())


def clusters_of(speakers: Sequence[str | None]) -> np.ndarray:
    """(N,) the number of each utterance's cluster: its speaker where all are known and differ, else itself.

    What one speaker says is alike, so utterances of few speakers say less than as many of many.
    """
    if None in speakers or len(set(speakers)) < 2:
        return np.arange(len(speakers))
    return np.unique(np.array(speakers), return_inverse=True)[1]


def rate_of(counts: np.ndarray, clusters: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> Rate:
    """The error rate of counts (N, 4), with its 95 % bootstrap interval over clusters (N,).

    A reference of no length at all counts as one unit, so that a rate over empty references is finite.
    """
    sums = _errors_and_lengths(counts)
    low, high = _middle(_rates(resampled(sums, clusters, resamples, seed)))
    hits, substitutions, deletions, insertions = counts.sum(axis=0).tolist()
    value = float(_rates(sums.sum(axis=0)))
    return Rate(value, low, high, hits + substitutions + deletions, substitutions, deletions, insertions)


def compare(
    first: np.ndarray, second: np.ndarray, clusters: np.ndarray, resamples: int = RESAMPLES, seed: int = 0
) -> Difference:
    """The paired bootstrap of two systems' counts (N, 4) on the same utterances (Bisani and Ney, ICASSP 2004)."""
    both = np.concatenate([_errors_and_lengths(first), _errors_and_lengths(second)], axis=1)  # (N, 4)
    drawn = resampled(both, clusters, resamples, seed)
    differences = _rates(drawn[:, 2:]) - _rates(drawn[:, :2])
    low, high = _middle(differences)
    better = float((differences < 0).mean() + 0.5 * (differences == 0).mean())
    whole = both.sum(axis=0)
    return Difference(float(_rates(whole[2:]) - _rates(whole[:2])), low, high, better)


def resampled(values: np.ndarray, clusters: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Sums (R, K) of values (N, K) over as many clusters as there are, drawn with replacement."""
    own = np.zeros((int(clusters.max()) + 1, values.shape[1]))
    np.add.at(own, clusters, values)
    return np.concatenate(list(_draws(own, resamples, np.random.default_rng(seed))))


def _draws(own: np.ndarray, resamples: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    most = max(1, 2_000_000 // len(own))
    for begin in range(0, resamples, most):
        drawn = rng.integers(0, len(own), (min(most, resamples - begin), len(own)))
        yield own[drawn].sum(axis=1)


def by_length(durations_s: Sequence[float]) -> dict[str, np.ndarray]:
    """Buckets of seconds, each with the utterances (N,) bool in it; empty ones are left out."""
    number = np.searchsorted(LENGTHS_S, np.asarray(durations_s), "right") - 1
    ends = [f"to {end:g} s" for end in LENGTHS_S[1:]] + ["or more s"]
    names = [f"{begin:g} {end}" for begin, end in zip(LENGTHS_S, ends, strict=True)]
    return {name: number == i for i, name in enumerate(names) if (number == i).any()}


def intervals(references: Sequence[str], predictions: Sequence[str], speakers: Sequence[str | None]) -> dict[str, Any]:
    """What results.json holds beside wer and cer: their intervals, and the errors in words by kind."""
    clusters = clusters_of(speakers)
    words = rate_of(count_words(references, predictions).counts, clusters)
    letters = rate_of(count_characters(references, predictions).counts, clusters)
    return {
        "wer_95": [words.low, words.high],
        "cer_95": [letters.low, letters.high],
        "resampled": "utterances" if len(clusters) == len(set(clusters.tolist())) else "speakers",
        "words": words.length,
        "substitutions": words.substitutions,
        "deletions": words.deletions,
        "insertions": words.insertions,
    }


def _errors_and_lengths(counts: np.ndarray) -> np.ndarray:
    return np.stack([counts[:, 1:].sum(axis=1), counts[:, :3].sum(axis=1)], axis=1)


def _rates(sums: np.ndarray) -> np.ndarray:
    return sums[..., 0] / np.maximum(sums[..., 1], 1)  # type: ignore[no-any-return]


def _middle(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)
