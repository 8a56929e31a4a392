"""The labelled tasks, one file each: ``task=NAME`` takes the class ``Task`` of ``finetune/tasks/NAME.py``.

A task says what a model is built for, what its targets are, the loss, and the scores. Everything else (data, batches,
the loop, checkpoints, ranks, resuming, publishing) is the same for all.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from mixvec import Encoder
from mixvec.data.sources import Corpus
from mixvec.data.utterances import Utterance
from mixvec.model.output import EncoderOutput

from ..batch import LabelledBatch

if TYPE_CHECKING:
    from ..config import FinetuneConfig


class Scored(NamedTuple):
    """An utterance of an evaluation, what it should have given and what the model gave."""

    utterance: Utterance
    """Without its audio; ``fields`` has the speaker where the data say who it is."""
    reference: Any
    """What ``reference`` gave: text in most tasks. Plain JSON values."""
    prediction: Any
    """What ``predict`` gave: text in most tasks. Plain JSON values. An empty text where the audio cannot be decoded."""


class LabelledTask(Protocol):
    """What a class ``Task`` offers. It is made anew whenever the run goes on, from the training data alone."""

    score_name: str
    """The score that decides which checkpoint is the best, a key of ``score``."""
    higher_is_better: bool

    def __init__(self, config: FinetuneConfig, train: Corpus) -> None:
        """Take vocabulary or labels from ``train``, leaving out there what has none.

        Raises:
            UserError: the data have no labels for this task.
        """

    def build(self, encoder: Encoder) -> Any:
        """A ``mixvec.model.TaskModel`` for this task on ``encoder``, the head's weights drawn at random."""

    def reference(self, utterance: Utterance) -> Any:
        """What is scored against."""

    def target(self, utterance: Utterance) -> list[int]:
        """What is learned: numbers (U,); empty where there is nothing to learn from it."""

    def check(self, corpus: Corpus, frames: Callable[[Utterance], int], key: str, *, training: bool) -> list[str]:
        """Leave out of ``corpus`` what cannot be learned or scored; the warnings to show.

        Args:
            frames: an utterance's frames, at the fastest speed of augmentation.
            key: ``data.train``, ``data.valid`` or ``data.test``, for messages.

        Raises:
            UserError: nothing in it is of use.
        """

    def loss_sum(self, model: Any, encoded: EncoderOutput, batch: LabelledBatch) -> Tensor:
        """The loss () summed over the batch, to be divided by the ``weight`` of the whole update."""

    def weight(self, batch: LabelledBatch) -> float:
        """What the loss is a mean over: characters, utterances."""

    def predict(self, model: Any, encoded: EncoderOutput) -> list[Any]:
        """What the model says of each row (B,): plain JSON values."""

    def score(self, rows: list[Scored]) -> dict[str, float]:
        """The scores of a whole split."""

    def report(self, rows: list[Scored], scores: dict[str, float]) -> list[str]:
        """Lines for the screen: examples, confusions, warnings."""


@runtime_checkable
class Detailed(Protocol):
    """A task that has more to say of its scores than numbers for a table; most have not."""

    def details(self, rows: list[Scored]) -> dict[str, Any]:
        """What results.json holds under ``details``, for each split: intervals, counts, how labels were normalised.

        Its ``text``, where it has one, stands in the model card too. Plain JSON values.
        """


def make_task(config: FinetuneConfig, train: Corpus) -> LabelledTask:
    """The task that ``config.task`` names; errors as its constructor's."""
    made: LabelledTask = importlib.import_module(f".{config.task}", __name__).Task(config, train)
    return made
