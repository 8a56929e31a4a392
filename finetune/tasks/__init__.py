"""The labelled tasks, one file each: ``task=NAME`` uses the class ``Task`` of ``finetune/tasks/NAME.py``.

A task defines the model's head, the targets, the loss and the scores. Everything else (data, batches, the loop,
checkpoints, ranks, resuming, publishing) is shared. Keys of its own are a frozen dataclass in its file, a section of
``FinetuneConfig`` under the task's name; importing a task's file loads no data stack, since the configuration does.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from mixvec import Encoder
from mixvec.data.sources import Corpus
from mixvec.data.utterances import Utterance
from mixvec.model import TaskModel
from mixvec.model.protocol import EncoderOutput

from ..batch import LabelledBatch
from ..sections import TaskConfig


class Scored(NamedTuple):
    """An utterance of an evaluation with its reference and the model's prediction, both plain JSON values."""

    utterance: Utterance
    """Without its audio; ``fields`` has the speaker where the data names it."""
    reference: Any
    """Returned by ``LabelledTask.reference``: text in most tasks."""
    prediction: Any
    """Returned by ``LabelledTask.predict``: text in most tasks. An empty text where the audio cannot be decoded."""


class LabelledTask(Protocol):
    """Base class of the tasks. A task is built again from the training data whenever the run resumes."""

    score_name: str
    """The score that decides which checkpoint is the best, a key of ``score``."""
    higher_is_better: bool
    tie_name: str | None = None
    """The score that decides between two checkpoints of the same ``score_name``; None: the earlier is kept."""
    models: tuple[type[Any], ...]
    """The classes of the models that ``build`` may return."""
    label_keys: tuple[str, ...]
    """The keys of a row that carry this task's label; ``tools.probe`` runs the task on corpora that have one."""
    tuned_config: str | None = None
    """The file in configs/ that trains the encoder too, for ``tools.probe --finetune``; None where there is none."""

    def __init__(self, config: TaskConfig, train: Corpus) -> None:
        """Take vocabulary or labels from ``train``, and skip the utterances in it that have no label.

        Raises:
            UserError: the data has no labels for this task.
        """

    def fingerprint(self) -> dict[str, Any]:
        """The vocabulary or labels that the model's outputs stand for, as plain JSON; a resumed run needs the same."""

    def adopt(self, model: TaskModel, source: Path) -> str:
        """Take over the vocabulary or labels of a model fine-tuned before, so that its head can be kept; where this
        task has others, a text on what the model lacks.

        Args:
            source: the model's folder or run directory.
        """
        return lacking(next(iter(self.fingerprint().values())), model)

    def build(self, encoder: Encoder) -> Any:
        """A ``mixvec.model.TaskModel`` for this task on ``encoder``, its head with random weights."""

    def reference(self, utterance: Utterance) -> Any:
        """The reference to score a prediction against."""

    def target(self, utterance: Utterance) -> list[int]:
        """The training target as numbers (U,); empty where the utterance has none."""

    def check(self, corpus: Corpus, frames: Callable[[Utterance], int], key: str, *, training: bool) -> list[str]:
        """Skip the utterances of ``corpus`` that cannot be learned or scored; returns warnings to print.

        Args:
            frames: an utterance's number of frames, at the fastest speed of augmentation.
            key: ``data.train``, ``data.valid`` or ``data.test``, for messages.

        Raises:
            UserError: no utterance can be used.
        """

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
        """``details`` of results.json for each split, as plain JSON values: intervals, counts, how labels were
        normalised. Its ``text``, if any, is in the model card too."""
        return {}


def lacking(own: list[str], model: TaskModel) -> str:
    """Which of these tokens or labels a model does not have, for a message; empty where it has all of them."""
    lost = [name for name in own if name not in set(model.stored())]
    return f"it lacks {', '.join(map(repr, lost[:8]))}" if lost else ""


def task_class(name: str) -> type[LabelledTask]:
    """The class ``Task`` of ``finetune/tasks/NAME.py``."""
    found: type[LabelledTask] = importlib.import_module(f".{name}", __name__).Task
    return found
