"""The labelled tasks, one file each: ``task=NAME`` uses the class ``Task`` of ``finetune/tasks/NAME.py``.

A task defines the model's head, the targets, the loss and the scores. Everything else (data, batches, the loop,
checkpoints, ranks, resuming, publishing) is shared. Keys of its own are a frozen dataclass in its file, a section of
``FinetuneConfig`` under the task's name; importing a task's file loads no data stack, since the configuration does.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from mixvec import Encoder, UserError
from mixvec.data.sources import Corpus
from mixvec.data.utterances import Utterance
from mixvec.model import TaskModel
from mixvec.model.protocol import EncoderOutput

from ..batch import LabelledBatch
from ..sections import TaskConfig


class Scored(NamedTuple):
    """An utterance of an evaluation, without its audio, and two plain JSON values, texts in most tasks."""

    utterance: Utterance
    reference: Any
    prediction: Any
    """An empty text where the audio cannot be decoded."""


class LabelledTask(Protocol):
    """Base class of the tasks. A task is built again from the training data whenever the run resumes."""

    score_name: str
    """The score that decides which checkpoint is the best, a key of ``score``."""
    higher_is_better: bool
    tie_name: str | None = None
    """The score, lower being better, that decides between equal scores; None: the earlier checkpoint is kept."""
    models: tuple[type[Any], ...]
    """The classes of the models that ``build`` may return."""
    label_keys: tuple[str, ...]
    """The keys of a row that carry this task's label; ``tools.probe`` runs the task on corpora that have one."""
    tuned_config: str | None = None
    """The file in configs/ that trains the encoder too, for ``tools.probe --finetune``; None where there is none."""
    labels: list[str]
    """What the model's outputs stand for: labels, or the tokens of a vocabulary."""
    numbers: dict[str, int]
    """The number of each of them."""
    outputs: str
    """What ``labels`` are, in checkpoints: classes, a vocabulary."""
    what: str
    """What a row is labelled with, in messages."""
    hint: str = ""
    """What else may be wrong where none of the labels is known, for a message."""

    def __init__(self, config: TaskConfig, train: Corpus) -> None:
        """Take vocabulary or labels from ``train``, which may have utterances without.

        Raises:
            UserError: the data has no labels for this task.
        """

    def take(self, labels: Iterable[str]) -> None:
        """Let the model's outputs stand for these."""
        self.labels = list(labels)
        self.numbers = {label: number for number, label in enumerate(self.labels)}

    def fingerprint(self) -> dict[str, Any]:
        """What the model's outputs stand for, as plain JSON; a resumed run needs the same."""
        return {self.outputs: self.labels}

    def adopt(self, model: TaskModel, source: Path) -> str:
        """Take over the labels of a model of folder or run ``source``, to keep its head; or a text on what it lacks."""
        stored = dict.fromkeys(model.stored())
        if lost := [label for label in self.labels if label not in stored]:
            return f"it lacks {', '.join(map(repr, lost[:8]))}"
        self.take(stored)
        return ""

    def build(self, encoder: Encoder) -> Any:
        """A ``mixvec.model.TaskModel`` for this task on ``encoder``, its head with random weights."""

    def reference(self, utterance: Utterance) -> Any:
        """The reference to score a prediction against."""

    def tokens(self, utterance: Utterance) -> list[str]:
        """The labels or tokens that an utterance has to be predicted as, those that the model lacks included."""

    def target(self, utterance: Utterance) -> list[int]:
        """The training target as numbers (U,); empty where the utterance has none."""
        return [self.numbers[token] for token in self.tokens(utterance) if token in self.numbers]

    def unknown(self, corpus: Corpus) -> Mapping[str, int]:
        """How often a corpus has each label or token that the model lacks."""
        return Counter(token for u in corpus.utterances for token in self.tokens(u) if token not in self.numbers)

    def check(self, corpus: Corpus, frames: Callable[[Utterance], int], key: str, *, training: bool) -> list[str]:
        """Skip the utterances of ``corpus`` that cannot be learned or scored; returns warnings.

        Args:
            frames: an utterance's number of frames, at the fastest speed of augmentation.
            key: ``data.train``, ``data.valid`` or ``data.test``, for errors.

        Raises:
            UserError: no utterance can be used.
        """
        corpus.keep(self.reference, f"{{u.source}}: no {self.what}")
        unknown = listed(self.unknown(corpus))
        if corpus.utterances and not any(self.target(u) for u in corpus.utterances):
            raise UserError(f"{key}: none of its {self.what}s is in the training data: {unknown}{self.hint}")
        return [f"not in the training data, so that they count as errors: {unknown}"] if unknown else []

    def loss_sum(self, model: Any, encoded: EncoderOutput, batch: LabelledBatch) -> Tensor:
        """The loss () summed over the batch, to be divided by the number of targets in the whole update."""

    def predict(self, model: Any, encoded: EncoderOutput) -> list[Any]:
        """The prediction for each row (B,), as plain JSON values."""

    def score(self, rows: list[Scored]) -> dict[str, float]:
        """The scores of a whole split."""

    def report(self, rows: list[Scored], scores: dict[str, float]) -> list[str]:
        """Lines to print: examples, confusions, warnings."""
        return []

    def details(self, rows: list[Scored]) -> dict[str, Any]:
        """``details`` of results.json for each split, as plain JSON values: intervals, counts."""
        return {}


def listed(counts: Mapping[str, int]) -> str:
    """The most frequent labels or tokens with their counts, for a message."""
    return ", ".join(f"{name!r} x{count}" for name, count in Counter(counts).most_common(8))


def task_class(name: str) -> type[LabelledTask]:
    """The class ``Task`` of ``finetune/tasks/NAME.py``."""
    return importlib.import_module(f".{name}", __name__).Task  # type: ignore[no-any-return]
