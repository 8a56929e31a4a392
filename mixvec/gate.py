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
LOUD_QUANTILE = 0.95
FLOOR_DB = -70.0
"""dB of full scale; anything below is silence, whatever the recording's level."""
CONTEXT_FRAMES = 5
QUIET_FRAMES = 11
"""A cut is made in the middle of the quietest so many frames."""
CUT_FROM = 2 / 3
"""A run that is too long is cut in the last third of what may be kept of it."""
SILENCE_S, PAD_S = 0.5, 0.1
"""Silences at least so long are skipped; so much of them is kept on each side of speech."""


def levels_of(samples: np.ndarray, hop: int) -> np.ndarray:
    """Energies of the whole frames of ``hop`` samples in a waveform (S,): dB of full scale (F,).

    A constant offset counts as silence, and so do values that are not finite.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        energies = samples[: len(samples) // hop * hop].reshape(-1, hop).var(axis=1)  # (frames,)
    levels: np.ndarray = 10 * np.log10(np.maximum(np.where(np.isfinite(energies), energies, 0), 1e-12))
    return levels


def find_speech(
    levels_db: np.ndarray, frame_s: float, min_s: float, max_s: float, below_db: float, silence_s: float = SILENCE_S,
    pad_s: float = PAD_S,
) -> np.ndarray:  # fmt: skip
    """Segments of speech, in order and apart: begin and end in seconds (K, 2); none where all is silence.

    Each lasts from ``min_s`` to ``max_s``: a shorter one is widened into the silence around it, a longer one is cut
    where it is quietest.

    Args:
        levels_db: (F,) of ``levels_of``, of at least ``min_s`` seconds.
        below_db: frames so far under the loud level are silence.
    """
    levels_db = np.maximum(levels_db, FLOOR_DB)
    loud = levels_db > max(FLOOR_DB, float(np.quantile(levels_db, LOUD_QUANTILE)) - below_db)
    speech = np.convolve(loud, np.ones(CONTEXT_FRAMES), "same") > CONTEXT_FRAMES / 2
    begin, end = frame_s * np.flatnonzero(np.diff(speech, prepend=False, append=False)).reshape(-1, 2).T
    begin, end = _joined(begin, end, silence_s)
    last_s = frame_s * len(levels_db)
    begin = np.clip(begin - pad_s, 0, max(0.0, last_s - min_s))
    end = np.minimum(np.maximum(end + pad_s, begin + min_s), last_s)
    mean_db = np.convolve(levels_db, np.full(QUIET_FRAMES, 1 / QUIET_FRAMES), "same")
    parts = [part for run in zip(*_joined(begin, end, 0.0), strict=True)
             for part in _cut(*run, mean_db, frame_s, min_s, max_s)]  # fmt: skip
    return np.array(parts).reshape(-1, 2)


def _joined(begin: np.ndarray, end: np.ndarray, apart_s: float) -> tuple[np.ndarray, np.ndarray]:
    """Runs (R,), joined where they are less than ``apart_s`` apart, or touch."""
    between = begin[1:] - end[:-1]
    apart = (between >= apart_s - 1e-9) & (between > 0)
    ends = np.ones(min(1, len(begin)), dtype=bool)
    return begin[np.concatenate([ends, apart])], end[np.concatenate([apart, ends])]


def _cut(
    begin: float, end: float, mean_db: np.ndarray, frame_s: float, min_s: float, max_s: float
) -> Iterator[tuple[float, float]]:
    """A run in segments of at most ``max_s``. A rest under ``min_s`` is dropped; only if min_s > max_s / 2."""
    while end - begin > max_s:
        latest = min(begin + max_s, end - min_s)
        if latest < begin + min_s:
            latest = begin + max_s
        earliest = min(begin + max(min_s, CUT_FROM * max_s), latest)
        first, last = math.ceil(earliest / frame_s - 0.5), math.floor(latest / frame_s - 0.5)
        cut = latest if last < first else (first + int(np.argmin(mean_db[first : last + 1])) + 0.5) * frame_s
        yield begin, cut
        begin = cut
    if end - begin >= min_s - 1e-9:
        yield begin, end
