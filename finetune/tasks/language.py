"""Which language is spoken: a label from the field ``language`` or ``locale``, scored by recall per language too."""

from __future__ import annotations

from collections import Counter

from mixvec.data.utterances import Utterance

from . import Scored
from .intent import Task as IntentTask
from .intent import label_of

LANGUAGE_KEYS = ("language", "locale", "lang")


class Task(IntentTask):
    """What the language adds to a label: where it stands in a row (or ``data.label`` says where), and its scores."""

    key = "language"

    def reference(self, utterance: Utterance) -> str:
        if self.config.data.label is not None:
            return label_of(utterance, self.config.data.label)
        return next((utterance.fields[key] for key in LANGUAGE_KEYS if utterance.fields.get(key)), "")

    def score(self, rows: list[Scored]) -> dict[str, float]:
        """Those of any label, and ``recall_LANGUAGE`` of each language in the references."""
        spoken = Counter(row.reference for row in rows)
        right = Counter(row.reference for row in rows if row.reference == row.prediction)
        return super().score(rows) | {f"recall_{name}": right[name] / spoken[name] for name in sorted(spoken)}
