"""Which utterances make up each update, and which rank sees which of them: pure functions of (seed, epoch).

An update is planned for the whole run, whatever the number of ranks, and then dealt. Every rank takes part in every
update with the same number of micro-batches, so none waits for another that has nothing to do.
"""

from __future__ import annotations

import numpy as np

from .mixture import draw_copies

POOL_UPDATES = 50
"""Utterances are shuffled over the corpus, then sorted by duration within pools of this many updates."""


def plan_epoch(
    durations_s: np.ndarray, update_s: float, seed: int, epoch: int, repeats: np.ndarray | None = None
) -> list[np.ndarray]:
    """The updates of an epoch in order: arrays of utterance numbers, each utterance in exactly one.

    With ``repeats``, each stands in the epoch that often, its further copies numbered as ``draw_copies`` has it.

    Within a pool, utterances of like duration share an update (little padding) with some jitter, so that an epoch
    never repeats another's updates. Each holds about ``update_s`` seconds.

    Args:
        durations_s: (N,) seconds of each utterance, after cropping.
        repeats: (N,) how often each stands in an epoch, in expectation; None: once.
    """
    if repeats is not None:
        copies = draw_copies(repeats, seed, epoch)
        updates = plan_epoch(durations_s[copies % len(durations_s)], update_s, seed, epoch)
        return [copies[update] for update in updates]
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(durations_s))
    jitter = durations_s[order] * rng.uniform(0.9, 1.1, len(order))
    pool = (np.cumsum(durations_s[order]) / (update_s * POOL_UPDATES)).astype(np.int64)
    order = order[np.lexsort((jitter, pool))]
    seconds = np.cumsum(durations_s[order])
    count = max(1, round(float(seconds[-1]) / update_s))
    middle = seconds - durations_s[order] / 2  # an utterance belongs where its middle falls
    bounds = np.searchsorted(middle, seconds[-1] * np.arange(1, count) / count)
    updates = [part for part in np.split(order, bounds) if len(part)]
    return [updates[i] for i in rng.permutation(len(updates))]


def deal(update: np.ndarray, durations_s: np.ndarray, max_s: float, ranks: int, rank: int) -> list[np.ndarray]:
    """This rank's micro-batches of an update: each at most ``max_s`` seconds with padding, as few as that allows.

    Every rank gets the same number. An update with fewer utterances than ranks gives some ranks empty ones.
    """
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
