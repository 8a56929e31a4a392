"""Language identification: a label from the field ``language`` or ``locale``, also scored by recall per language."""

from __future__ import annotations

from mixvec.data.utterances import Utterance

from . import Scored
from .intent import Task as IntentTask
from .intent import recalls


def language_of(utterance: Utterance) -> str:
    """The language that a row states, or an empty text."""
    return next((found for key in ("language", "locale", "lang") if (found := utterance.fields.get(key))), "")


class Task(IntentTask):
    """Classification by language: from ``data.label`` where that is set, else from a row's language keys."""

    key = what = "language"
    label_keys = ("language",)
    tuned_config = "slu/language.yaml"

    def own_label(self, utterance: Utterance) -> str:
        return language_of(utterance)

    def score(self, rows: list[Scored]) -> dict[str, float]:
        """The scores of classification, and ``recall_LANGUAGE`` for each language in the references."""
        return super().score(rows) | {f"recall_{name}": recall for name, recall in recalls(rows).items()}
