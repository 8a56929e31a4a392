"""Utterance classification: one label per utterance, scored by accuracy and macro-averaged F1."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor

from mixvec import Classifier, EncoderConfig, UserError
from mixvec.output import EncoderOutput
from pretrain.sources import Corpus
from pretrain.utterances import Utterance

from .batch import LabelledBatch
from .config import FinetuneConfig


class IntentTask:
    """What classification adds to the loop. The labels are those of the training data."""

    score_name, higher_is_better = "accuracy", True

    def __init__(self, config: FinetuneConfig, train: Corpus, labels: list[str] | None = None) -> None:
        """
        Raises:
            UserError: the training data has fewer than two labels.
        """
        self.config = config
        train.keep(lambda u: u.label is not None, "{u.source}: no label")
        self.labels = labels or sorted({u.label for u in train.utterances if u.label is not None})
        if len(self.labels) < 2:
            what = f"only the label {self.labels[0]!r}" if self.labels else "no labels"
            raise UserError(
                f"data.train={config.data.train}: {what} in it; rows need a key such as intent, of two values or more"
            )
        self._numbers = {label: i for i, label in enumerate(self.labels)}

    def build(self, encoder: EncoderConfig) -> Classifier:
        return Classifier(encoder, self.labels, self.config.head.layers, self.config.head.dropout)

    def reference(self, utterance: Utterance) -> str:
        return utterance.label or ""

    def target(self, utterance: Utterance) -> list[int]:
        return [self._numbers[self.reference(utterance)]] if self.reference(utterance) in self._numbers else []

    def check(self, corpus: Corpus, frames: Any, key: str, *, training: bool) -> list[str]:
        """Say which labels training does not know; they count as errors."""
        corpus.keep(lambda u: u.label is not None, "{u.source}: no label")
        unknown = Counter(u.label for u in corpus.utterances if u.label not in self._numbers)
        if unknown and len(unknown) == len({u.label for u in corpus.utterances}):
            raise UserError(f"{key}: none of its labels is in the training data (the first: {next(iter(unknown))!r})")
        some = ", ".join(f"{label!r} x{n}" for label, n in unknown.most_common(8))
        return [f"WARNING {key}: labels that training never saw count as errors: {some}"] if unknown else []

    def loss_sum(self, model: Classifier, encoded: EncoderOutput, batch: LabelledBatch) -> Tensor:
        """Cross-entropy in nats, summed over utterances."""
        rows = batch.target_lengths > 0
        if batch.targets.shape[1] == 0:
            return model.head(encoded).sum() * 0.0
        losses = torch.nn.functional.cross_entropy(model.head(encoded), batch.targets[:, 0], reduction="none")
        return (losses * rows).sum()

    def weight(self, batch: LabelledBatch) -> float:
        """What the loss is divided by: utterances."""
        return float((batch.target_lengths > 0).sum())

    def predict(self, model: Classifier, encoded: EncoderOutput) -> list[str]:
        return [model.labels[i] for i in model.head(encoded).argmax(-1).tolist()]

    def score(self, references: list[str], predictions: list[str]) -> dict[str, float]:
        """Accuracy, and F1 averaged over the labels that stand in the references or the predictions.

        An empty prediction is none, and no label.
        """
        from sklearn.metrics import f1_score  # two seconds to import, which a recogniser need not wait for

        correct = sum(r == p for r, p in zip(references, predictions, strict=True))
        labels = sorted({*references, *predictions} - {""})
        f1 = f1_score(references, predictions, labels=labels, average="macro", zero_division=0.0)
        return {"accuracy": correct / len(references), "macro_f1": float(f1)}

    def report(self, references: list[str], predictions: list[str], scores: dict[str, float]) -> list[str]:
        """The commonest confusions."""
        wrong = Counter((r, p) for r, p in zip(references, predictions, strict=True) if r != p)
        some = ", ".join(f"{r} taken for {p} x{n}" for (r, p), n in wrong.most_common(3))
        return [f"    confused: {some}"] if some else []
