"""Tagged text: what is said, with an intent and the stretches in it that fill slots, as one sequence of entries.

    <intent:orderDrink>a|<slot:size>large</slot>|<slot:coffeeDrink>mocha</slot>

Letters are entries of one character; each ``<...>`` is one entry too. An opening entry for each type of slot and one
closing entry, as in end-to-end named entity recognition (arXiv 1805.12045); which head says them is not known here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .vocabulary import SPACE

Segment = tuple[str | None, str]
"""A type of slot, or None between slots; and what is said there."""
INTENT, SLOT, END = "<intent:", "<slot:", ">"
CLOSE = "</slot>"


def tagged(intent: str | None, segments: Iterable[Segment]) -> list[str]:
    """The entries for an intent, where there is one, and the segments, with a space between any two."""
    entries = [] if intent is None else [f"{INTENT}{intent}{END}"]
    for number, (kind, text) in enumerate(segments):
        letters = list(text.replace(" ", SPACE))
        entries += [SPACE] if number else []
        entries += letters if kind is None else [f"{SLOT}{kind}{END}", *letters, CLOSE]
    return entries


def is_tag(entry: str) -> bool:
    return len(entry) > 1 and (entry == CLOSE or entry.startswith((INTENT, SLOT)))


def read_tags(entries: Iterable[str]) -> dict[str, Any]:
    """Entries to ``intent`` (None without), ``text`` and ``slots``, each a ``type`` and a ``value``, in their order.

    Whatever a model may say is read: the first intent counts, a slot ends where the next begins or where all ends, a
    closing entry too many is nothing, and so is a slot without a letter.
    """
    intent: str | None = None
    text = ""
    pieces: list[list[str]] = []  # a type and its letters
    inside = False
    for entry in entries:
        if not is_tag(entry):
            letter = entry.replace(SPACE, " ")
            text += letter
            if inside:
                pieces[-1][1] += letter
        elif entry.startswith(INTENT):
            intent = entry[len(INTENT) : -len(END)] if intent is None else intent
        else:
            inside = entry != CLOSE
            if inside:
                pieces.append([entry[len(SLOT) : -len(END)], ""])
    slots = [{"type": kind, "value": " ".join(value.split())} for kind, value in pieces if value.split()]
    return {"intent": intent, "text": " ".join(text.split()), "slots": slots}
