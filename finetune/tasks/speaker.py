"""Speaker verification: embeddings learned by classifying the training speakers, scored on pairs of new speakers.

Symbols: K trials, pairs of utterances of one speaker or of two. A miss is a trial of one speaker scored under the
threshold, a false alarm one of two speakers scored at or over it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mixvec import Encoder, SpeakerEmbedder, UserError
from mixvec.data.readers.files import text_lines
from mixvec.data.readers.rows import SPEAKER_KEYS
from mixvec.data.sources import Corpus
from mixvec.data.utterances import Utterance
from mixvec.model.protocol import EncoderOutput
from mixvec.training.config import check_ranges

from ..batch import LabelledBatch
from ..sections import TaskConfig
from . import Scored
from .intent import IntentConfig, cross_entropy_sum
from .intent import Task as IntentTask

Trial = tuple[bool, str, str]
"""Whether two files are of one speaker, and their names."""


class Trials(NamedTuple):
    """Trials over the rows of a split: which rows (K,) and (K,), and whether both are of one speaker (K,)."""

    first: np.ndarray
    second: np.ndarray
    same: np.ndarray


@dataclass(frozen=True)
class SpeakerConfig:
    """For task=speaker."""

    trials: str | None = None
    """A trial list in VoxCeleb1's form, lines of 0 or 1 and two files; null: all pairs of a split."""
    max_trials: int = 200_000
    """Where a split has more pairs, this many are drawn, always the same."""
    crop_s: float | None = 3.0
    """Seconds of an utterance that training reads each time, from a random place; null: all of it."""
    margin: float = 0.2
    """Margin of AAM-softmax, in radians."""
    scale: float = 30.0
    """Scale of AAM-softmax."""
    embedding: int = 192
    """Width of the embedding."""

    def __post_init__(self) -> None:
        ranges = {"max_trials": "[1, inf)", "margin": "[0, inf)", "scale": "[1e-6, inf)", "embedding": "[2, inf)"}
        check_ranges(self, ranges | {"crop_s": "(0, inf)"}, "speaker.")


class Task(IntentTask):
    """Speaker verification. ``speaker.trials`` applies to the splits that have its files, usually test."""

    score_name, higher_is_better, outputs = "eer", False, "speakers"
    models = (SpeakerEmbedder,)
    label_keys = SPEAKER_KEYS
    tuned_config = None
    key = what = "speaker"

    def __init__(self, config: TaskConfig, train: Corpus) -> None:
        """Raises UserError where there are fewer than two speakers, or the trial list cannot be read."""
        self.config, self.speaker, self.intent = config, config.section(SpeakerConfig), IntentConfig()
        self.trials = read_trials(self.speaker.trials) if self.speaker.trials is not None else []
        tested = {PurePath(name).parts[0] for trial in self.trials for name in trial[1:]}
        train.keep(lambda u: self.reference(u) not in tested, "{u.source}: its speaker is in speaker.trials")
        super().__init__(config, train)

    def build(self, encoder: Encoder) -> SpeakerEmbedder:
        head = self.config.head
        return SpeakerEmbedder(encoder, self.labels, head.layers, head.dropout, head.kind, head.width,
                               self.speaker.embedding)  # fmt: skip

    def own_label(self, utterance: Utterance) -> str:
        return utterance.speaker or ""

    def check(self, corpus: Corpus, frames: Callable[[Utterance], int], key: str, *, training: bool) -> list[str]:
        """Skip utterances without a speaker; warn about files of the trials that are missing.

        Raises UserError where no pair of one speaker, or none of two, can be made.
        """
        corpus.keep(self.reference, "{u.source}: no speaker")
        if training or not corpus.utterances:
            return []
        trials, missing = placed(self.trials, [u.source for u in corpus.utterances])
        given, count = f"speaker.trials={self.speaker.trials}", len(trials.same)
        if missing and count:
            return [f"{len(missing)} files of {given} are not in it, which skips {len(self.trials) - count} of "
                    f"{len(self.trials)} trials: {', '.join(missing[:8])}"]  # fmt: skip
        if missing and key == "data.test":
            raise UserError(f"{given}: none of its files is in {key}, such as {missing[0]}")
        speakers = Counter(self.reference(u) for u in corpus.utterances)
        if not count and (len(speakers) < 2 or max(speakers.values()) < 2):
            raise UserError(f"{key}: {len(speakers)} speakers in {len(corpus.utterances)} utterances; pairs of one "
                            "speaker and pairs of two are needed")  # fmt: skip
        return []

    def loss_sum(self, model: SpeakerEmbedder, encoded: EncoderOutput, batch: LabelledBatch) -> Tensor:
        """Additive angular margin softmax (arXiv 1801.07698, equation 3), in nats, summed over utterances."""
        turned = with_margin(model.cosines(model.head(encoded)), batch.labels, self.speaker.margin)  # (B, N)
        return cross_entropy_sum(self.speaker.scale * turned, batch)

    def predict(self, model: SpeakerEmbedder, encoded: EncoderOutput) -> list[Any]:
        return [[round(x, 6) for x in row] for row in model.head(encoded).tolist()]

    def score(self, rows: list[Scored]) -> dict[str, float]:
        """Equal error rate, and the least detection cost where a target is expected in 1 % and 5 % of trials."""
        trials, scores = self.scored(rows)
        if trials.same.all() or not trials.same.any():
            return dict.fromkeys(("eer", "min_dcf_p01", "min_dcf_p05"), math.nan)
        costs = {name: min_dcf(scores, trials.same, p) for name, p in (("min_dcf_p01", 0.01), ("min_dcf_p05", 0.05))}
        return {"eer": equal_error_rate(scores, trials.same), **costs}

    def scored(self, rows: list[Scored]) -> tuple[Trials, np.ndarray]:
        """The trials over these rows and their cosines (K,)."""
        sources, speakers = [row.utterance.source for row in rows], [row.reference for row in rows]
        trials = trials_of(self.trials, sources, speakers, self.speaker.max_trials)
        return trials, cosines([row.prediction for row in rows], trials)

    def report(self, rows: list[Scored], scores: dict[str, float]) -> list[str]:
        """The number of trials."""
        same = self.scored(rows)[0].same
        return [f"    {len(same)} trials, {int(same.sum())} of them of one speaker"]


def with_margin(cosines: Tensor, targets: Tensor, margin: float) -> Tensor:
    """cos θ to cos(θ + margin) at each row's target (B, N); beyond θ = π - margin, where that would rise, a line."""
    own = cosines.gather(1, targets.unsqueeze(1)).clamp(-1.0, 1.0)
    sine = (1.0 - own.square()).clamp(min=1e-7).sqrt()
    turned = own * math.cos(margin) - sine * math.sin(margin)
    turned = torch.where(own > math.cos(math.pi - margin), turned, own - math.sin(margin) * margin)
    return cosines.scatter(1, targets.unsqueeze(1), turned.to(cosines.dtype))


def read_trials(path: str | Path) -> list[Trial]:
    """A list in VoxCeleb1's form: ``1 id10270/x/00001.wav id10270/y/00002.wav``, 1 where the speaker is the same.

    Raises UserError where there is no such file, or one of its lines is not a trial.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"speaker.trials={path}: no such file")
    trials: list[Trial] = []
    for where, line in text_lines(file):
        if words := line.split():
            if len(words) != 3 or words[0] not in ("0", "1"):
                raise UserError(f"{where}: a trial is 0 or 1 and two files, not {line[:100]!r}")
            trials.append((words[0] == "1", str(PurePath(words[1])), str(PurePath(words[2]))))
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
    found = [(rows[one], rows[other], same) for same, one, other in trials if one in rows and other in rows]
    first, second, same = np.array(found, dtype=np.int64).reshape(-1, 3).T
    return Trials(first, second, same.astype(bool)), [name for name in names if name not in rows]


def trials_of(listed: list[Trial], sources: list[str], speakers: list[str], most: int) -> Trials:
    """The trials of a list among rows; where there are none, all pairs of rows, or ``most`` of them."""
    trials, _ = placed(listed, sources)
    return trials if len(trials.same) else all_pairs(speakers, most)


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


def error_rates(scores: np.ndarray, same: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Miss and false-alarm rates at every threshold, from one over all scores (K,) to the lowest score.

    ``same`` (K,) is a bool, true and false at least once; ``weights`` (K,) is how often each trial counts.
    """
    from sklearn.metrics import roc_curve  # here, since a configuration imports this file and sklearn is slow to load

    alarms, hits, _ = roc_curve(same, scores, sample_weight=weights, drop_intermediate=False)
    return 1.0 - hits, alarms


def equal_error_rate(scores: np.ndarray, same: np.ndarray, weights: np.ndarray | None = None) -> float:
    """The point where both rates are equal, interpolated linearly between thresholds; arguments as ``error_rates``."""
    misses, alarms = error_rates(scores, same, weights)
    return float(np.interp(0.0, alarms - misses, alarms))  # the difference rises from -1 to 1


def min_dcf(scores: np.ndarray, same: np.ndarray, p_target: float) -> float:
    """The least detection cost, both errors at cost 1, relative to always guessing the likelier answer."""
    misses, alarms = error_rates(scores, same, None)
    costs = p_target * misses + (1.0 - p_target) * alarms
    return float(costs.min() / min(p_target, 1.0 - p_target))
