"""What a recogniser's vocabulary is made of: characters, or the pieces of a sentencepiece model.

A run with pieces keeps ``tokenizer.model`` and its ``vocab.json`` in its directory. Entry 0 of either kind is CTC's
blank, which is sentencepiece's own number for what it does not know. A published model needs no sentencepiece to
decode: its entries joined, with ▁ read as a space, are the text.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mixvec import UserError
from mixvec.atomic import whole_file, write_whole
from mixvec.text import BLANK, SPACE, build_vocabulary, encode_text, unknown_characters
from mixvec.training.checkpoint import listed

from .asr_config import AsrConfig

TOKENIZER, VOCABULARY = "tokenizer.model", "vocab.json"


@dataclass(frozen=True)
class Units:
    """A vocabulary and how a text becomes numbers of it."""

    vocabulary: list[str]
    processor: Any = None
    """A ``sentencepiece.SentencePieceProcessor``; None: characters."""
    numbers: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "numbers", {entry: i for i, entry in enumerate(self.vocabulary)})

    def encode(self, text: str) -> list[int]:
        """The numbers (U,) of a text; what the vocabulary cannot spell is left out (``unknown`` names it)."""
        if self.processor is None:
            return encode_text(text, self.numbers)
        return [number for number in self.processor.encode(text.replace(SPACE, " ")) if number != 0]

    def unknown(self, texts: Iterable[str]) -> dict[str, int]:
        """How often each character that cannot be spelled stands in the texts, the commonest first."""
        letters = self.vocabulary if self.processor is None else {c for entry in self.vocabulary[1:] for c in entry}
        return unknown_characters(texts, {*letters, SPACE})


def open_units(config: AsrConfig, texts: Iterable[str], folder: Path) -> Units:
    """The units of a run in ``folder``: made of its training texts when it begins, the saved ones when it goes on.

    Raises:
        UserError: the texts are too few for ``asr.vocabulary_size``, or the saved tokenizer does not fit.
    """
    if config.units == "characters":
        return Units(build_vocabulary(texts))
    if listed(folder / "checkpoints"):
        return load_units(folder)
    model = train_tokenizer(config, texts)
    units = _of_model(model, TOKENIZER)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / VOCABULARY, json.dumps(units.numbers, indent=2, ensure_ascii=False) + "\n")
    with whole_file(folder / TOKENIZER) as new:  # last: where it is, all is; other ranks write the same
        new.write_bytes(model)
    return units


def load_units(folder: Path, vocabulary: list[str] | None = None) -> Units:
    """The saved units of a run, which must be those of ``vocabulary`` (None: of its vocab.json).

    Raises:
        UserError: they are missing, damaged, or other ones.
    """
    file, stated = folder / TOKENIZER, folder / VOCABULARY
    if not file.is_file():
        raise UserError(f"{file}: missing, and the checkpoint can be used with no other tokenizer; put it back")
    units = _of_model(file.read_bytes(), str(file))
    if vocabulary is None:
        try:
            vocabulary = list(json.loads(stated.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise UserError(f"{stated}: not readable ({error}); put back the one that the run wrote") from error
    if units.vocabulary != vocabulary:
        count = f"{len(units.vocabulary)} pieces, not {len(vocabulary)}"
        if len(units.vocabulary) == len(vocabulary):
            own, wanted = next((a, b) for a, b in zip(units.vocabulary, vocabulary, strict=True) if a != b)
            count = f"{own!r} stands where {wanted!r} should"
        raise UserError(f"{file}: a tokenizer that does not fit the checkpoint ({count}); put back the run's own")
    return units


def train_tokenizer(config: AsrConfig, texts: Iterable[str]) -> bytes:
    """A sentencepiece model of the texts; the same bytes for the same texts.

    Raises:
        UserError: ``asr.vocabulary_size`` is smaller than the alphabet, or larger than the texts can fill.
    """
    import sentencepiece

    written = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([text.replace(SPACE, " ") for text in texts]), model_writer=written,
            model_type=config.units, vocab_size=config.vocabulary_size, character_coverage=1.0,
            normalization_rule_name="identity", unk_id=0, bos_id=-1, eos_id=-1, pad_id=-1, num_threads=1,
            max_sentence_length=1 << 20, minloglevel=2,
        )  # fmt: skip
    except RuntimeError as error:
        said = " ".join(str(error).split())
        small, large = re.search(r"required_chars.*? vs (\d+)", said), re.search(r"<= (\d+)", said.split("]", 1)[-1])
        bound = f"at least {small[1]}" if small else f"at most {large[1]}" if large else ""
        remedy = f"set it to {bound} for this training text" if bound else f"sentencepiece says: {said}"
        raise UserError(
            f"asr.vocabulary_size={config.vocabulary_size} with asr.units={config.units}: {remedy}"
        ) from error
    return written.getvalue()


def _of_model(model: bytes, name: str) -> Units:
    import sentencepiece

    try:
        processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        pieces = [processor.id_to_piece(number) for number in range(1, processor.get_piece_size())]
    except RuntimeError as error:
        raise UserError(f"{name}: damaged, or no sentencepiece model; put back the run's own") from error
    return Units([BLANK, *pieces], processor)
