"""Text to characters or other tokens, the same in training, scoring and use."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from .errors import UserError
from .model.vocabulary import BLANK, PIECE_SPACE, SPACE

__all__ = ["BLANK", "PIECE_SPACE", "SPACE", "TEXT_STYLES", "TOKENIZER_MODEL", "TextStyle", "Tokenizer",
           "build_vocabulary", "encode_text", "load_tokenizer", "normalise_text", "tokenizer_file",
           "unknown_characters"]  # fmt: skip

TextStyle = Literal["none", "basic", "turkish"]
TEXT_STYLES: dict[TextStyle, str] = {
    "none": "none: case, punctuation and numbers as they are written",
    "basic": "basic: lower case, no punctuation but for apostrophes inside words and in numbers (5.00, 12:30)",
    "turkish": "turkish: basic, with I and ı apart from İ and i",
}
"""The description of each in model cards and results.json."""
DROPPED = ("Cf", "Cs", "Co", "Cn")
"""Categories of characters that are neither seen nor a break between words, as a soft hyphen is not."""
TOKENIZER_MODEL = "tokenizer.model"
"""The sentencepiece model in the directory of a run whose tokens are pieces."""
JOINERS = "\u200c\u200d"
"""Invisible characters that are part of the spelling of Persian and Indic words."""
INSIDE = re.compile(rf"(?<=\w)['{JOINERS}](?=\w)|(?<=\d)[.,:](?=\d)|(?<=[^\W\d_][\u0300-\uFFFF])[{JOINERS}](?=\w)")


def normalise_text(text: str, style: TextStyle = "basic") -> str:
    """Text as it is learned and scored.

    basic: NFC, lower case (İ as i), punctuation and symbols to spaces but for apostrophes inside words and for points,
    commas and colons inside numbers; invisible characters dropped but for joiners inside words. turkish: the same, with
    I as ı. none: NFC alone. White space is folded in all, and a literal ``|``, a vocabulary's space, is one.
    """
    text = unicodedata.normalize("NFC", text).replace(SPACE, " ")
    if style != "none":
        text = text.replace("I", "ı") if style == "turkish" else text
        text = text.replace("İ", "i").lower().replace("i\u0307", "i").replace("’", "'")
        text = "".join(c for c in text if c in JOINERS or c.isspace() or unicodedata.category(c) not in DROPPED)
        kept = {found.start() for found in INSIDE.finditer(text)}
        spaced = [c if n in kept or unicodedata.category(c)[0] not in "PSCZ" else " " for n, c in enumerate(text)]
        text = re.sub(r" +(?=[\u0300-\u036f])", "", "".join(spaced))  # a mark belongs to the letter before
        text = unicodedata.normalize("NFC", text)
    return " ".join(text.split())


def build_vocabulary(texts: Iterable[str]) -> list[str]:
    """The characters of the texts, sorted, after the blank (token 0) and the space.

    A literal ``|`` in a text is a space.
    """
    characters = {c for text in texts for c in text} - {" ", SPACE}
    return [BLANK, SPACE, *sorted(characters)]


def encode_text(text: str, vocabulary: dict[str, int]) -> list[int]:
    """The token numbers of a text; characters that are not in the vocabulary are left out."""
    return [vocabulary[c] for c in text.replace(" ", SPACE) if c in vocabulary]


def unknown_characters(texts: Iterable[str], vocabulary: Iterable[str]) -> dict[str, int]:
    """Counts of the characters in the texts that are not in the vocabulary, the most frequent first."""
    known = {*vocabulary, " "}
    return dict(Counter(c for text in texts for c in text if c not in known).most_common())


class Tokenizer:
    """Maps a text to token numbers of a vocabulary, by a ``sentencepiece.SentencePieceProcessor`` or by characters."""

    def __init__(self, vocabulary: list[str], processor: Any = None) -> None:
        self.vocabulary, self.processor = vocabulary, processor
        self.numbers = {token: number for number, token in enumerate(vocabulary)}

    def encode(self, text: str) -> list[int]:
        """Token numbers (U,) of a text, without the characters that the vocabulary lacks (see ``unknown``)."""
        if self.processor is None:
            return encode_text(text, self.numbers)
        return [number for number in self.processor.encode(text.replace(SPACE, " ")) if number != 0]

    def unknown(self, texts: Iterable[str]) -> dict[str, int]:
        """How often each character that the vocabulary lacks is in the texts, the most frequent first."""
        letters = self.vocabulary if self.processor is None else {c for token in self.vocabulary[1:] for c in token}
        return unknown_characters(texts, {*letters, SPACE})


def tokenizer_file(folder: Path) -> Path:
    """Where the tokenizer of a run or model folder is; earlier versions wrote none into the model folder of a run."""
    own = folder / TOKENIZER_MODEL
    return folder.parent / TOKENIZER_MODEL if folder.name == "hub" and not own.is_file() else own


def load_tokenizer(folder: Path, vocabulary: list[str] | None = None) -> Tokenizer:
    """The saved tokenizer of a run or model folder.

    Raises:
        UserError: it is missing, damaged, or not that of ``vocabulary``.
    """
    try:
        import sentencepiece
    except ModuleNotFoundError as error:
        raise UserError(f"{folder}: its tokens are pieces and need sentencepiece: pip install sentencepiece") from error
    file = tokenizer_file(folder)
    if not file.is_file():
        raise UserError(f"{file}: missing, and the model cannot be used with another tokenizer; restore the run's own")
    try:
        processor = sentencepiece.SentencePieceProcessor(model_proto=file.read_bytes())
        pieces = [BLANK, *(processor.id_to_piece(number) for number in range(1, processor.get_piece_size()))]
    except RuntimeError as error:
        raise UserError(f"{file}: damaged, or not a sentencepiece model; restore the run's own") from error
    if vocabulary not in (None, pieces):
        raise UserError(f"{file}: not the model's tokenizer ({len(pieces)} tokens, the model has "
                        f"{len(vocabulary or ())}); restore the run's own")  # fmt: skip
    return Tokenizer(pieces, processor)
