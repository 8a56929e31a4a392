"""The plan: every utterance as often as its weight says, in updates that do not depend on the ranks, dealt fairly."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixvec import UserError
from mixvec.data.batches import Clip, LoaderConfig, Updates
from mixvec.data.plan import EpochPlan, deal, draw_copies, repeats_of
from mixvec.data.sources import find_utterances, parse_sources
from mixvec.training.config import load_config, write_config
from pretrain.config import PretrainConfig
from tests.readers import write

durations = st.lists(st.floats(0.5, 30.0), min_size=1, max_size=80).map(np.array)
seeds = st.integers(0, 1000)
corpora = st.lists(
    st.tuples(st.lists(st.floats(0.5, 30.0), min_size=1, max_size=20), st.just(1.0) | st.floats(0.05, 4.0)),
    min_size=1,
    max_size=4,
)


def padded_s(part: np.ndarray, durations_s: np.ndarray) -> float:
    return float(durations_s[part % len(durations_s)].max() * len(part)) if len(part) else 0.0


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


def joined(mixed: list[tuple[list[float], float]]) -> tuple[np.ndarray, np.ndarray, list[float]]:
    durations_s = np.concatenate([own for own, _ in mixed])
    return durations_s, np.repeat(np.arange(len(mixed)), [len(own) for own, _ in mixed]), [w for _, w in mixed]


@settings(max_examples=100, deadline=None)
@given(
    mixed=corpora, seed=seeds, epoch=st.integers(0, 5), ranks=st.sampled_from([1, 2, 3, 8]),
    update_s=st.floats(1.0, 500.0), max_s=st.floats(30.0, 120.0),
)  # fmt: skip
def test_an_epoch_has_each_as_often_as_its_weight_says(
    mixed: list[tuple[list[float], float]], seed: int, epoch: int, ranks: int, update_s: float, max_s: float
) -> None:
    """Each copy in one update; whatever the ranks, as many micro-batches on each, and none too large."""
    durations_s, parts, weights = joined(mixed)
    repeats = repeats_of(durations_s, parts, weights, 1.0)
    updates = EpochPlan(durations_s, update_s, seed, epoch, repeats)
    numbers, repeats = np.concatenate(updates), np.array(weights)[parts]
    assert len(set(numbers.tolist())) == len(numbers) and all(len(update) for update in updates)
    counts = np.bincount(numbers % len(durations_s), minlength=len(durations_s))
    if counts.sum() > 1:
        assert ((counts == np.floor(repeats)) | (counts == np.floor(repeats) + 1)).all()
        assert (counts[repeats == np.floor(repeats)] == repeats[repeats == np.floor(repeats)]).all()
    for n, count in enumerate(counts):  # copies are numbered from the first on
        assert {n + len(durations_s) * copy for copy in range(count)} <= set(numbers.tolist())
    again = EpochPlan(durations_s, update_s, seed, epoch, repeats)
    assert [u.tolist() for u in updates] == [u.tolist() for u in again]
    total_s = durations_s[numbers % len(durations_s)].sum()
    if len(updates) < 300:  # in one pool an utterance belongs where its middle falls: within half of it at each end
        most_s = total_s / max(1, round(total_s / update_s)) + durations_s.max()
        assert max(durations_s[update % len(durations_s)].sum() for update in updates) <= most_s + 1e-6
    for update in updates:
        ranked = [deal(update, durations_s, max_s, ranks, rank) for rank in range(ranks)]
        dealt = [part for own in ranked for part in own]
        assert len({len(own) for own in ranked}) == 1
        assert sorted(np.concatenate(dealt).tolist()) == sorted(update.tolist())
        assert max(padded_s(part, durations_s) for part in dealt) <= max_s * (1 + 1e-9)
        assert len(update) < len(dealt) or all(len(part) for part in dealt)


@settings(max_examples=100, deadline=None)
@given(mixed=corpora, temperature=st.floats(0.5, 100.0))
def test_corpora_share_the_epoch_as_the_temperature_says(
    mixed: list[tuple[list[float], float]], temperature: float
) -> None:
    durations_s, parts, weights = joined(mixed)
    repeats = repeats_of(durations_s, parts, weights, temperature)
    repeats = np.ones(len(durations_s)) if repeats is None else repeats
    seconds = [sum(own) for own, _ in mixed]
    meant = np.array([w * s ** (1 / temperature) for w, s in zip(weights, seconds, strict=True)])
    shares = np.bincount(parts, durations_s * repeats)
    np.testing.assert_allclose(shares / shares.sum(), meant / meant.sum(), rtol=1e-6)
    assert shares.sum() == pytest.approx(sum(w * s for w, s in zip(weights, seconds, strict=True)))


def test_over_many_epochs_the_remainder_comes_out_even() -> None:
    repeats = np.array([0.25, 1.0, 1.5, 3.1])
    counts = sum(np.bincount(draw_copies(repeats, 0, epoch) % 4, minlength=4) for epoch in range(4_000))
    np.testing.assert_allclose(counts / 4_000, repeats, atol=0.03)
    assert [len(draw_copies(np.full(3, 1e-9), 0, epoch)) for epoch in range(5)] == [1] * 5  # never an empty epoch
    infinite = repeats_of(np.array([1.0, 2.0, 30.0]), np.array([0, 0, 1]), [1.0, 1.0], float("inf"))
    np.testing.assert_allclose(infinite, [5.5, 5.5, 0.55])  # both as long: 16.5 s each
    gone = repeats_of(np.array([1.0, 3.0]), np.array([0, 2]), [2.0, 5.0, 1.0], 2.0)  # the second has nothing left
    assert gone is not None and np.isfinite(gone).all() and gone @ [1.0, 3.0] == pytest.approx(5.0)


def test_a_weight_reaches_the_batches(tmp_path: Path) -> None:
    """Copies are cropped anew, ranks and resuming see one order, and scoring takes each once."""
    write(tmp_path / "a" / "0.wav", 1.0)
    write(tmp_path / "b" / "1.wav", 2.0)
    source = [str(tmp_path / "a"), {"source": str(tmp_path / "b"), "weight": 3}]
    corpus = find_utterances(source, "data.train")
    assert [source.weight for source in corpus.sources] == [1.0, 3.0]
    assert (corpus.name, [u.corpus_number for u in corpus.utterances]) == ("a, b", [0, 1])

    def updates(collate: Any) -> Updates[Any]:
        return Updates(corpus, collate, LoaderConfig(2, 2, crop_s=1, min_s=0.5, workers=0, seed=0))

    def first_samples(clips: list[Clip]) -> list[tuple[str, float]]:
        return [(Path(clip.utterance.source).name, float(clip.waveform[0])) for clip in clips]

    own = updates(first_samples)
    assert own.epoch_length(0) == 2
    seen = [row for _, loaded in islice(own.start(), 2) for part in loaded for row in part.batch]
    assert Counter(name for name, _ in seen) == {"0.wav": 1, "1.wav": 3}
    assert len(set(seen)) == 4
    resumed = [row for _, loaded in islice(own.start([0, 1]), 1) for part in loaded for row in part.batch]
    assert seen[-len(resumed) :] == resumed
    assert sorted(name for part in own.once() for name, _ in part.batch) == ["0.wav", "1.wav"]


def test_weights_are_written_in_yaml_and_on_the_command_line(tmp_path: Path) -> None:
    config = load_config(PretrainConfig, ["data.train=[A, {source: B, weight: 0.5}]", "data.temperature=2"], "")
    assert parse_sources(config.data.train, "data.train") == (("A", 1.0), ("B", 0.5))
    assert config.data.temperature == 2
    write_config(config, tmp_path / "config.yaml")
    assert load_config(PretrainConfig, [str(tmp_path / "config.yaml")], "") == config
    with pytest.raises(UserError, match=r"data\.temperature=0\.0 must be at least 0\.1"):
        load_config(PretrainConfig, ["data.temperature=0"], "")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"weight": 2}, r"data\.train: .* is neither a source nor of the form \{source: DIR, weight: 2\}"),
        ({"source": "A", "wieght": 2}, "is neither a source nor"),
        ({"source": ["A"]}, "is neither a source nor"),
        ({"source": "A", "weight": 0}, r"data\.train: weight=0 of A is not a number above 0"),
        ({"source": "A", "weight": "2"}, "weight='2' of A is not"),
        ({"source": "A", "weight": float("nan")}, "weight=nan of A is not"),
        ({"source": "A", "weight": True}, "weight=True of A is not"),
    ],
)
def test_a_wrong_weight_is_one_line(entry: dict[str, Any], message: str) -> None:
    for source in (["B", entry], entry):
        with pytest.raises(UserError, match=message):
            find_utterances(source, "data.train")
