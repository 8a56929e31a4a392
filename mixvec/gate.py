"""An energy gate for long recordings: silences are skipped, and cuts fall into pauses.

A frame is loud where its energy is less than ``below_db`` under the recording's own loud level, and speech where most
frames around it are loud, as in Kaldi's energy-based detector (``compute-vad``: frames-context, proportion-threshold).
Pauses shorter than ``silence_s`` do not end it, like the hangover of ITU-T P.56, whose margin below the active level is
that of a meter; here weak consonants must pass. An energy gate cannot tell speech from music or steady noise, and
skips nothing of a recording that is less than a twentieth speech.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

FRAME_S = 0.02
LOUD_QUANTILE, BELOW_DB = 0.95, 35.0
"""The loud level of a recording, and how far under it a frame is quiet."""
FLOOR_DB = -70.0
"""dB of full scale; anything below is silence, whatever the recording's level."""
CONTEXT_FRAMES = 5
QUIET_FRAMES = 11
"""A cut is made in the middle of the quietest so many frames."""
CUT_FROM = 2 / 3
"""A run that is too long is cut in the last third of what may be kept of it."""
SILENCE_FRAMES, PAD_S = 25, 0.1
"""Silences at least so long are skipped; so much of them is kept on each side of speech."""

Span = tuple[float, float]
"""Seconds from, to."""


def levels_of(samples: np.ndarray, rate_hz: int) -> np.ndarray:
    """Energies of the whole frames of a waveform (S,): dB of full scale (F,).

    A constant offset counts as silence, and so do values that are not finite.
    """
    hop = round(FRAME_S * rate_hz)
    with np.errstate(invalid="ignore", over="ignore"):
        energies = samples[: len(samples) // hop * hop].reshape(-1, hop).var(axis=1)  # (frames,)
    levels: np.ndarray = 10 * np.log10(np.maximum(np.where(np.isfinite(energies), energies, 0), 1e-12))
    return levels


def find_speech(levels_db: np.ndarray, min_s: float, max_s: float) -> list[Span]:
    """Segments of speech, in order and apart; none where all is silence.

    Each lasts from ``min_s`` to ``max_s``: a shorter one is widened into the silence around it, a longer one is cut
    where it is quietest.

    Args:
        levels_db: (F,) of ``levels_of``, of at least ``min_s`` seconds.
        max_s: at least thrice ``min_s``.
    """
    levels_db = np.maximum(levels_db, FLOOR_DB)
    loud = levels_db > max(FLOOR_DB, float(np.quantile(levels_db, LOUD_QUANTILE)) - BELOW_DB)
    speech = np.convolve(loud, np.ones(CONTEXT_FRAMES), "same") > CONTEXT_FRAMES / 2
    runs: list[list[int]] = []
    for first, end in np.flatnonzero(np.diff(speech, prepend=False, append=False)).reshape(-1, 2).tolist():
        if runs and first - runs[-1][1] < SILENCE_FRAMES:
            runs[-1][1] = end
        else:
            runs.append([first, end])
    spans, last_s = list[Span](), FRAME_S * len(levels_db)
    for first, end in runs:
        begin_s = min(max(FRAME_S * first - PAD_S, 0.0), last_s - min_s)
        end_s = min(max(FRAME_S * end + PAD_S, begin_s + min_s), last_s)
        if spans and begin_s <= spans[-1][1]:
            begin_s = spans.pop()[0]
        spans.append((begin_s, end_s))
    mean_db = np.convolve(levels_db, np.full(QUIET_FRAMES, 1 / QUIET_FRAMES), "same")
    return [part for begin_s, end_s in spans for part in _cut(begin_s, end_s, mean_db, min_s, max_s)]


def _cut(begin: float, end: float, mean_db: np.ndarray, min_s: float, max_s: float) -> Iterator[Span]:
    """A run in segments of at most ``max_s``."""
    while end - begin > max_s:
        latest = min(begin + max_s, end - min_s)
        first, last = math.ceil((begin + CUT_FROM * max_s) / FRAME_S - 0.5), math.floor(latest / FRAME_S - 0.5)
        cut = latest if last < first else (first + int(np.argmin(mean_db[first : last + 1])) + 0.5) * FRAME_S
        yield begin, cut
        begin = cut
    yield begin, end
