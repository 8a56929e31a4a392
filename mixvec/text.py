"""Text to characters and back, the same in training, scoring and use."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Literal

from .model.vocabulary import BLANK, PIECE_SPACE, SPACE

__all__ = [
    "BLANK",
    "PIECE_SPACE",
    "SPACE",
    "TEXT_STYLES",
    "TextStyle",
    "build_vocabulary",
    "encode_text",
    "normalise_text",
    "unknown_characters",
]

TextStyle = Literal["plain", "raw"]
TEXT_STYLES: dict[TextStyle, str] = {
    "plain": "plain: lower case, no punctuation but for apostrophes inside words, numbers as they are written",
    "raw": "raw: case, punctuation and numbers as they are written",
}
"""The description of each in model cards and results.json."""


def normalise_text(text: str, style: TextStyle = "plain") -> str:
    """Text as it is learned and scored.

    plain: NFC, lower case, punctuation dropped but for apostrophes inside words, dashes to spaces. raw: NFC alone.
    White space is folded in both.
    """
    text = unicodedata.normalize("NFC", text)
    if style == "plain":
        text = "".join(" " if unicodedata.category(c) == "Pd" else c for c in text.lower().replace("’", "'"))
        kept = [c for c in text if c == "'" or unicodedata.category(c)[0] not in "PSC" or c.isspace()]
        text = " ".join(word.strip("'") for word in "".join(kept).split())
        text = unicodedata.normalize("NFC", text)  # a mark may now follow the letter that it belongs to
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
    known = set(vocabulary) | {" "}
    counts: dict[str, int] = {}
    for text in texts:
        for c in text:
            if c not in known:
                counts[c] = counts.get(c, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))
