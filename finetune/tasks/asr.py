"""Speech recognition with CTC, scored by word and character error rate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from mixvec import CtcRecognizer, Encoder, HybridRecognizer, UserError
from mixvec.atomic import whole_file
from mixvec.data.sources import Corpus
from mixvec.data.utterances import Utterance
from mixvec.model import TaskModel
from mixvec.model.ctc import CtcModel
from mixvec.model.decoder import HybridModel
from mixvec.model.padding import padding_mask
from mixvec.model.protocol import EncoderOutput
from mixvec.text import (
    PIECE_SPACE,
    TEXT_STYLES,
    TOKENIZER_MODEL,
    Tokenizer,
    load_tokenizer,
    normalise_text,
    tokenizer_file,
)
from mixvec.training.config import check_ranges

from ..batch import LabelledBatch
from ..scoring import clusters_of, count_characters, count_words, error_rates, rate_of
from ..sections import TaskConfig
from ..tokenizer import TokenizerKind, build_tokenizer
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
        ranges = {"vocabulary_size": "[3, inf)", "decoder_layers": "[1, inf)", "beam": "[1, inf)"}
        check_ranges(self, ranges | {"ctc_weight": "[0, 1]", "label_smoothing": "[0, 1)"}, "asr.")


class CtcTask(LabelledTask):
    """What recognition and slot filling share: sequences of tokens, learned with CTC, with or without a decoder."""

    outputs = "vocabulary"
    config: TaskConfig
    asr: AsrConfig

    def build(self, encoder: Encoder) -> Any:
        head, asr, (plain, hybrid) = self.config.head, self.asr, self.models
        if asr.decoder == "none":
            return plain(encoder, self.labels, head.layers, head.dropout, head.kind, head.width)
        return hybrid(encoder, self.labels, head.layers, head.dropout, asr.decoder_layers, asr.ctc_weight, asr.beam)

    def check(self, corpus: Corpus, frames: Callable[[Utterance], int], key: str, *, training: bool) -> list[str]:
        """Skip in training what has more tokens than its audio has frames, too; UserError where these are all."""
        found, before = super().check(corpus, frames, key, training=training), len(corpus.utterances)
        if training:
            corpus.keep(lambda u: frames_needed(self.target(u)) <= frames(u), "{u.source}: more tokens than frames")
        if skipped := before - len(corpus.utterances):
            found.append(f"skipped {skipped} texts with more tokens than their audio has frames; an encoder with more "
                         "frames per second can learn them, where text and audio match")  # fmt: skip
        if before and not corpus.utterances:
            raise UserError(f"{key}: {found[-1]}")
        return found

    def loss_sum(self, model: CtcModel, encoded: EncoderOutput, batch: LabelledBatch) -> Tensor:
        """CTC in nats () summed over utterances, 0 for one with too few frames; with an attention decoder λ CTC +
        (1 − λ) cross-entropy, summed over each text's tokens and its end."""
        count = len(batch.numbers)
        ctc = torch.nn.functional.ctc_loss(
            model.head(encoded).transpose(0, 1), batch.targets, encoded.lengths, batch.target_lengths,
            reduction="none", zero_infinity=True,
        )[:count].sum()  # fmt: skip
        if not isinstance(model, HybridModel):
            return ctc
        logits = model.attend(encoded, batch.targets)[:count]  # (B, U + 1, V)
        wanted = torch.nn.functional.pad(batch.targets, (0, 1))[:count]  # padding is 0, which is the end as well
        losses = torch.nn.functional.cross_entropy(
            logits.transpose(1, 2), wanted, reduction="none", label_smoothing=self.asr.label_smoothing
        )
        attention = (losses * padding_mask(batch.target_lengths[:count] + 1, wanted.shape[1])).sum()
        return model.ctc_weight * ctc + (1.0 - model.ctc_weight) * attention

    def predict(self, model: Any, encoded: EncoderOutput) -> list[Any]:
        return model.read(encoded)  # type: ignore[no-any-return]


class Task(CtcTask):
    """Recognition of text. The vocabulary comes from the training text (``asr.units``)."""

    score_name, higher_is_better, what = "wer", False, "text"
    hint = "; is it in another alphabet, or text.normalise=none needed?"
    tie_name = "cer"
    label_keys = ("text",)
    tuned_config = "asr.yaml"
    models = CtcRecognizer, HybridRecognizer

    def __init__(self, config: TaskConfig, train: Corpus) -> None:
        """Raises UserError where the training data has no text, or no tokenizer can be trained on it."""
        self.config, self.asr = config, config.section(AsrConfig)
        texts = [text for u in train.utterances if (text := self.reference(u))]
        if not texts:
            raise UserError(f"data.train={config.data.train}: no text in it; name a manifest, or a folder with "
                            "metadata.jsonl or .csv, or with a .txt beside each file (docs/data.md)")  # fmt: skip
        self.tokenizer = build_tokenizer(self.asr.units, self.asr.vocabulary_size, texts, config.run.folder)
        self.take(self.tokenizer.vocabulary)
        spaced = sum(" " in text for text in texts) >= SPACED * len(texts)
        self.score_name = config.best_by if spaced else "cer"
        self.tie_name = "cer" if self.score_name == "wer" else "wer"

    def adopt(self, model: TaskModel, source: Path) -> str:
        tokenizer, pieces = Tokenizer(list(model.stored())), self.asr.units != "characters"
        if pieces and not (file := tokenizer_file(source)).is_file():
            return f"{file}, which cuts texts into its pieces, is missing"
        tokenizer = load_tokenizer(source, tokenizer.vocabulary) if pieces else tokenizer
        if unknown := tokenizer.unknown(token.replace(PIECE_SPACE, "") for token in self.labels[1:]):
            return f"it lacks {', '.join(map(repr, list(unknown)[:8]))}"
        if pieces:
            with whole_file(self.config.run.folder / TOKENIZER_MODEL) as new:
                new.write_bytes(file.read_bytes())
        self.tokenizer = tokenizer
        self.take(tokenizer.vocabulary)
        return ""

    def reference(self, utterance: Utterance) -> Any:
        return normalise_text(utterance.text or "", self.config.text.normalise)

    def target(self, utterance: Utterance) -> list[int]:
        return self.tokenizer.encode(self.reference(utterance))

    def unknown(self, corpus: Corpus) -> Mapping[str, int]:
        return self.tokenizer.unknown(self.reference(u) for u in corpus.utterances)

    def score(self, rows: list[Scored]) -> dict[str, float]:
        """Word and character error rate (errors over the length of all references) and the share of empty outputs."""
        rates = error_rates([row.reference for row in rows], [row.prediction for row in rows])
        return rates | {"empty": sum(not row.prediction for row in rows) / len(rows)}

    def details(self, rows: list[Scored]) -> dict[str, Any]:
        """How the texts were normalised, the intervals of both rates, and the word errors by kind."""
        texts = [row.reference for row in rows], [row.prediction for row in rows]
        clusters = clusters_of([row.utterance.speaker for row in rows])
        words, letters = (rate_of(count(*texts).counts, clusters) for count in (count_words, count_characters))
        return {
            "text": TEXT_STYLES[self.config.text.normalise],
            "wer_95": [words.low, words.high], "cer_95": [letters.low, letters.high],
            "resampled": "speakers" if clusters.max() + 1 < len(rows) else "utterances",
            "words": words.length, "substitutions": words.substitutions, "deletions": words.deletions,
            "insertions": words.insertions,
        }  # fmt: skip

    def report(self, rows: list[Scored], scores: dict[str, float]) -> list[str]:
        """Three examples, and a warning where nearly all predictions are empty."""
        lines = examples([(row.reference, row.prediction) for row in rows])
        if scores["empty"] > 0.9:
            lines.append("WARNING blank-only output: most predictions are empty. Usual early in training; if it "
                         "persists, raise run.updates or optim.lr, or lower augment.time_prob.")  # fmt: skip
        return lines


def frames_needed(target: list[int]) -> int:
    """The fewest frames on which CTC can emit ``target``: one per token, and a blank between two equal ones."""
    return len(target) + sum(a == b for a, b in pairwise(target))


def examples(pairs: list[tuple[Any, Any]]) -> list[str]:
    """Lines with three references and what was predicted for them."""
    shown = pairs[:: max(1, len(pairs) // 3)][:3]
    return [line for wanted, given in shown for line in (f"    reference:  {wanted}", f"    hypothesis: {given}")]
