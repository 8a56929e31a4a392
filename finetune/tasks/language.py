"""Language identification: a label from the field ``language`` or ``locale``, also scored by recall per language."""

from __future__ import annotations

from collections import Counter

from mixvec.data.utterances import Utterance

from . import Scored
from .intent import Task as IntentTask
from .intent import label_of

LANGUAGE_KEYS = ("language", "locale", "lang")


class Task(IntentTask):
    """Classification by language: from ``data.label`` where that is set, else from a row's language keys."""

    key = "language"
    label_keys = ("language",)
    tuned_config = "slu/language.yaml"

    def reference(self, utterance: Utterance) -> str:
        if self.config.data.label is not None:
            return label_of(utterance, self.config.data.label)
        return next((utterance.fields[key] for key in LANGUAGE_KEYS if utterance.fields.get(key)), "")

    def score(self, rows: list[Scored]) -> dict[str, float]:
        """The scores of classification, and ``recall_LANGUAGE`` for each language in the references."""
        spoken = Counter(row.reference for row in rows)
        right = Counter(row.reference for row in rows if row.reference == row.prediction)
        return super().score(rows) | {f"recall_{name}": right[name] / spoken[name] for name in sorted(spoken)}
