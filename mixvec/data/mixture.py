"""Mixtures of corpora: how often an epoch takes the utterances of each.

``data.train=[A, {source: B, weight: 2}]`` takes every utterance of B twice an epoch. ``data.temperature`` T then
balances the corpora: they share the epoch as weight × hours^(1/T). At T = 1 nothing changes; above it the small ones
get more.
"""

from __future__ import annotations

import numpy as np


def repeats_of(
    durations_s: np.ndarray, corpus_numbers: np.ndarray, weights: list[float], temperature: float
) -> np.ndarray | None:
    """How often an epoch takes each utterance, in expectation (N,); None where it takes each exactly once.

    An epoch lasts as long as the weights alone make it, whatever the temperature.

    Args:
        durations_s: (N,) seconds.
        corpus_numbers: (N,) which corpus each belongs to.
        weights: the weight of each corpus.
    """
    own = np.asarray(weights, dtype=np.float64)
    if temperature != 1.0:
        seconds = np.bincount(corpus_numbers, durations_s, len(weights))
        evened = own * np.power(seconds, 1 / temperature, where=seconds > 0, out=np.zeros(len(weights)))
        own = evened / np.where(seconds > 0, seconds, 1) * ((own * seconds).sum() / evened.sum())
    repeats: np.ndarray = own[corpus_numbers]
    return None if (repeats == 1.0).all() else repeats


def draw_copies(repeats: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """The numbers of an epoch's utterances: ``n`` for the first copy of the n-th of N, ``n + N`` for its second.

    Each is taken as often as the whole part of its repeats, and one more time with the fraction as the probability; at
    least one utterance is drawn.
    """
    draws = np.random.default_rng([seed, epoch, 0, 1]).random(len(repeats))
    whole = np.floor(repeats)
    counts = (whole + (draws < repeats - whole)).astype(np.int64)
    if not counts.any():
        counts[np.argmin(draws - repeats)] = 1
    numbers = np.repeat(np.arange(len(repeats)), counts)
    copies = np.arange(len(numbers)) - np.repeat(np.cumsum(counts) - counts, counts)
    drawn: np.ndarray = numbers + len(repeats) * copies
    return drawn
