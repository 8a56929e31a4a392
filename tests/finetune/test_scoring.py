"""Error rates against jiwer's and against a plain dynamic programme; intervals against a slow bootstrap."""

from __future__ import annotations

import random
from collections import Counter

import jiwer
import numpy as np
import pytest
from rapidfuzz.distance import Levenshtein

from finetune.scoring import by_length, clusters_of, compare, count_characters, count_words, rate_of


def sentence(draw: random.Random, most: int = 7) -> str:
    return " ".join(draw.choice(["a", "b", "ab", "é"]) for _ in range(draw.randint(0, most)))


def test_counts_are_a_cheapest_alignment_of_each_of_thousands_of_pairs() -> None:
    draw = random.Random(1)
    pairs = [(sentence(draw), sentence(draw)) for _ in range(1500)]
    references, predictions = [r for r, _ in pairs], [p for _, p in pairs]
    words, letters = count_words(references, predictions), count_characters(references, predictions)
    for row, (r, p) in enumerate(pairs):
        for errors, a, b in ((words, r.split(), p.split()), (letters, list(r), list(p))):
            hits, substitutions, deletions, insertions = errors.counts[row].tolist()
            assert substitutions + deletions + insertions == Levenshtein.distance(a, b)
            assert hits + substitutions + deletions == len(a) and hits + substitutions + insertions == len(b)
    assert sum(words.confusions.values()) == words.counts[:, 1:].sum()
    assert sum(n for (r, p), n in words.confusions.items() if not r) == words.counts[:, 3].sum()
    kept = [row for row, r in enumerate(references) if r]
    texts = [[side[row] for row in kept] for side in (references, predictions)]
    for counts, rate in ((words.counts, jiwer.wer(*texts)), (letters.counts, jiwer.cer(*texts))):
        assert rate_of(counts[kept], np.arange(len(kept)), resamples=1).value == pytest.approx(rate)


def test_confusions_are_named() -> None:
    errors = count_words(["the cat sat", "cat", "", "a b"], ["the mat sat on", "mat", "x", "b"])
    assert errors.confusions == Counter({("cat", "mat"): 2, ("", "on"): 1, ("", "x"): 1, ("a", ""): 1})
    assert errors.counts.tolist() == [[2, 1, 0, 1], [0, 1, 0, 0], [0, 0, 0, 1], [1, 0, 1, 0]]


def drawn_counts(seed: int, utterances: int = 40) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 6, (utterances, 4)) + np.array([3, 0, 0, 0])


def slow_bootstrap(counts: list[np.ndarray], clusters: np.ndarray, resamples: int) -> list[list[float]]:
    """Utterance by utterance, with another generator; the rates of each system in each resample."""
    draw, members = random.Random(9), [np.flatnonzero(clusters == c) for c in range(clusters.max() + 1)]
    rates: list[list[float]] = [[] for _ in counts]
    for _ in range(resamples):
        chosen = [i for _ in members for i in draw.choice(members)]
        for own, system in zip(rates, counts, strict=True):
            own.append(sum(system[i, 1:].sum() for i in chosen) / sum(system[i, :3].sum() for i in chosen))
    return rates


@pytest.mark.parametrize("speakers", [40, 7])
def test_intervals_and_the_probability_of_improvement_are_a_slow_bootstraps(speakers: int) -> None:
    one, other, clusters = drawn_counts(1), drawn_counts(2), np.arange(40) % speakers
    first, second = slow_bootstrap([one, other], clusters, 1500)
    rate = rate_of(one, clusters)
    assert [rate.low, rate.high] == pytest.approx(np.percentile(first, (2.5, 97.5)), abs=0.02)
    assert rate.low < rate.value < rate.high
    found = compare(one, other, clusters)
    differences = np.subtract(second, first)
    assert [found.low, found.high] == pytest.approx(np.percentile(differences, (2.5, 97.5)), abs=0.03)
    assert found.second_better == pytest.approx((differences < 0).mean(), abs=0.04)
    back = compare(other, one, clusters)
    assert back.value == -found.value and back.second_better == pytest.approx(1 - found.second_better)
    assert compare(one, one, clusters)[:4] == (0.0, 0.0, 0.0, 0.5)


def test_speakers_are_resampled_where_all_are_known() -> None:
    assert clusters_of(["b", "a", "b"]).tolist() == [1, 0, 1]
    assert clusters_of(["b", None, "b"]).tolist() == [0, 1, 2] == clusters_of(["b", "b", "b"]).tolist()


def test_buckets_of_length_and_empty_references() -> None:
    assert {name: kept.tolist() for name, kept in by_length([1.0, 2.0, 99.0]).items()} == {
        "0 to 2 s": [True, False, False], "2 to 4 s": [False, True, False], "16 or more s": [False, False, True],
    }  # fmt: skip
    rate = rate_of(count_words(["", "a b"], ["x", "a"]).counts, np.arange(2))
    assert (rate.insertions, rate.deletions, rate.length) == (1, 1, 2)
    assert rate_of(count_words([""], ["x y"]).counts, np.arange(1)).value == 2.0
