"""The tokens of a vocabulary that mean something by themselves, and vocabularies as ``vocab.json`` stores them."""

from __future__ import annotations

from typing import Any

BLANK = "[PAD]"
"""CTC's blank, token 0 of every vocabulary."""
SPACE = "|"
"""A space, in a vocabulary of characters."""
PIECE_SPACE = "▁"
"""A space, in a sentencepiece vocabulary."""


class MalformedError(ValueError):
    """The file beside the weights is not what the head writes."""


def vocabulary_of(stored: Any) -> list[str]:
    """The tokens of a ``vocab.json``, in the order of their numbers.

    Raises:
        MalformedError: ``stored`` does not map each token to its number.
    """
    numbers: list[Any] = list(stored.values()) if isinstance(stored, dict) else [None]
    if {type(number) for number in numbers} != {int} or sorted(numbers) != list(range(len(numbers))):
        raise MalformedError("not a vocabulary, which maps each token to its number, from 0 on")
    return sorted(stored, key=stored.__getitem__)


def names_of(stored: Any, what: str) -> list[str]:
    """The names in a ``labels.json`` or ``speakers.json``; ``what`` is for the message.

    Raises:
        MalformedError: ``stored`` is not a list of strings.
    """
    if not isinstance(stored, list) or not all(isinstance(name, str) for name in stored):
        raise MalformedError(f"not a list of {what}")
    return stored
