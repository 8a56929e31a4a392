"""Utterance classification: one label per utterance, or several at once, scored by accuracy and macro-averaged F1."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from operator import eq
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mixvec import Classifier, Encoder, ProbeClassifier, UserError
from mixvec.data.sources import Corpus
from mixvec.data.utterances import Utterance
from mixvec.model import TaskModel
from mixvec.model.protocol import EncoderOutput

from ..batch import LabelledBatch
from ..sections import TaskConfig
from . import LabelledTask, Scored, lacking


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

    score_name, higher_is_better = "accuracy", True
    models: tuple[type[Any], ...] = (Classifier, ProbeClassifier)
    label_keys: tuple[str, ...] = ("label",)
    tuned_config: str | None = "intent.yaml"
    key = "intent"
    """A key that gives rows their label, for messages."""

    def __init__(self, config: TaskConfig, train: Corpus) -> None:
        """
        Raises:
            UserError: the training data has fewer than two labels, or none that ``intent.keep`` names.
        """
        self.config, self.intent = config, config.section(IntentConfig)
        train.keep(self.reference, "{u.source}: no label")
        self.labels = sorted({self.reference(u) for u in train.utterances})
        if len(self.labels) < 2:
            what = f"only the label {self.labels[0]!r}" if self.labels else "no labels"
            raise UserError(f"data.train={config.data.train}: {what} in it; rows need a key such as {self.key} with at "
                            "least two values (data.label=KEY names another)")  # fmt: skip
        if lost := sorted(set(self.intent.keep) - set(self.labels)):
            raise UserError(f"intent.keep={lost[0]}: not a label of data.train={config.data.train}")
        self._numbers = {label: i for i, label in enumerate(self.labels)}
        several = isinstance(config.data.label, list) and not self.intent.keep
        self.fields = [str(name) for name in config.data.label] if several else []
        self._parts = {self.reference(u): [u.fields[name] for name in self.fields] for u in train.utterances}

    def fingerprint(self) -> dict[str, Any]:
        return {"classes": self.labels}

    def adopt(self, model: TaskModel, source: Path) -> str:
        if self.fields and self.labels != model.stored():
            return "its labels are others, which cannot be taken apart into the fields of data.label"
        if not (lost := lacking(self.labels, model)):
            self.labels = list(model.stored())
            self._numbers = {label: i for i, label in enumerate(self.labels)}
        return lost

    def build(self, encoder: Encoder) -> Classifier:
        if (head := self.config.head).kind != "own":
            return ProbeClassifier(encoder, self.labels, head.layers, head.dropout, head.kind, head.width)
        return Classifier(encoder, self.labels, self.config.head.layers, self.config.head.dropout)

    def reference(self, utterance: Utterance) -> str:
        label = label_of(utterance, self.config.data.label)
        return self.intent.rest if label and self.intent.keep and label not in self.intent.keep else label

    def target(self, utterance: Utterance) -> list[int]:
        return [self._numbers[self.reference(utterance)]] if self.reference(utterance) in self._numbers else []

    def check(self, corpus: Corpus, frames: Callable[[Utterance], int], key: str, *, training: bool) -> list[str]:
        """Skip utterances without a label; warn about labels that training lacks, which count as errors.

        Raises:
            UserError: all labels are unknown.
        """
        corpus.keep(self.reference, "{u.source}: no label")
        found = Counter(self.reference(u) for u in corpus.utterances)
        unknown = Counter({label: n for label, n in found.items() if label not in self._numbers})
        if unknown and len(unknown) == len(found):
            raise UserError(f"{key}: none of its labels is in the training data (the first: {next(iter(unknown))!r})")
        some = ", ".join(f"{label!r} x{n}" for label, n in unknown.most_common(8))
        return [f"WARNING {key}: labels missing from the training data count as errors: {some}"] if unknown else []

    def loss_sum(self, model: Classifier, encoded: EncoderOutput, batch: LabelledBatch) -> Tensor:
        """Cross-entropy in nats, summed over utterances."""
        return cross_entropy_sum(model.head(encoded), batch)

    def predict(self, model: Classifier, encoded: EncoderOutput) -> list[str]:
        return [model.labels[i] for i in model.head(encoded).argmax(-1).tolist()]

    def score(self, rows: list[Scored]) -> dict[str, float]:
        """``accuracy`` and ``macro_f1``; also the accuracy of each field where ``data.label`` names several."""
        references, predictions = [row.reference for row in rows], [row.prediction for row in rows]
        right = sum(map(eq, references, predictions))
        scores = {"accuracy": right / len(rows), "macro_f1": macro_f1(references, predictions)}
        for number, name in enumerate(self.fields):
            given = [self._parts[row.prediction][number] if row.prediction else None for row in rows]
            wanted = [row.utterance.fields[name] for row in rows]
            scores[f"{name}_accuracy"] = sum(map(eq, given, wanted)) / len(rows)
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
    names = keys if isinstance(keys, list) else [keys]
    values = [utterance.fields.get(str(name), "") for name in names]
    return "|".join(values) if all(values) else ""


def labels_in(batch: LabelledBatch) -> Tensor:
    """The labels (B,) of a batch; 0 for a row without one."""
    return torch.nn.functional.pad(batch.targets, (0, 1))[:, 0]


def cross_entropy_sum(logits: Tensor, batch: LabelledBatch) -> Tensor:
    """Cross-entropy in nats () of logits (B, N), summed over the rows that have a label."""
    losses = torch.nn.functional.cross_entropy(logits, labels_in(batch), reduction="none")
    return (losses * (batch.target_lengths > 0)).sum()


def macro_f1(references: list[str], predictions: list[str]) -> float:
    """F1 averaged over the labels of references and predictions; an empty prediction is no label."""
    wanted, given = Counter(references), Counter(predictions)
    right = Counter(r for r, p in zip(references, predictions, strict=True) if r == p)
    labels = {*wanted, *given} - {""}
    return sum(2 * right[label] / (wanted[label] + given[label]) for label in labels) / len(labels)
