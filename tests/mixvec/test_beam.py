"""Prefix beam and prefix scores against sums over all alignments, written out."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict

import numpy as np
import pytest
import torch
from torch import Tensor

from mixvec.model.decoder import PrefixScores
from tools.decode import prefix_beam


def drawn(frames: int, entries: int, seed: int, sharp: float = 1.5) -> Tensor:
    noise = torch.randn(frames, entries, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (sharp * noise).log_softmax(-1)


def all_texts(log_probs: Tensor) -> dict[tuple[int, ...], float]:
    """Each text's log-probability: the sum over all alignments that collapse to it."""
    frames, entries = log_probs.shape
    sums: dict[tuple[int, ...], float] = defaultdict(float)
    for alignment in itertools.product(range(entries), repeat=frames):
        text = tuple(entry for entry, _ in itertools.groupby(alignment) if entry != 0)
        sums[text] += math.exp(sum(float(log_probs[t, entry]) for t, entry in enumerate(alignment)))
    return {text: math.log(total) for text, total in sums.items()}


@pytest.mark.parametrize("seed", range(6))
def test_a_wide_prefix_beam_is_exhaustive_search(seed: int) -> None:
    log_probs = drawn(2 + seed % 4, 2 + seed % 3, seed)
    exact = all_texts(log_probs)
    assert prefix_beam([log_probs], 10_000) == [list(max(exact, key=exact.__getitem__))]


@pytest.mark.parametrize("seed", range(4))
def test_prefix_scores_are_sums_over_all_texts_that_begin_so(seed: int) -> None:
    log_probs = drawn(4, 3, seed)
    exact = all_texts(log_probs)
    scores = PrefixScores(log_probs)
    states, last = {(): scores.start()[0]}, {(): 0}
    assert float(scores.whole(scores.start())) == pytest.approx(exact[()])
    for length in range(1, 5):
        prefixes = [p for p in states if len(p) == length - 1]
        state, ends = torch.stack([states[p] for p in prefixes]), torch.tensor([last[p] for p in prefixes])
        values, new = scores.extend(state, ends, torch.tensor([[1, 2]]).expand(len(prefixes), 2))
        for i, prefix in enumerate(prefixes):
            for j, entry in enumerate((1, 2)):
                longer = (*prefix, entry)
                states[longer], last[longer] = new[i, j], entry
                begun = sum(math.exp(v) for text, v in exact.items() if text[:length] == longer)
                assert math.exp(values[i, j]) == pytest.approx(begun, abs=1e-9)
                whole = math.exp(scores.whole(new[i, j].unsqueeze(0)))
                assert whole == pytest.approx(math.exp(exact.get(longer, -math.inf)), abs=1e-9)


def test_prefix_scores_hold_over_thousands_of_frames() -> None:
    """Against the recursion frame by frame; a run of near-certain blanks must not drown a late entry."""
    log_probs = drawn(3000, 5, 0, sharp=6.0)
    log_probs[:1500] = torch.tensor([1.0, 1e-12, 1e-12, 1e-12, 1e-12], dtype=torch.float64).log().log_softmax(-1)
    scores = PrefixScores(log_probs)
    value, new = scores.extend(scores.start(), torch.tensor([0]), torch.tensor([[2]]))
    spoken, blank, begun, quiet = -math.inf, -math.inf, -math.inf, 0.0
    for x, b in zip(log_probs[:, 2].tolist(), log_probs[:, 0].tolist(), strict=True):
        begun, both = np.logaddexp(begun, quiet + x), np.logaddexp(spoken, blank)
        spoken, blank, quiet = np.logaddexp(spoken, quiet) + x, both + b, quiet + b
    assert float(value) == pytest.approx(begun, abs=1e-6)
    assert new[0, 0, :, -1].tolist() == pytest.approx([spoken, blank], abs=1e-6)
