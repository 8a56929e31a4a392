"""Slots and intents: tagged text (``mixvec.tags``) with CTC (arXiv 1805.12045; Audio SNIPS in SUPERB, 2105.01051).

Scored by SLURP's SLU-F1, slot F1, value CER, intent accuracy, exact match, and error rates where there is a text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from torch import Tensor

from mixvec import EncoderConfig, SlotTagger, UserError
from mixvec.output import EncoderOutput
from mixvec.tags import is_tag, read_tags, tagged
from mixvec.text import build_vocabulary
from pretrain.sources import Corpus
from pretrain.utterances import Utterance

from ..annotation import Annotation, annotation_of
from ..batch import LabelledBatch
from ..config import FinetuneConfig
from ..ctc import ctc_loss_sum, frames_needed
from ..slu_score import added, character_distance, count_near, f1_by_type, pairs_of, understanding_scores, word_distance
from . import Scored
from .intent import label_of


class Task:
    """What slot filling adds to the loop. Characters, types of slots and intents are those of the training data."""

    score_name, higher_is_better = "slu_f1", True

    def __init__(self, config: FinetuneConfig, train: Corpus) -> None:
        """
        Raises:
            UserError: the training data has no slots.
        """
        self.config = config
        said = [entry for u in train.utterances for entry in self.entries(u)]
        tags = sorted({entry for entry in said if is_tag(entry)})
        if not any(self.annotation(u).slots for u in train.utterances):
            raise UserError(f"data.train={config.data.train}: no slots in it; rows need a key slots, or entities")
        self.vocabulary = [*build_vocabulary(entry for entry in said if not is_tag(entry)), *tags]
        self._numbers = {entry: i for i, entry in enumerate(self.vocabulary)}

    def _said(self, utterance: Utterance) -> tuple[Annotation | None, str]:
        """What the row says, or None and why."""
        try:
            return annotation_of(utterance, self.config.data.text, self.config.slots.order), ""
        except UserError as error:
            return None, str(error)

    def annotation(self, utterance: Utterance) -> Annotation:
        return self._said(utterance)[0] or Annotation([], [], [])

    def entries(self, utterance: Utterance) -> list[str]:
        """The tagged text that is learned, whichever head says it."""
        intent = label_of(utterance, self.config.data.label) or None
        return tagged(intent, self.annotation(utterance).segments)

    def build(self, encoder: EncoderConfig) -> SlotTagger:
        head = self.config.head
        return SlotTagger(encoder, self.vocabulary, head.layers, head.dropout, head.kind, head.width)

    def reference(self, utterance: Utterance) -> dict[str, Any]:
        """Intent, text (None where the row has none) and slots, as a prediction has them."""
        said, spoken = self.annotation(utterance), utterance.text is not None or "tokens" in utterance.fields
        return {
            "intent": label_of(utterance, self.config.data.label) or None,
            "text": " ".join(text for _, text in said.segments) if spoken else None,
            "slots": [{"type": kind, "value": value} for kind, value in said.slots],
        }

    def target(self, utterance: Utterance) -> list[int]:
        return [self._numbers[entry] for entry in self.entries(utterance) if entry in self._numbers]

    def check(self, corpus: Corpus, frames: Callable[[Utterance], int], key: str, *, training: bool) -> list[str]:
        """Leave out what has no slots that can be read; say what is new, what cannot be learned, what is too long.

        Raises:
            UserError: nothing is left.
        """
        why = [reason for u in corpus.utterances if (reason := self._said(u)[1])]
        found = [f"{len(why)} rows whose slots cannot be read are left out; the first: {why[0]}"] if why else []
        corpus.keep(lambda u: self._said(u)[0], "{u.source}: no slots that can be read")
        lost = Counter(kind for u in corpus.utterances for kind, _ in self.annotation(u).unlearned)
        if lost:
            some = "slots that overlap another, have a gap or are not in the text are scored but not learned"
            found.append(f"{some}: {_listed(lost)}")
        entries = Counter(entry for u in corpus.utterances for entry in self.entries(u))
        if new := Counter({entry: n for entry, n in entries.items() if entry not in self._numbers}):
            found.append(f"what training never saw counts as errors: {_listed(new)}")
        if training:
            before = len(corpus.utterances)
            corpus.keep(lambda u: frames_needed(self.target(u)) <= frames(u), "{u.source}: more entries than frames")
            if left_out := before - len(corpus.utterances):
                found.append(f"{left_out} tagged texts have more entries than their audio has frames and are left out")
        if not any(self.target(u) for u in corpus.utterances):
            raise UserError(
                f"{key}: none of its rows can be used{'; ' + found[-1] if found else ': no slots, no text'}"
            )
        return [f"WARNING {key}: {warning}" for warning in found]

    def loss_sum(self, model: SlotTagger, encoded: EncoderOutput, batch: LabelledBatch) -> Tensor:
        return ctc_loss_sum(model.head(encoded), encoded.lengths, batch)

    def weight(self, batch: LabelledBatch) -> float:
        """What the loss is divided by: characters and tags."""
        return float(batch.target_lengths.sum())

    def predict(self, model: SlotTagger, encoded: EncoderOutput) -> list[dict[str, Any]]:
        return model.decode(model.head(encoded), encoded.lengths)

    def score(self, rows: list[Scored]) -> dict[str, float]:
        return understanding_scores([row.reference for row in rows], _heard(rows))

    def report(self, rows: list[Scored], scores: dict[str, float]) -> list[str]:
        """Three pairs to read, and the types that are worst."""
        pairs = pairs_of([row.reference for row in rows], _heard(rows))
        by_type = f1_by_type(added(count_near(pairs, word_distance), count_near(pairs, character_distance)))
        worst = ", ".join(f"{kind} {score:.2f}" for kind, score in list(by_type.items())[:5])
        shown = [pairs[i] for i in range(0, len(pairs), max(1, len(pairs) // 3))][:3]
        names = ("reference: ", "prediction:")
        lines = [f"    {name} {said}" for pair in shown for name, said in zip(names, pair, strict=True)]
        return [*lines, f"    SLU-F1 of the worst types: {worst}"] if worst else lines


def _heard(rows: list[Scored]) -> list[dict[str, Any]]:
    """The predictions; of audio that could not be decoded nothing was heard."""
    return [row.prediction or read_tags([]) for row in rows]


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{entry!r} x{n}" for entry, n in counts.most_common(8))
