"""The tokens that mean something by themselves, vocabularies and names as they are stored, and tagged text.

Tagged text is a transcript with its intent and its slots, as one sequence of tokens:

    <intent:orderDrink>a|<slot:size>large</slot>|<slot:coffeeDrink>mocha</slot>

Letters are tokens of one character; each ``<...>`` is one token too. There is an opening token for each type of slot
and one closing token, as in end-to-end named entity recognition (arXiv 1805.12045).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

BLANK = "[PAD]"
"""CTC's blank, token 0 of every vocabulary."""
SPACE = "|"
"""A space, in a vocabulary of characters."""
PIECE_SPACE = "▁"
"""A space, in a sentencepiece vocabulary."""
INTENT, SLOT, END = "<intent:", "<slot:", ">"
CLOSE = "</slot>"
Segment = tuple[str | None, str]
"""A type of slot, or None between slots; and the text there."""


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


def tagged(intent: str | None, segments: Iterable[Segment]) -> list[str]:
    """The tokens for an intent, where there is one, and the segments, with a space between any two."""
    tokens = [] if intent is None else [f"{INTENT}{intent}{END}"]
    for number, (kind, text) in enumerate(segments):
        letters = list(text.replace(" ", SPACE))
        tokens += [SPACE] if number else []
        tokens += letters if kind is None else [f"{SLOT}{kind}{END}", *letters, CLOSE]
    return tokens


def is_tag(token: str) -> bool:
    return len(token) > 1 and (token == CLOSE or token.startswith((INTENT, SLOT)))


def read_tags(tokens: Iterable[str]) -> dict[str, Any]:
    """Tokens to ``intent`` (None without), ``text`` and ``slots``, each a ``type`` and a ``value``, in their order.

    Any output of a model is accepted: the first intent counts, a slot ends where the next one or the text's end comes,
    and a superfluous closing token and a slot without a letter are ignored.
    """
    intent: str | None = None
    text, inside = "", False
    found: list[list[str]] = []  # a type and its letters
    for token in tokens:
        if not is_tag(token):
            letter = token.replace(SPACE, " ")
            text += letter
            if inside:
                found[-1][1] += letter
        elif token.startswith(INTENT):
            intent = token[len(INTENT) : -len(END)] if intent is None else intent
        else:
            inside = token != CLOSE
            if inside:
                found.append([token[len(SLOT) : -len(END)], ""])
    slots = [{"type": kind, "value": " ".join(value.split())} for kind, value in found if value.split()]
    return {"intent": intent, "text": " ".join(text.split()), "slots": slots}
