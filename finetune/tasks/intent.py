"""Utterance classification: one label per utterance, or several at once, scored by accuracy and macro-averaged F1."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mixvec import Classifier, Encoder, ProbeClassifier, UserError
from mixvec.data.sources import Corpus
from mixvec.data.utterances import Utterance
from mixvec.model.protocol import EncoderOutput

from ..batch import LabelledBatch
from ..sections import TaskConfig
from . import LabelledTask, Scored


@dataclass(frozen=True)
class IntentConfig:
    keep: tuple[str, ...] = ()
    """Labels to distinguish, while every other label counts as ``rest``; none: all of them."""
    rest: str = "_unknown_"
    """The label of all others."""


class Task(LabelledTask):
    """Classification of utterances. The labels are those of the training data.

    Several labels at once (action, object, location) are one label of the model; each is also scored by itself.
    """

    score_name, higher_is_better, outputs = "accuracy", True, "classes"
    models: tuple[type[Any], ...] = (Classifier, ProbeClassifier)
    label_keys: tuple[str, ...] = ("label",)
    tuned_config: str | None = "intent.yaml"
    key, what = "intent", "label"
    """For messages: a key that gives rows their label, and what a label is."""

    def __init__(self, config: TaskConfig, train: Corpus) -> None:
        """Raises UserError where the training data has fewer than two labels, or lacks one of ``intent.keep``."""
        self.config, self.intent = config, config.section(IntentConfig) if self.key == "intent" else IntentConfig()
        rows = {self.reference(u): u for u in train.utterances}
        self.take(sorted({*rows} - {""}))
        if len(self.labels) < 2:
            found = f"{len(self.labels) or 'no'} {self.what}s in it{''.join(f', {label!r}' for label in self.labels)}"
            raise UserError(f"data.train={config.data.train}: {found}; rows need a key such as {self.key} with two "
                            "values or more (data.label=KEY names another)")  # fmt: skip
        if lost := sorted({*self.intent.keep} - {*self.labels}):
            raise UserError(f"intent.keep={lost[0]}: not a label of data.train={config.data.train}")
        several = isinstance(config.data.label, list) and not self.intent.keep
        self.fields = [str(name) for name in config.data.label] if several else []
        self._parts = {label: [rows[label].fields[name] for name in self.fields] for label in self.labels}

    def adopt(self, model: Any, source: Any) -> str:
        if self.fields and self.labels != model.stored():
            return "its labels are others, which cannot be taken apart into the fields of data.label"
        return super().adopt(model, source)

    def build(self, encoder: Encoder) -> Any:
        if (head := self.config.head).kind == "own":
            return Classifier(encoder, self.labels, head.layers, head.dropout)
        return ProbeClassifier(encoder, self.labels, head.layers, head.dropout, head.kind, head.width)

    def reference(self, utterance: Utterance) -> str:
        keys, keep = self.config.data.label, self.intent.keep
        label = self.own_label(utterance) if keys is None else label_of(utterance, keys)
        return self.intent.rest if label and keep and label not in keep else label

    def own_label(self, utterance: Utterance) -> str:
        """The label where ``data.label`` names none; empty where there is none."""
        return utterance.label or ""

    def tokens(self, utterance: Utterance) -> list[str]:
        return [self.reference(utterance)]

    def loss_sum(self, model: Any, encoded: EncoderOutput, batch: LabelledBatch) -> Tensor:
        return cross_entropy_sum(model.head(encoded), batch)

    def predict(self, model: Any, encoded: EncoderOutput) -> list[Any]:
        return [self.labels[number] for number in model.head(encoded).argmax(-1).tolist()]

    def score(self, rows: list[Scored]) -> dict[str, float]:
        """``accuracy`` and ``macro_f1``; also the accuracy of each field where ``data.label`` names several."""
        wanted, given, right = counted(rows)
        labels = {*wanted, *given} - {""}  # an empty prediction is no label
        f1 = [2 * right[label] / (wanted[label] + given[label]) for label in labels]
        scores = {"accuracy": right.total() / len(rows), "macro_f1": sum(f1) / len(labels)}
        for number, name in enumerate(self.fields):
            parts = [self._parts[row.prediction][number] if row.prediction else None for row in rows]
            right_parts = [row.utterance.fields[name] == part for row, part in zip(rows, parts, strict=True)]
            scores[f"{name}_accuracy"] = sum(right_parts) / len(rows)
        return scores

    def report(self, rows: list[Scored], scores: dict[str, float]) -> list[str]:
        """The most frequent confusions."""
        wrong = Counter((row.reference, row.prediction) for row in rows if row.reference != row.prediction)
        some = ", ".join(f"{r} predicted as {p} x{n}" for (r, p), n in wrong.most_common(3))
        return [f"    confused: {some}"] if some else []


def label_of(utterance: Utterance, keys: Any) -> str:
    """An utterance's label: its own, or the fields that ``data.label`` names; empty where one of these is missing."""
    if keys is None:
        return utterance.label or ""
    values = [utterance.fields.get(str(name), "") for name in (keys if isinstance(keys, list) else [keys])]
    return "|".join(values) if all(values) else ""


def cross_entropy_sum(logits: Tensor, batch: LabelledBatch) -> Tensor:
    """Cross-entropy in nats () of logits (B, N), summed over the rows that have a label."""
    losses = torch.nn.functional.cross_entropy(logits, batch.labels, reduction="none")
    return (losses * (batch.target_lengths > 0)).sum()


def counted(rows: list[Scored]) -> tuple[Counter[str], Counter[str], Counter[str]]:
    """How often each label is a reference, a prediction, and both at once."""
    right = (row.reference for row in rows if row.reference == row.prediction)
    return Counter(row.reference for row in rows), Counter(row.prediction for row in rows), Counter(right)


def recalls(rows: list[Scored]) -> dict[str, float]:
    """The share of each label's utterances that are predicted right."""
    wanted, _, right = counted(rows)
    return {label: right[label] / count for label, count in sorted(wanted.items())}
