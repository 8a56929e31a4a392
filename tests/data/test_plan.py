"""The plan: every utterance once per epoch, in updates that do not depend on the ranks, dealt fairly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixvec.data.plan import EpochPlan, deal

durations = st.lists(st.floats(0.5, 30.0), min_size=1, max_size=80).map(np.array)
seeds = st.integers(0, 1000)


def padded_s(part: np.ndarray, durations_s: np.ndarray) -> float:
    return float(durations_s[part].max() * len(part)) if len(part) else 0.0


@settings(max_examples=150, deadline=None)
@given(durations_s=durations, update_s=st.floats(1.0, 500.0), seed=seeds, epoch=st.integers(0, 5))
def test_each_utterance_is_in_exactly_one_update(
    durations_s: np.ndarray, update_s: float, seed: int, epoch: int
) -> None:
    updates = EpochPlan(durations_s, update_s, seed, epoch)
    assert sorted(np.concatenate(updates).tolist()) == list(range(len(durations_s)))
    assert all(len(update) for update in updates)
    again = EpochPlan(durations_s, update_s, seed, epoch)
    assert [u.tolist() for u in updates] == [u.tolist() for u in again]
    # an utterance belongs where its middle falls: within half of it at each end
    average = durations_s.sum() / max(1, round(durations_s.sum() / update_s))
    assert max(durations_s[update].sum() for update in updates) <= average + durations_s.max() + 1e-6


@settings(max_examples=150, deadline=None)
@given(
    durations_s=durations,
    ranks=st.sampled_from([1, 2, 3, 8]),
    max_s=st.floats(30.0, 120.0),
    update_s=st.floats(20.0, 500.0),
    seed=seeds,
)
def test_dealt_parts_make_up_the_update(
    durations_s: np.ndarray, ranks: int, max_s: float, update_s: float, seed: int
) -> None:
    """Whatever the ranks: the same updates, the same number of micro-batches on each rank, none too large."""
    for update in EpochPlan(durations_s, update_s, seed, 0):
        dealt = [deal(update, durations_s, max_s, ranks, rank) for rank in range(ranks)]
        assert len({len(parts) for parts in dealt}) == 1
        parts = [part for own in dealt for part in own]
        assert sorted(np.concatenate(parts).tolist()) == sorted(update.tolist())
        assert all(padded_s(part, durations_s) <= max_s * (1 + 1e-9) or len(part) == 1 for part in parts)
        if len(update) >= len(parts):
            assert all(len(part) for part in parts)


def test_an_utterance_longer_than_a_batch_is_alone() -> None:
    parts = deal(np.arange(4), np.array([50.0, 1.0, 1.0, 1.0]), 10.0, 1, 0)
    assert [part.tolist() for part in parts] == [[0], [1, 2, 3]]


@pytest.mark.parametrize("utterances", [1, 2, 5])
def test_fewer_utterances_than_ranks_leave_some_empty(utterances: int) -> None:
    dealt = [deal(np.arange(utterances), np.full(utterances, 2.0), 60.0, 8, rank) for rank in range(8)]
    assert [len(parts) for parts in dealt] == [1] * 8
    assert sorted(len(parts[0]) for parts in dealt) == [0] * (8 - utterances) + [1] * utterances


def test_ranks_have_like_shares() -> None:
    """Five micro-batches each, dealt to and fro: no rank has a tenth more work than another."""
    durations_s = np.random.default_rng(0).uniform(1, 30, 100)
    work = [
        sum(padded_s(p, durations_s) for p in deal(np.arange(100), durations_s, 60.0, 8, rank)) for rank in range(8)
    ]
    assert max(work) < 1.1 * min(work)


def test_epochs_and_seeds_differ() -> None:
    durations_s = np.random.default_rng(0).uniform(1, 20, 300)
    plans = [EpochPlan(durations_s, 100.0, seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1))]
    sets = [{frozenset(update.tolist()) for update in plan} for plan in plans]
    for i, one in enumerate(sets):
        for other in sets[:i]:
            assert len(one & other) < len(one) / 10


def test_updates_are_bucketed_by_duration_and_come_in_any_order() -> None:
    """Little padding, yet neither short ones first nor long ones: a curriculum was not asked for."""
    rng = np.random.default_rng(0)
    durations_s = np.concatenate([rng.lognormal(1.2, 0.8, 24_000).clip(1, 20), np.ones(6_000)])
    for update_s in (64.0, 1_000.0):
        updates = EpochPlan(durations_s, update_s, 0, 0)
        assert len(updates) > 100
        padded = sum(padded_s(part, durations_s) for update in updates for part in deal(update, durations_s, 96, 1, 0))
        assert padded < durations_s.sum() / 0.97
        longest = np.array([durations_s[update].max() for update in updates])
        assert abs(np.corrcoef(np.arange(len(longest)), longest)[0, 1]) < 3 / len(longest) ** 0.5


@settings(max_examples=60, deadline=None)
@given(durations_s=durations, update_s=st.floats(1.0, 60.0), seed=seeds, data=st.data())
def test_any_update_alone_is_that_of_the_whole_epoch(
    durations_s: np.ndarray, update_s: float, seed: int, data: st.DataObject
) -> None:
    """To go on from an update, the ones before need not be planned."""
    whole = list(EpochPlan(durations_s, update_s, seed, 1))
    number = data.draw(st.integers(0, len(whole) - 1))
    assert EpochPlan(durations_s, update_s, seed, 1)[number].tolist() == whole[number].tolist()
    with pytest.raises(IndexError, match=f"update {len(whole)} of {len(whole)}"):
        EpochPlan(durations_s, update_s, seed, 1)[len(whole)]
