"""Which frames are masked: a pure function of an utterance's own generator.

Symbol: T frames. Masks are drawn on the CPU, in the workers that decode, so that no accelerator has to wait for the
number of masked frames.
"""

from __future__ import annotations

import numpy as np

MIN_FRAMES = 4
"""The shortest legal utterance: a span of two and as much unmasked."""


def span_mask(frames: int, prob: float, span_frames: int, rng: np.random.Generator) -> np.ndarray:
    """A bool mask (T,), True at masked frames (arXiv 2006.11477 section 3.1), sized by this utterance's own length.

    Each frame starts a span with probability ``prob / span_frames``; spans overlap, so 0.65 at 10 hides 1 - (1 -
    0.065)^10 = 48.9 % of a long utterance. Starts are drawn without repetition where a whole span fits; their number is
    rounded at random, but at least one. Under two spans of frames, a span is half the utterance. Raises ``ValueError``
    where fewer than ``MIN_FRAMES`` frames.
    """
    if frames < MIN_FRAMES:
        raise ValueError(f"{frames} frames are too few to mask; at least {MIN_FRAMES} are needed")
    span = min(span_frames, frames // 2)
    places = frames - span + 1
    starts = min(max(1, int(prob * frames / span + rng.random())), places)
    mask = np.zeros(frames, dtype=bool)
    mask[(rng.choice(places, starts, replace=False)[:, None] + np.arange(span)).ravel()] = True
    if mask.all():  # nothing left to predict from
        mask[: frames - span] = False
    return mask
