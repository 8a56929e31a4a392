"""Slot annotations of a row, in any of their forms: the slots to score, and the segments to learn.

- ``entities`` and ``tokens`` (SLURP, Audio SNIPS): each entity has a ``type`` and a ``span``, the indices of its
  tokens. Without ``tokens`` these are the words of the text; with them the text is the tokens joined by spaces.
- ``slots``: an object from types to values, or a list of objects with ``type`` and ``value``. Where the row has a
  text, the values are searched in it, word for word; where it has none, the utterance is the values, in the row's
  order or, where ``slots.order`` names their types, in that one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import groupby
from typing import Any, NamedTuple

from mixvec.data.utterances import Utterance
from mixvec.model.vocabulary import Segment
from mixvec.text import TextStyle, normalise_text

Slot = tuple[str, str]
"""Type, value."""
TYPE_KEYS, VALUE_KEYS = ("type", "name", "slot", "label"), ("value", "filler", "text")


class Annotation(NamedTuple):
    slots: list[Slot]
    """All slots, to score against, including those that no segment holds."""
    segments: list[Segment]
    """The utterance, cut into slots and the text between them."""
    unlearned: list[Slot]
    """Slots that overlap another, have a gap, or are not in the text: no segment can hold them."""
    fault: str = ""
    """Why the row has no annotation that can be read; empty where it has one."""


def annotation_of(utterance: Utterance, style: TextStyle, order: tuple[str, ...] = ()) -> Annotation:
    """The annotation of a row, its texts in ``style``. Each distinct one is parsed once."""
    fields = utterance.fields
    try:
        return _parse(utterance.text, fields.get("tokens"), fields.get("entities"), fields.get("slots"), style, order)
    except ValueError as error:
        return Annotation([], [], [], f"{utterance.source}: {error}")


@lru_cache(maxsize=1 << 15)
def _parse(
    text: str | None, tokens: str | None, entities: str | None, slots: str | None, style: TextStyle,
    order: tuple[str, ...],
) -> Annotation:  # fmt: skip
    if entities is not None and (text is not None or tokens is not None):
        listed = _json(tokens) if tokens is not None else (text or "").split()
        if not isinstance(listed, list):
            raise ValueError("its tokens are not a list")
        words, objects = [normalise_text(str(token), style) for token in listed], _objects(_json(entities))
        spans = [_span(entity, len(words)) for entity in objects]
        kinds = [_named(entity, TYPE_KEYS) for entity in objects]
        return _segmented(words, spans, [(k, _joined(words, span)) for k, span in zip(kinds, spans, strict=True)])
    if not (slots or entities):
        raise ValueError("no slots in it")
    found = [(kind, normalise_text(value, style)) for kind, value in _values(_json(slots or entities or ""))]
    if text is None:
        rank = {kind: number for number, kind in enumerate(order)}
        spoken: list[Segment] = [(kind, value) for kind, value in found if value]
        return Annotation(found, sorted(spoken, key=lambda slot: rank.get(slot[0] or "", len(rank))), [])
    words = normalise_text(text, style).split()
    return _segmented(words, list(_located(words, found)), found)


def _segmented(words: list[str], spans: list[list[int]], slots: list[Slot]) -> Annotation:
    """The words cut where slots begin and end; of overlapping slots the first and longest is kept."""
    owners: list[int | None] = [None] * len(words)  # the number of each word's slot
    lost: list[Slot] = []
    for number in sorted(range(len(spans)), key=lambda i: (spans[i][:1], -len(spans[i]))):
        span = spans[number]
        unbroken = bool(_joined(words, span)) and span == list(range(span[0], span[-1] + 1))
        if unbroken and all(owners[i] is None for i in span):
            owners[span[0] : span[-1] + 1] = [number] * len(span)
        else:
            lost.append(slots[number])
    cut = [(owner, _joined(words, own)) for owner, own in groupby(range(len(words)), owners.__getitem__)]
    return Annotation(slots, [(None if n is None else slots[n][0], text) for n, text in cut if text], lost)


def _joined(words: list[str], span: Iterable[int]) -> str:
    return " ".join(word for word in (words[i] for i in span) if word)


def _located(words: list[str], slots: list[Slot]) -> Iterator[list[int]]:
    """The first free occurrence of each value in the text, as indices of words; none where there is no occurrence."""
    used: set[int] = set()
    for _, value in slots:
        wanted = value.split()
        spans = (list(range(start, start + len(wanted))) for start in range(len(words) - len(wanted) + 1))
        span = next((span for span in spans if [words[i] for i in span] == wanted and not used & set(span)), [])
        used |= set(span)
        yield span


def _span(entity: dict[str, Any], words: int) -> list[int]:
    span = entity.get("span")
    if not (isinstance(span, list) and span and all(type(i) is int and 0 <= i < words for i in span)):
        raise ValueError(f"the span {span!s:.60} of an entity is not in its {words} tokens")
    return span


def _values(slots: Any) -> list[Slot]:
    """``slots`` as an object or a list; one type may have several values."""
    if isinstance(slots, dict) and set(slots) == {"type", "value"} and isinstance(slots["type"], list):
        if not isinstance(slots["value"], list) or len(slots["type"]) != len(slots["value"]):
            raise ValueError("its types and values differ in number")
        slots = [{"type": kind, "value": value} for kind, value in zip(slots["type"], slots["value"], strict=True)]
    if isinstance(slots, list):
        return [(_named(slot, TYPE_KEYS), _named(slot, VALUE_KEYS)) for slot in _objects(slots)]
    if not isinstance(slots, dict):
        raise ValueError("its slots are neither an object nor a list")
    several = ((kind, value if isinstance(value, list) else [value]) for kind, value in slots.items())
    return [(kind, _text(value)) for kind, values in several for value in values if value is not None]


def _named(entity: dict[str, Any], keys: tuple[str, ...]) -> str:
    found = next((entity[key] for key in keys if entity.get(key) is not None), None)
    if found is None:
        raise ValueError(f"a slot without a {keys[0]}: {entity!s:.80}")
    return _text(found)


def _text(value: Any) -> str:
    if isinstance(value, dict | list):
        raise ValueError(f"{value!s:.60} is no text")
    return str(value)


def _objects(values: Any) -> list[dict[str, Any]]:
    if not isinstance(values, list) or not all(isinstance(entity, dict) for entity in values):
        raise ValueError("its entities or slots are not a list of objects")
    return values


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its slots are not JSON ({error})") from error
