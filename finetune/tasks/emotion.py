"""Emotion: classification, scored by accuracy over utterances and over classes; IEMOCAP's folds by session."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from zlib import crc32

from mixvec.data.sources import Corpus
from mixvec.data.utterances import Utterance

from ..sections import TaskConfig
from . import Scored
from .intent import Task as IntentTask
from .intent import label_of

IEMOCAP = {"ang": "ang", "hap": "hap", "exc": "hap", "neu": "neu", "sad": "sad"}
"""The four classes of SUPERB and MP3S: excitement counts as happiness, other emotions are skipped."""


@dataclass(frozen=True)
class EmotionConfig:
    """For task=emotion."""

    fold: int | None = None
    """IEMOCAP: the session, 1 to 5, that is the test data and held out of train and valid; four classes."""

    def __post_init__(self) -> None:
        if self.fold not in (None, 1, 2, 3, 4, 5):
            raise ValueError(f"emotion.fold={self.fold} must be a session of IEMOCAP, 1 to 5, or null")


class Task(IntentTask):
    """Classification by emotion. With ``emotion.fold`` train, valid and test may name the same corpus.

    The session of that number is the test data; of the others a fifth, chosen by file name, is for validation where
    ``data.valid`` is given.
    """

    key = "emotion"
    label_keys = ("emotion",)
    tuned_config = None

    def __init__(self, config: TaskConfig, train: Corpus) -> None:
        """
        Raises:
            UserError: the training data has fewer than two emotions.
        """
        self.config, self.fold = config, config.section(EmotionConfig).fold
        self._keep_split(train, "data.train")
        super().__init__(config, train)

    def reference(self, utterance: Utterance) -> str:
        emotion = label_of(utterance, self.config.data.label or "emotion") or utterance.label or ""
        return emotion if self.fold is None else IEMOCAP.get(emotion, "")

    def check(self, corpus: Corpus, frames: Callable[[Utterance], int], key: str, *, training: bool) -> list[str]:
        self._keep_split(corpus, key)
        return super().check(corpus, frames, key, training=training) if corpus.utterances else []

    def _keep_split(self, corpus: Corpus, key: str) -> None:
        """Keep the utterances that the fold assigns to this split."""
        if self.fold is None:
            return
        corpus.keep(self.reference, "{u.source}: none of the four emotions")
        if key.startswith("data.test"):
            corpus.keep(lambda u: u.fields.get("session") == str(self.fold), "{u.source}: in a session of training")
            return
        corpus.keep(lambda u: u.fields.get("session") != str(self.fold), "{u.source}: in the session of emotion.fold")
        if self.config.data.valid is not None:
            held_out = key.startswith("data.valid")
            corpus.keep(lambda u: (crc32(u.source.rsplit("/", 1)[-1].encode()) % 5 == 0) == held_out,
                        "{u.source}: in the other part of training and validation")  # fmt: skip

    def score(self, rows: list[Scored]) -> dict[str, float]:
        """Accuracy over utterances (weighted accuracy), over classes (unweighted: the mean recall), and F1."""
        recalls = []
        for label in sorted({row.reference for row in rows}):
            own = [row for row in rows if row.reference == label]
            recalls.append(sum(row.prediction == label for row in own) / len(own))
        return super().score(rows) | {"unweighted_accuracy": sum(recalls) / len(recalls)}
