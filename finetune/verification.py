"""Speaker verification: trials, and the error rates of their scores.

Symbols: K trials. A miss is a trial of one speaker scored under the threshold, a false alarm one of two speakers
scored at or over it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mixvec import UserError
from mixvec.data.readers.files import text_lines


class Trial(NamedTuple):
    same: bool
    first: str
    second: str


class Trials(NamedTuple):
    """Trials over the rows of a split: which rows (K,) and (K,), and whether both are of one speaker (K,)."""

    first: np.ndarray
    second: np.ndarray
    same: np.ndarray


def read_trials(path: str | Path) -> list[Trial]:
    """A list in VoxCeleb1's form: ``1 id10270/x/00001.wav id10270/y/00002.wav``, 1 where the speaker is the same.

    Raises:
        UserError: there is no such file, or one of its lines is not a trial.
    """
    if not Path(path).is_file():
        raise UserError(f"speaker.trials={path}: no such file")
    trials = []
    for where, line in text_lines(Path(path)):
        if not (words := line.split()):
            continue
        if len(words) != 3 or words[0] not in ("0", "1"):
            raise UserError(f"{where}: a trial is 0 or 1 and two files, not {line[:100]!r}")
        trials.append(Trial(words[0] == "1", words[1], words[2]))
    if not trials:
        raise UserError(f"speaker.trials={path}: no trials in it")
    return trials


def placed(trials: list[Trial], sources: list[str]) -> tuple[Trials, list[str]]:
    """The trials whose files are both among ``sources``, and the names of files that are not.

    A source is a trial's file where its path ends in the trial's.
    """
    names = dict.fromkeys(name for trial in trials for name in trial[1:])
    depths = {name.count("/") + 1 for name in names}
    rows = {"/".join(source.split("/")[-depth:]): row for row, source in enumerate(sources) for depth in depths}
    found = [trial for trial in trials if trial.first in rows and trial.second in rows]
    columns = [[rows[t.first] for t in found], [rows[t.second] for t in found]]
    first, second = (np.array(column, dtype=np.int64) for column in columns)
    same = np.array([trial.same for trial in found], dtype=bool)
    return Trials(first, second, same), [name for name in names if name not in rows]


def all_pairs(speakers: list[str], most: int) -> Trials:
    """Every pair of rows; where there are more than ``most``, that many at random, the same at every call."""
    count = len(speakers)
    total = count * (count - 1) // 2
    if total <= most:
        first, second = np.triu_indices(count, k=1)
    else:
        numbers = np.random.default_rng(0).choice(total, most, replace=False)  # pairs (0, 1), (0, 2), (1, 2), (0, 3), …
        second = ((1.0 + np.sqrt(1.0 + 8.0 * numbers)) / 2.0).astype(np.int64)
        first = numbers - second * (second - 1) // 2
    names = np.array(speakers)
    return Trials(first, second, names[first] == names[second])


def cosines(embeddings: Sequence[Any], trials: Trials) -> np.ndarray:
    """The scores (K,) of trials over rows with embeddings of length 1.

    A row whose audio cannot be decoded has "" for an embedding: its trials count as errors at every threshold.
    """
    width = max((len(row) for row in embeddings if row != ""), default=1)
    points = np.array([[np.nan] * width if row == "" else row for row in embeddings], dtype=np.float64)
    scores: np.ndarray = np.einsum("ke,ke->k", points[trials.first], points[trials.second])
    return np.where(np.isnan(scores), np.where(trials.same, -2.0, 2.0), scores)


def error_rates(
    scores: np.ndarray, same: np.ndarray, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Miss and false-alarm rates at every threshold, from one over all scores to the lowest score.

    Args:
        scores: (K,), of which at least one is of one speaker and one of two.
        same: (K,) bool.
        weights: (K,) how often each trial counts; None: once.
    """
    from sklearn.metrics import roc_curve  # here, since a configuration imports this file and sklearn is slow to load

    alarms, hits, _ = roc_curve(same, scores, sample_weight=weights, drop_intermediate=False)
    return 1.0 - hits, alarms


def equal_error_rate(scores: np.ndarray, same: np.ndarray, weights: np.ndarray | None = None) -> float:
    """The point where both rates are equal, interpolated linearly between thresholds; arguments as ``error_rates``."""
    misses, alarms = error_rates(scores, same, weights)
    gap = misses - alarms  # falls from 1 to -1
    return float(np.interp(0.0, -gap, alarms))


def min_dcf(scores: np.ndarray, same: np.ndarray, p_target: float) -> float:
    """The least detection cost, both errors at cost 1, relative to always guessing the likelier answer."""
    misses, alarms = error_rates(scores, same)
    costs = p_target * misses + (1.0 - p_target) * alarms
    return float(costs.min() / min(p_target, 1.0 - p_target))
