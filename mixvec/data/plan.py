"""Which utterances make up each update, and which rank sees which of them: pure functions of (seed, epoch).

An update is planned for the whole run, whatever the number of ranks, and then dealt out. Every rank takes part in
every update with the same number of micro-batches, so that no rank waits for another.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

POOL_UPDATES = 200
"""Utterances are shuffled over the corpus, then sorted by duration within pools of about this many updates."""
JITTER = 0.02
"""Durations are scaled at random by up to this share before they are sorted, so that neighbours change."""


class EpochPlan(Sequence[np.ndarray]):
    """The updates of an epoch in order, each of about ``update_s`` seconds: arrays of utterance numbers.

    The utterances last ``durations_s`` (N,) after cropping. Each is in one update, or with ``repeats`` (N,) as often as
    that states in expectation, its further copies numbered by ``draw_copies``. Within a pool, utterances of similar
    duration share an update (little padding), and the updates are shuffled. A pool is planned when one of its updates
    is indexed, so resuming costs one shuffle and one pool.
    """

    def __init__(
        self, durations_s: np.ndarray, update_s: float, seed: int, epoch: int, repeats: np.ndarray | None = None
    ) -> None:
        self._durations_s, self._seed = durations_s, [seed, epoch]
        copies = None if repeats is None else draw_copies(repeats, seed, epoch)
        count = len(durations_s) if copies is None else len(copies)
        total_s = float((durations_s if copies is None else durations_s[copies % len(durations_s)]).sum())
        order = np.random.default_rng(self._seed).permutation(count)
        self._order = order if copies is None else copies[order]
        self._updates = min(count, max(1, round(total_s / update_s)))
        pools = max(1, round(self._updates / POOL_UPDATES))
        self._firsts = self._updates * np.arange(pools + 1) // pools  # each pool's first update, and the end
        self._planned: tuple[int, list[np.ndarray]] = (-1, [])

    def __len__(self) -> int:
        return self._updates

    def __getitem__(self, number: int) -> np.ndarray:  # type: ignore[override]
        if not 0 <= number < self._updates:
            raise IndexError(f"update {number} of {self._updates}")
        pool = int(np.searchsorted(self._firsts, number, "right")) - 1
        if self._planned[0] != pool:
            self._planned = pool, self._plan(pool)
        return self._planned[1][number - int(self._firsts[pool])]

    def _plan(self, pool: int) -> list[np.ndarray]:
        first, end = int(self._firsts[pool]), int(self._firsts[pool + 1])
        count = len(self._order)
        own = self._order[count * first // self._updates : count * end // self._updates]
        rng = np.random.default_rng([*self._seed, pool, 2])
        return plan_pool(own, self._durations_s[own % len(self._durations_s)], end - first, rng)


def plan_pool(numbers: np.ndarray, durations_s: np.ndarray, updates: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Utterances (N,) with their seconds (N,), as that many updates of similar duration, shuffled; none is empty."""
    order = np.argsort(durations_s * rng.uniform(1 - JITTER, 1 + JITTER, len(durations_s)))
    seconds = np.cumsum(durations_s[order])
    middle = seconds - durations_s[order] / 2  # an utterance belongs where its middle falls
    inner = np.arange(1, updates)
    bounds = np.searchsorted(middle, seconds[-1] * inner / updates)
    bounds = np.maximum.accumulate(np.maximum(bounds - inner, 0)) + inner  # at least one utterance in each, though
    bounds = np.minimum(bounds, len(order) - updates + inner)  # it be longer than an update
    parts = np.split(numbers[order], bounds)
    return [parts[i] for i in rng.permutation(updates)]


def deal(update: np.ndarray, durations_s: np.ndarray, max_s: float, ranks: int, rank: int) -> list[np.ndarray]:
    """This rank's micro-batches of an update: each at most ``max_s`` seconds with padding, as few as that allows. Every
    rank gets the same number. An update with fewer utterances than ranks gives some ranks empty ones."""
    order = update[np.argsort(-durations_s[update % len(durations_s)], kind="stable")]
    parts: list[np.ndarray] = []
    while len(order):
        fits = max(1, int(max_s / durations_s[order[0] % len(durations_s)]))
        parts.append(order[:fits])
        order = order[fits:]
    while len(parts) % ranks:
        largest = max(range(len(parts)), key=lambda i: (len(parts[i]) > 1, _padded_s(parts[i], durations_s)))
        whole = parts.pop(largest)
        parts += [whole[: (len(whole) + 1) // 2], whole[(len(whole) + 1) // 2 :]]
    parts.sort(key=lambda part: -_padded_s(part, durations_s))
    rows = [parts[i : i + ranks] for i in range(0, len(parts), ranks)]
    return [row[rank if i % 2 == 0 else ranks - 1 - rank] for i, row in enumerate(rows)]


def _padded_s(part: np.ndarray, durations_s: np.ndarray) -> float:
    return float(durations_s[part % len(durations_s)].max() * len(part)) if len(part) else 0.0


def repeats_of(
    durations_s: np.ndarray, corpus_numbers: np.ndarray, weights: list[float], temperature: float
) -> np.ndarray | None:
    """How often an epoch takes each utterance, of these seconds (N,) and corpora (N,), in expectation (N,); None where
    it takes each exactly once. Corpora share the epoch as weight × hours^(1/temperature), which lasts as long as the
    weights alone make it."""
    own = np.asarray(weights, dtype=np.float64)
    if temperature != 1.0:
        seconds = np.bincount(corpus_numbers, durations_s, len(weights))
        evened = own * np.power(seconds, 1 / temperature, where=seconds > 0, out=np.zeros(len(weights)))
        own = evened / np.where(seconds > 0, seconds, 1) * ((own * seconds).sum() / evened.sum())
    repeats: np.ndarray = own[corpus_numbers]
    return None if (repeats == 1.0).all() else repeats


def draw_copies(repeats: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """The numbers of an epoch's utterances, at least one: ``n`` for the first copy of the n-th of N, ``n + N`` for its
    second. The fraction of an utterance's repeats is the probability of one more copy."""
    draws = np.random.default_rng([seed, epoch, 0, 1]).random(len(repeats))
    whole = np.floor(repeats)
    counts = (whole + (draws < repeats - whole)).astype(np.int64)
    if not counts.any():
        counts[np.argmin(draws - repeats)] = 1
    numbers = np.repeat(np.arange(len(repeats)), counts)
    copies = np.arange(len(numbers)) - np.repeat(np.cumsum(counts) - counts, counts)
    drawn: np.ndarray = numbers + len(repeats) * copies
    return drawn
