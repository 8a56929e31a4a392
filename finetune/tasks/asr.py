"""Speech recognition with CTC, scored by word and character error rate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from mixvec import CtcRecognizer, Encoder, HybridRecognizer, UserError
from mixvec.atomic import whole_file
from mixvec.data.sources import Corpus
from mixvec.data.utterances import Utterance
from mixvec.model import TaskModel
from mixvec.model.ctc import CtcModel
from mixvec.model.protocol import EncoderOutput
from mixvec.text import PIECE_SPACE, TEXT_STYLES, normalise_text
from mixvec.training.config import check_at_least

from ..batch import LabelledBatch
from ..ctc import loss_sum, skip_too_long
from ..scoring import clusters_of, count_characters, count_words, error_rates, rate_of
from ..sections import TaskConfig
from ..tokenizer import MODEL, Tokenizer, TokenizerKind, build_tokenizer, load_tokenizer
from . import LabelledTask, Scored

SPACED = 0.05
"""Where a smaller share of the training texts has a space, words mean nothing and the character error rate decides."""


@dataclass(frozen=True)
class AsrConfig:
    """Recognition. ``task=slots`` uses the keys of the decoder too."""

    units: TokenizerKind = "characters"
    """Tokens to recognise: characters, or the pieces of a sentencepiece model trained on the training text
    (bpe: arXiv 1508.07909; unigram: arXiv 1804.10959)."""
    vocabulary_size: int = 500
    """Number of tokens for bpe and unigram, the blank included."""
    decoder: Literal["none", "attention"] = "none"
    """attention: a small transformer decoder beside CTC (Watanabe et al. 2017, IEEE JSTSP 11(8))."""
    ctc_weight: float = 0.3
    """Weight λ of CTC in the loss and in the score of the beam search, with the attention decoder."""
    decoder_layers: int = 3
    """Layers of the attention decoder."""
    label_smoothing: float = 0.1
    """Label smoothing of the attention decoder's cross-entropy."""
    beam: int = 4
    """Beam size of the attention decoder; 1 is greedy. CTC alone is decoded greedily; see tools.decode."""

    def __post_init__(self) -> None:
        check_at_least(self, {"vocabulary_size": 3, "decoder_layers": 1, "beam": 1}, "asr.")
        if not 0.0 <= self.ctc_weight <= 1.0:
            raise ValueError(f"asr.ctc_weight={self.ctc_weight} must be in [0, 1]")
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ValueError(f"asr.label_smoothing={self.label_smoothing} must be in [0, 1)")


class Task(LabelledTask):
    """Recognition of text. The vocabulary comes from the training text (``asr.units``)."""

    score_name, higher_is_better = "wer", False
    tie_name: str | None = "cer"
    label_keys: tuple[str, ...] = ("text",)
    tuned_config: str | None = "asr.yaml"
    models: tuple[type[Any], ...] = CtcRecognizer, HybridRecognizer
    """Without and with an attention decoder."""
    vocabulary: list[str]

    def __init__(self, config: TaskConfig, train: Corpus) -> None:
        """
        Raises:
            UserError: the training data has no text, or no tokenizer can be trained on it (``build_tokenizer``).
        """
        self.config, self.asr = config, config.section(AsrConfig)
        train.keep(lambda u: u.text is not None and self.reference(u), "{u.source}: no text")
        if not train.utterances:
            raise UserError(f"data.train={config.data.train}: no text in it; name a manifest, or a folder with "
                            "metadata.jsonl or .csv, or with a .txt beside each file (docs/data.md)")  # fmt: skip
        texts = (self.reference(u) for u in train.utterances)
        self.tokenizer = build_tokenizer(self.asr.units, self.asr.vocabulary_size, texts, config.run.folder)
        self.vocabulary = self.tokenizer.vocabulary
        spaced = sum(" " in self.reference(u) for u in train.utterances)
        self.score_name = config.best_by if spaced >= SPACED * len(train.utterances) else "cer"
        self.tie_name = "cer" if self.score_name == "wer" else "wer"

    def fingerprint(self) -> dict[str, Any]:
        return {"vocabulary": self.vocabulary}

    def adopt(self, model: TaskModel, source: Path) -> str:
        tokenizer = Tokenizer(list(model.stored()))
        if self.asr.units != "characters":
            if not (source / MODEL).is_file():
                return f"{source / MODEL}, which cuts texts into its pieces, is missing"
            tokenizer = load_tokenizer(source, tokenizer.vocabulary)
        if unknown := tokenizer.unknown(token.replace(PIECE_SPACE, "") for token in self.vocabulary[1:]):
            return f"it lacks {', '.join(map(repr, list(unknown)[:8]))}"
        if self.asr.units != "characters":
            with whole_file(self.config.run.folder / MODEL) as new:
                new.write_bytes((source / MODEL).read_bytes())
        self.tokenizer, self.vocabulary = tokenizer, tokenizer.vocabulary
        return ""

    def build(self, encoder: Encoder) -> Any:
        head, asr, (plain, hybrid) = self.config.head, self.asr, self.models
        if asr.decoder == "none":
            return plain(encoder, self.vocabulary, head.layers, head.dropout, head.kind, head.width)
        return hybrid(encoder, self.vocabulary, head.layers, head.dropout, asr.decoder_layers, asr.ctc_weight, asr.beam)

    def reference(self, utterance: Utterance) -> Any:
        return normalise_text(utterance.text or "", self.config.text.normalise)

    def target(self, utterance: Utterance) -> list[int]:
        return self.tokenizer.encode(self.reference(utterance))

    def check(self, corpus: Corpus, frames: Callable[[Utterance], int], key: str, *, training: bool) -> list[str]:
        """Skip utterances without a text and, in training, with more tokens than frames; warn about both.

        Raises:
            UserError: no text has a character of the vocabulary, or every text is longer than its audio.
        """
        corpus.keep(lambda u: u.text is not None and self.reference(u), "{u.source}: no text")
        warnings = []
        unknown = self.tokenizer.unknown(self.reference(u) for u in corpus.utterances)
        if unknown:
            some = ", ".join(f"{c!r} x{n}" for c, n in list(unknown.items())[:8])
            warnings.append(f"WARNING {key}: characters missing from the training text cannot be recognised: {some}")
        if not any(self.target(u) for u in corpus.utterances):
            raise UserError(
                f"{key}: no text in it has a known character; is it in another alphabet, or text.normalise=none needed?"
            )
        if training and (skipped := skip_too_long(corpus, self.target, frames)):
            if not corpus.utterances:
                raise UserError(f"{key}: every text is longer than its audio has frames: do text and audio match?")
            warnings.append(f"WARNING {key}: skipped {skipped} texts with more tokens than their audio has frames; an "
                            "encoder with more frames per second can learn them")  # fmt: skip
        return warnings

    def loss_sum(self, model: CtcModel, encoded: EncoderOutput, batch: LabelledBatch) -> Tensor:
        return loss_sum(model, encoded, batch, self.asr.label_smoothing)

    def predict(self, model: Any, encoded: EncoderOutput) -> list[Any]:
        return model.read(encoded)  # type: ignore[no-any-return]

    def score(self, rows: list[Scored]) -> dict[str, float]:
        """Word and character error rate (errors over the length of all references) and the share of empty outputs."""
        rates = error_rates([row.reference for row in rows], [row.prediction for row in rows])
        return rates | {"empty": sum(not row.prediction for row in rows) / len(rows)}

    def details(self, rows: list[Scored]) -> dict[str, Any]:
        """How the texts were normalised, the intervals of both rates, and the word errors by kind."""
        texts = [row.reference for row in rows], [row.prediction for row in rows]
        clusters = clusters_of([row.utterance.speaker for row in rows])
        words = rate_of(count_words(*texts).counts, clusters)
        letters = rate_of(count_characters(*texts).counts, clusters)
        return {
            "text": TEXT_STYLES[self.config.text.normalise],
            "wer_95": [words.low, words.high], "cer_95": [letters.low, letters.high],
            "resampled": "speakers" if clusters.max() + 1 < len(rows) else "utterances",
            "words": words.length, "substitutions": words.substitutions, "deletions": words.deletions,
            "insertions": words.insertions,
        }  # fmt: skip

    def report(self, rows: list[Scored], scores: dict[str, float]) -> list[str]:
        """Three examples, and a warning where nearly all predictions are empty."""
        lines = []
        for row in rows[:: max(1, len(rows) // 3)][:3]:
            lines += [f"    reference:  {row.reference}", f"    hypothesis: {row.prediction}"]
        if scores["empty"] > 0.9:
            lines.append(
                "WARNING blank-only output: the predictions are empty for most utterances. Usual early in training; "
                "if it persists, raise run.updates or optim.lr, or lower augment.time_prob."
            )
        return lines
