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
from .intent import recalls

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
    """Classification by emotion. With ``emotion.fold`` train, valid and test may name the same corpus: the session of
    that number is for the test, of the others a fifth, by file name, for validation where ``data.valid`` is given."""

    key = what = "emotion"
    label_keys = ("emotion",)
    tuned_config = None

    def __init__(self, config: TaskConfig, train: Corpus) -> None:
        """Raises UserError where the training data has fewer than two emotions."""
        self.fold = config.section(EmotionConfig).fold
        super().__init__(config, train)

    def own_label(self, utterance: Utterance) -> str:
        return utterance.fields.get("emotion") or utterance.label or ""

    def reference(self, utterance: Utterance) -> str:
        emotion = super().reference(utterance)
        return emotion if self.fold is None else IEMOCAP.get(emotion, "")

    def check(self, corpus: Corpus, frames: Callable[[Utterance], int], key: str, *, training: bool) -> list[str]:
        """Keep the utterances that the fold assigns to this split, then check them as any labels."""
        if (fold := self.fold) is not None:
            tested, valid = key.startswith("data.test"), key.startswith("data.valid")
            corpus.keep(self.reference, "{u.source}: none of the four emotions")
            corpus.keep(lambda u: (u.fields.get("session") == str(fold)) == tested, "{u.source}: in a session of "
                        + ("training" if tested else "the test data (emotion.fold)"))  # fmt: skip
            if not tested and self.config.data.valid is not None:
                corpus.keep(lambda u: (crc32(u.source.rsplit("/", 1)[-1].encode()) % 5 == 0) == valid,
                            "{u.source}: in the other part of training and validation")  # fmt: skip
        return super().check(corpus, frames, key, training=training)

    def score(self, rows: list[Scored]) -> dict[str, float]:
        """Accuracy over utterances (weighted accuracy), over classes (unweighted: the mean recall), and F1."""
        each = recalls(rows)
        return super().score(rows) | {"unweighted_accuracy": sum(each.values()) / len(each)}
