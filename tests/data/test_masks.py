"""Span masks sized by an utterance's own length, and distractors that are never the frame itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixvec.data.masks import MIN_FRAMES, span_mask
from pretrain.objectives.contrastive import draw_distractors

seeds = st.integers(0, 2**32 - 1)


def runs(mask: np.ndarray) -> list[int]:
    """Lengths of the runs of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(int)))
    return list(edges[1::2] - edges[::2])


def test_half_of_a_long_utterance_is_hidden() -> None:
    """0.65 at spans of 10 hides 1 - (1 - 0.065)^10 = 48.9 % (arXiv 2006.11477 section 3.1)."""
    rng = np.random.default_rng(0)
    shares = [span_mask(20_000, 0.65, 10, rng).mean() for _ in range(20)]
    assert np.mean(shares) == pytest.approx(0.489, abs=0.005)
    assert np.std(shares) < 0.01
    assert np.mean([span_mask(20_000, 0.3, 5, rng).mean() for _ in range(10)]) == pytest.approx(
        1 - (1 - 0.06) ** 5, abs=0.005
    )


@settings(max_examples=150, deadline=None)
@given(frames=st.integers(MIN_FRAMES, 400), prob=st.floats(0.01, 1.0), span=st.integers(2, 30), seed=seeds)
def test_spans_are_whole_and_never_cover_everything(frames: int, prob: float, span: int, seed: int) -> None:
    mask = span_mask(frames, prob, span, np.random.default_rng(seed))
    assert mask.shape == (frames,)
    assert mask.dtype == bool
    own = min(span, frames // 2)
    lengths = runs(mask)
    assert lengths and min(lengths) >= own >= 2
    assert 2 <= mask.sum() < frames
    starts = max(1, int(prob * frames / own) + 1)
    assert mask.sum() <= starts * own
    assert np.array_equal(mask, span_mask(frames, prob, span, np.random.default_rng(seed)))


def test_too_short_is_named() -> None:
    with pytest.raises(ValueError, match="3 frames are too few to mask; at least 4"):
        span_mask(3, 0.65, 10, np.random.default_rng(0))
    with pytest.raises(ValueError, match="1 masked frames leave no distractor"):
        draw_distractors(1, 5, np.random.default_rng(0))


@settings(max_examples=200, deadline=None)
@given(masked=st.integers(2, 300), count=st.integers(1, 120), seed=seeds)
def test_distractors_are_never_the_frame_itself(masked: int, count: int, seed: int) -> None:
    drawn = draw_distractors(masked, count, np.random.default_rng(seed))
    assert drawn.shape == (masked, count)
    assert drawn.min() >= 0
    assert drawn.max() < masked
    assert not (drawn == np.arange(masked)[:, None]).any()
    assert np.array_equal(drawn, draw_distractors(masked, count, np.random.default_rng(seed)))


@pytest.mark.parametrize("masked", [2, 3, 7])
def test_distractors_are_uniform_over_the_others(masked: int) -> None:
    """Each of the M - 1 others within five standard deviations of its share."""
    draws = 40_000
    drawn = draw_distractors(masked, draws, np.random.default_rng(0))
    share = 1 / (masked - 1)
    bound = 5 * np.sqrt(draws * share * (1 - share))
    for frame in range(masked):
        counts = np.bincount(drawn[frame], minlength=masked)
        assert counts[frame] == 0
        assert np.abs(np.delete(counts, frame) - draws * share).max() <= bound
