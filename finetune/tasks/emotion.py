"""Emotion: classification, scored by accuracy over utterances and over classes; IEMOCAP's folds by session."""

from __future__ import annotations

from zlib import crc32

from mixvec.data.sources import Corpus
from mixvec.data.utterances import Utterance

from ..config import FinetuneConfig
from . import Scored
from .intent import Task as IntentTask
from .intent import label_of

IEMOCAP = {"ang": "ang", "hap": "hap", "exc": "hap", "neu": "neu", "sad": "sad"}
"""The four classes of SUPERB and MP3S: excitement counts as happiness, the other emotions are left out."""


class Task(IntentTask):
    """What emotion adds to the loop. With ``emotion.fold`` train, valid and test may name the same corpus:

    the session of that number is the test data; of the others a fifth, chosen by name, is for validation where
    ``data.valid`` is given.
    """

    key = "emotion"

    def __init__(self, config: FinetuneConfig, train: Corpus) -> None:
        """
        Raises:
            UserError: the training data has fewer than two emotions.
        """
        self.config = config
        self._take(train, "data.train")
        super().__init__(config, train)

    def reference(self, utterance: Utterance) -> str:
        emotion = label_of(utterance, self.config.data.label or "emotion") or utterance.label or ""
        return emotion if self.config.emotion.fold is None else IEMOCAP.get(emotion, "")

    def check(self, corpus: Corpus, frames: object, key: str, *, training: bool) -> list[str]:
        self._take(corpus, key)
        return super().check(corpus, frames, key, training=training) if corpus.utterances else []

    def _take(self, corpus: Corpus, key: str) -> None:
        """Leave in ``corpus`` what the fold has for this split."""
        fold = self.config.emotion.fold
        if fold is None:
            return
        corpus.keep(self.reference, "{u.source}: none of the four emotions")
        if key.startswith("data.test"):
            return corpus.keep(lambda u: u.fields.get("session") == str(fold), "{u.source}: in a session of training")
        corpus.keep(lambda u: u.fields.get("session") != str(fold), "{u.source}: in the session of emotion.fold")
        if self.config.data.valid is not None:
            held = key.startswith("data.valid")
            corpus.keep(lambda u: (crc32(u.source.rsplit("/", 1)[-1].encode()) % 5 == 0) == held,
                        "{u.source}: in the other part of training and validation")  # fmt: skip
        return None

    def score(self, rows: list[Scored]) -> dict[str, float]:
        """Accuracy over utterances (called weighted), over classes (unweighted: the mean of their recalls), and F1."""
        recalls = []
        for label in sorted({row.reference for row in rows}):
            own = [row for row in rows if row.reference == label]
            recalls.append(sum(row.prediction == label for row in own) / len(own))
        return super().score(rows) | {"unweighted_accuracy": sum(recalls) / len(recalls)}
