"""Mixtures of corpora: how often the utterances of each stand in an epoch.

``data.train=[A, {source: B, weight: 2}]`` takes every utterance of B twice an epoch. ``data.temperature`` T then
evens the corpora out: they share the epoch as weight × hours^(1/T). At T = 1 they stay as they are; beyond it the
small ones get more.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..errors import UserError


def weighted_sources(source: Any, key: str) -> list[tuple[str, float]]:
    """The sources that ``key`` names, each with its weight.

    Raises:
        UserError: there is none, or an entry is neither a name nor a mapping of a source and a weight above 0.
    """
    if source in (None, "", []):
        raise UserError(f"{key} is not set: give it a folder of audio, such as {key}=DIR")
    found = []
    for entry in source if isinstance(source, list | tuple) else [source]:
        if not isinstance(entry, dict):
            found.append((str(entry), 1.0))
            continue
        name, weight = entry.get("source"), entry.get("weight", 1.0)
        if not isinstance(name, str) or not name or set(entry) - {"source", "weight"}:
            raise UserError(f"{key}: {entry} is neither a source nor of the form {{source: DIR, weight: 2}}")
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
            raise UserError(f"{key}: weight={weight!r} of {name} is not a number above 0")
        found.append((name, float(weight)))
    return found


def repeats_of(
    durations_s: np.ndarray, parts: np.ndarray, weights: list[float], temperature: float
) -> np.ndarray | None:
    """How often each utterance stands in an epoch, in expectation (N,); None where each does exactly once.

    An epoch lasts as long as the weights alone make it, whatever the temperature.

    Args:
        durations_s: (N,) seconds.
        parts: (N,) which corpus each belongs to.
        weights: of each corpus.
    """
    own = np.asarray(weights, dtype=np.float64)
    if temperature != 1.0:
        seconds = np.bincount(parts, durations_s, len(weights))
        evened = own * np.power(seconds, 1 / temperature, where=seconds > 0, out=np.zeros(len(weights)))
        own = evened / np.where(seconds > 0, seconds, 1) * ((own * seconds).sum() / evened.sum())
    repeats: np.ndarray = own[parts]
    return None if (repeats == 1.0).all() else repeats


def draw_copies(repeats: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """The numbers of an epoch's utterances: ``n`` for the first copy of the n-th of N, ``n + N`` for its second.

    Each stands there as often as the whole part of its repeats says, and once more with the rest as the chance; at
    least one utterance is drawn.
    """
    draws = np.random.default_rng([seed, epoch, 0, 1]).random(len(repeats))
    whole = np.floor(repeats)
    counts = (whole + (draws < repeats - whole)).astype(np.int64)
    if not counts.any():
        counts[np.argmin(draws - repeats)] = 1
    numbers = np.repeat(np.arange(len(repeats)), counts)
    copies = np.arange(len(numbers)) - np.repeat(np.cumsum(counts) - counts, counts)
    return numbers + len(repeats) * copies
