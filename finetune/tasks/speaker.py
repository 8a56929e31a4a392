"""Speaker verification: embeddings learned by classifying the training speakers, scored on pairs of new speakers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mixvec import Encoder, SpeakerEmbedder, UserError
from mixvec.data.readers.rows import SPEAKER_KEYS
from mixvec.data.sources import Corpus
from mixvec.data.utterances import Utterance
from mixvec.model import TaskModel
from mixvec.model.protocol import EncoderOutput
from mixvec.training.config import check_at_least

from ..batch import LabelledBatch
from ..sections import TaskConfig
from ..verification import Trials, all_pairs, cosines, equal_error_rate, min_dcf, placed, read_trials
from . import LabelledTask, Scored, lacking
from .intent import cross_entropy_sum, label_of, labels_in


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
        check_at_least(self, {"max_trials": 1, "margin": 0, "scale": 1e-6, "embedding": 2}, "speaker.")
        if self.crop_s is not None and not self.crop_s > 0:
            raise ValueError(f"speaker.crop_s={self.crop_s} must be over 0, or null for whole utterances")


class Task(LabelledTask):
    """Speaker verification. ``speaker.trials`` applies to the splits that have its files, usually test."""

    score_name, higher_is_better = "eer", False
    models: tuple[type[Any], ...] = (SpeakerEmbedder,)
    label_keys: tuple[str, ...] = SPEAKER_KEYS

    def __init__(self, config: TaskConfig, train: Corpus) -> None:
        """
        Raises:
            UserError: fewer than two speakers, or the trial list cannot be read.
        """
        self.config, self.speaker = config, config.section(SpeakerConfig)
        self.trials = read_trials(self.speaker.trials) if self.speaker.trials is not None else []
        tested = {Path(name).parts[0] for trial in self.trials for name in trial[1:]}
        train.keep(self.reference, "{u.source}: no speaker")
        train.keep(lambda u: self.reference(u) not in tested, "{u.source}: its speaker is in speaker.trials")
        self.speakers = sorted({self.reference(u) for u in train.utterances})
        if len(self.speakers) < 2:
            raise UserError(f"data.train={config.data.train}: {len(self.speakers)} speakers in it, at least two are "
                            "needed; rows need a key such as speaker (data.label=KEY names another)")  # fmt: skip
        self._numbers = {speaker: i for i, speaker in enumerate(self.speakers)}

    def fingerprint(self) -> dict[str, Any]:
        return {"speakers": self.speakers}

    def adopt(self, model: TaskModel, source: Path) -> str:
        if not (lost := lacking(self.speakers, model)):
            self.speakers = list(model.stored())
            self._numbers = {speaker: i for i, speaker in enumerate(self.speakers)}
        return lost

    def build(self, encoder: Encoder) -> SpeakerEmbedder:
        head = self.config.head
        return SpeakerEmbedder(encoder, self.speakers, head.layers, head.dropout, head.kind, head.width,
                               self.speaker.embedding)  # fmt: skip

    def reference(self, utterance: Utterance) -> str:
        label = self.config.data.label
        return (utterance.speaker or "") if label is None else label_of(utterance, label)

    def target(self, utterance: Utterance) -> list[int]:
        return [self._numbers[self.reference(utterance)]] if self.reference(utterance) in self._numbers else []

    def check(self, corpus: Corpus, frames: Callable[[Utterance], int], key: str, *, training: bool) -> list[str]:
        """Skip utterances without a speaker; warn about files of the trials that are missing.

        Raises:
            UserError: no pair of one speaker, or none of two, can be made.
        """
        corpus.keep(self.reference, "{u.source}: no speaker")
        if training or not corpus.utterances:
            return []
        trials, missing = placed(self.trials, [u.source for u in corpus.utterances])
        given, left = f"speaker.trials={self.speaker.trials}", len(self.trials) - len(trials.same)
        if missing and not len(trials.same) and key == "data.test":
            raise UserError(f"{given}: none of its files is in {key}, such as {missing[0]}")
        if missing and len(trials.same):
            return [f"WARNING {key}: {len(missing)} files of {given} are not in it, which skips {left} of "
                    f"{len(self.trials)} trials: {', '.join(missing[:8])}"]  # fmt: skip
        counts = Counter(self.reference(u) for u in corpus.utterances)
        if not len(trials.same) and (len(counts) < 2 or max(counts.values()) < 2):
            raise UserError(f"{key}: {len(counts)} speakers in {len(corpus.utterances)} utterances; pairs of one "
                            "speaker and pairs of two are needed")  # fmt: skip
        return []

    def loss_sum(self, model: SpeakerEmbedder, encoded: EncoderOutput, batch: LabelledBatch) -> Tensor:
        """Additive angular margin softmax (arXiv 1801.07698, equation 3), in nats, summed over utterances."""
        cosines = model.cosines(model.head(encoded))  # (B, N)
        logits = self.speaker.scale * with_margin(cosines, labels_in(batch), self.speaker.margin)
        return cross_entropy_sum(logits, batch)

    def predict(self, model: SpeakerEmbedder, encoded: EncoderOutput) -> list[list[float]]:
        return [[round(x, 6) for x in row] for row in model.head(encoded).tolist()]

    def score(self, rows: list[Scored]) -> dict[str, float]:
        """Equal error rate, and the least detection cost where a target is expected in 1 % and 5 % of trials."""
        trials, scores = self.scored(rows)
        if trials.same.all() or not trials.same.any():
            return {"eer": math.nan, "min_dcf_p01": math.nan, "min_dcf_p05": math.nan}
        costs = {name: min_dcf(scores, trials.same, p) for name, p in (("min_dcf_p01", 0.01), ("min_dcf_p05", 0.05))}
        return {"eer": equal_error_rate(scores, trials.same), **costs}

    def scored(self, rows: list[Scored]) -> tuple[Trials, np.ndarray]:
        """The trials over these rows and their cosines (K,)."""
        trials, _ = placed(self.trials, [row.utterance.source for row in rows])
        if not len(trials.same):
            trials = all_pairs([row.reference for row in rows], self.speaker.max_trials)
        return trials, cosines([row.prediction for row in rows], trials)

    def report(self, rows: list[Scored], scores: dict[str, float]) -> list[str]:
        """The number of trials."""
        trials, _ = self.scored(rows)
        return [f"    {len(trials.same)} trials, {int(trials.same.sum())} of them of one speaker"]


def with_margin(cosines: Tensor, targets: Tensor, margin: float) -> Tensor:
    """cos θ to cos(θ + margin) at each row's target (B, N); beyond θ = π - margin, where that would rise, a line."""
    own = cosines.gather(1, targets.unsqueeze(1)).clamp(-1.0, 1.0)
    sine = (1.0 - own.square()).clamp(min=1e-7).sqrt()
    turned = own * math.cos(margin) - sine * math.sin(margin)
    beyond = own - math.sin(margin) * margin
    turned = torch.where(own > math.cos(math.pi - margin), turned, beyond)
    return cosines.scatter(1, targets.unsqueeze(1), turned.to(cosines.dtype))
