"""Speech recognition with CTC, scored by word and character error rate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jiwer
from torch import Tensor

from mixvec import CtcRecognizer, Encoder, HybridRecognizer, UserError
from mixvec.data.sources import Corpus
from mixvec.data.utterances import Utterance
from mixvec.model.output import EncoderOutput
from mixvec.text import TEXT_STYLES, normalise_text

from ..batch import LabelledBatch
from ..config import FinetuneConfig
from ..ctc import frames_needed, loss_sum
from ..scoring import intervals
from ..units import open_units
from . import Scored


class Task:
    """What recognition adds to the loop. The vocabulary comes from the training text (``asr.units``)."""

    higher_is_better = False

    def __init__(self, config: FinetuneConfig, train: Corpus) -> None:
        """
        Raises:
            UserError: the training data has no text, or no units can be had of it (``units.open_units``).
        """
        self.config, self.score_name = config, config.best_by
        train.keep(lambda u: u.text is not None and self.reference(u), "{u.source}: no text")
        if not train.utterances:
            raise UserError(f"data.train={config.data.train}: no text in it; rows need a key such as text")
        texts = (self.reference(u) for u in train.utterances)
        self.units = open_units(config.asr, texts, Path(config.run.dir))

    def build(self, encoder: Encoder) -> CtcRecognizer:
        head, asr, vocabulary = self.config.head, self.config.asr, self.units.vocabulary
        if asr.decoder == "none":
            return CtcRecognizer(encoder, vocabulary, head.layers, head.dropout, head.kind, head.width)
        return HybridRecognizer(
            encoder, vocabulary, head.layers, head.dropout, asr.decoder_layers, asr.ctc_weight, asr.beam
        )

    def reference(self, utterance: Utterance) -> str:
        return normalise_text(utterance.text or "", self.config.data.text)

    def target(self, utterance: Utterance) -> list[int]:
        return self.units.encode(self.reference(utterance))

    def check(self, corpus: Corpus, frames: Any, key: str, *, training: bool) -> list[str]:
        """Leave out what cannot be learned or scored, and say so. ``frames`` maps an utterance to its frames.

        Raises:
            UserError: none of the texts has a character that the vocabulary knows.
        """
        corpus.keep(lambda u: u.text is not None and self.reference(u), "{u.source}: no text")
        found = []
        unknown = self.units.unknown(self.reference(u) for u in corpus.utterances)
        if unknown:
            some = ", ".join(f"{c!r} x{n}" for c, n in list(unknown.items())[:8])
            found.append(f"WARNING {key}: characters that the training text lacks cannot be recognised: {some}")
        if not any(self.target(u) for u in corpus.utterances):
            raise UserError(
                f"{key}: no text in it has a known character; is it in another alphabet, or data.text=raw needed?"
            )
        if training:
            before = len(corpus.utterances)
            corpus.keep(lambda u: frames_needed(self.target(u)) <= frames(u), "{u.source}: more characters than frames")
            if before - len(corpus.utterances):
                found.append(
                    f"WARNING {key}: {before - len(corpus.utterances)} texts have more characters than their "
                    "audio has frames and are left out; an encoder with more frames per second would take them"
                )
            if not corpus.utterances:
                raise UserError(
                    f"{key}: every text is longer than its audio has frames: do the texts belong to the audio?"
                )
        return found

    def loss_sum(self, model: CtcRecognizer, encoded: EncoderOutput, batch: LabelledBatch) -> Tensor:
        return loss_sum(self.config.asr, model, encoded, batch)

    def weight(self, batch: LabelledBatch) -> float:
        """What the loss is divided by: characters."""
        return float(batch.target_lengths.sum())

    def predict(self, model: CtcRecognizer, encoded: EncoderOutput) -> list[str]:
        return model.read(encoded)

    def score(self, rows: list[Scored]) -> dict[str, float]:
        """Word and character error rate, errors over the length of all references; and the share of empty outputs."""
        references, predictions = [row.reference for row in rows], [row.prediction for row in rows]
        return {
            "wer": float(jiwer.wer(references, predictions)),
            "cer": float(jiwer.cer(references, predictions)),
            "empty": sum(not p for p in predictions) / len(predictions),
        }

    def details(self, rows: list[Scored]) -> dict[str, Any]:
        """How the texts were normalised, the intervals of both rates, and the errors by kind."""
        texts = [row.reference for row in rows], [row.prediction for row in rows]
        found = intervals(*texts, [row.utterance.speaker for row in rows])
        return {"text": TEXT_STYLES[self.config.data.text], **found}

    def report(self, rows: list[Scored], scores: dict[str, float]) -> list[str]:
        """Three pairs to read, and a warning where nothing is said."""
        lines = []
        for row in rows[:: max(1, len(rows) // 3)][:3]:
            lines += [f"    reference:  {row.reference}", f"    hypothesis: {row.prediction}"]
        if scores["empty"] > 0.9:
            lines.append(
                "WARNING blank-only output: the model says nothing for most utterances. Usual early on; "
                "if it stays, raise run.updates or optim.lr, or lower augment.time_prob."
            )
        return lines
