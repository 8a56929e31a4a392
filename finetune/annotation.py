"""What the rows of a corpus say about slots, in any of their forms: the slots to score, the segments to learn.

- ``entities`` and ``tokens`` (SLURP, Audio SNIPS): each entity a ``type`` and a ``span``, the numbers of its tokens.
  Without ``tokens`` these are the words of the text. The text is the tokens with spaces between them then.
- ``slots``: an object from types to values, or a list of objects with ``type`` and ``value``. Where there is a text the
  values are looked for in it, word for word; where there is none, what is said is the values, in the row's order or,
  where ``slots.order`` names their types, in that one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mixvec import UserError
from mixvec.data.utterances import Utterance
from mixvec.model.tags import Segment
from mixvec.text import TextStyle, normalise_text

if TYPE_CHECKING:
    from .slu_score import Slot

TYPE_KEYS, VALUE_KEYS = ("type", "name", "slot", "label"), ("value", "filler", "text")
Span = tuple[str, list[int]]
"""A type, and the numbers of its words."""


@dataclass(frozen=True)
class SlotConfig:
    order: tuple[str, ...] = ()
    """Types of slots in the usual order of speech, for rows without a text: CTC learns what is said in its order."""


@dataclass(frozen=True)
class Annotation:
    slots: list[Slot]
    """All of them, to score against, also those that no segment holds."""
    segments: list[Segment]
    """What is said, slot by slot and between them."""
    unlearned: list[Slot]
    """Slots that share words with another, have a gap, or are not in the text: no segment can hold them."""


def annotation_of(utterance: Utterance, style: TextStyle, order: tuple[str, ...] = ()) -> Annotation | None:
    """What the row says, its texts in ``style``; None where it says nothing of slots.

    Raises:
        UserError: what it says is in none of the forms, or a span lies outside the text.
    """
    fields = utterance.fields
    if "entities" in fields and (utterance.text is not None or "tokens" in fields):
        tokens = _json(fields["tokens"], utterance) if "tokens" in fields else (utterance.text or "").split()
        if not isinstance(tokens, list):
            raise UserError(f"{utterance.source}: its tokens are no list")
        words = [normalise_text(str(token), style) for token in tokens]
        spans = [_span(entity, len(words), utterance) for entity in _objects(fields["entities"], utterance)]
        return _segmented(words, spans, [(kind, _joined(words, span)) for kind, span in spans])
    if not (fields.get("slots") or fields.get("entities")):
        return None
    slots = [(kind, normalise_text(value, style)) for kind, value in _values(fields, utterance)]
    if utterance.text is None:
        rank = {kind: number for number, kind in enumerate(order)}
        said = sorted(slots, key=lambda slot: rank.get(slot[0], len(rank)))
        return Annotation(slots, [(kind, value) for kind, value in said if value], [])
    words = normalise_text(utterance.text, style).split()
    return _segmented(words, list(_found(words, slots)), slots)


def _segmented(words: list[str], spans: list[Span], slots: list[Slot]) -> Annotation:
    """The words cut where slots begin and end; of slots that share words the first and longest is kept."""
    kept: list[Span] = []
    lost = []
    order = sorted(range(len(spans)), key=lambda i: (spans[i][1][:1], -len(spans[i][1])))
    for number in order:
        kind, span = spans[number]
        free = not kept or (span and span[0] > kept[-1][1][-1])
        if span and free and span == list(range(span[0], span[-1] + 1)) and _joined(words, span):
            kept.append((kind, span))
        else:
            lost.append(slots[number])
    segments: list[Segment] = []
    at = 0
    for kind, span in [*kept, (None, [len(words)])]:
        between = _joined(words, list(range(at, span[0])))
        segments += [(None, between)] if between else []
        segments += [(kind, _joined(words, span))] if kind is not None else []
        at = span[-1] + 1
    return Annotation(slots, segments, lost)


def _joined(words: list[str], span: list[int]) -> str:
    return " ".join(word for word in (words[i] for i in span) if word)


def _found(words: list[str], slots: list[Slot]) -> Iterator[Span]:
    """Where the values stand in the text, each at the first place that is free; no numbers where it does not."""
    used: set[int] = set()
    for kind, value in slots:
        wanted = value.split()
        starts = (i for i in range(len(words) - len(wanted) + 1) if words[i : i + len(wanted)] == wanted)
        spans = (list(range(start, start + len(wanted))) for start in starts)
        span = next((span for span in spans if span and not used & set(span)), [])
        used |= set(span)
        yield kind, span


def _span(entity: dict[str, Any], words: int, utterance: Utterance) -> Span:
    span = entity.get("span")
    good = isinstance(span, list) and bool(span) and all(type(i) is int and 0 <= i < words for i in span)
    if not good:
        raise UserError(f"{utterance.source}: the span {span!s:.60} of an entity is not in its {words} tokens")
    return _named(entity, TYPE_KEYS, utterance), span  # type: ignore[return-value]


def _values(fields: dict[str, str], utterance: Utterance) -> Iterator[Slot]:
    """``slots`` as an object or a list; one type may have several values."""
    said = _json(fields.get("slots") or fields["entities"], utterance)
    if isinstance(said, dict) and set(said) == {"type", "value"} and isinstance(said["type"], list):
        if not isinstance(said["value"], list) or len(said["type"]) != len(said["value"]):
            raise UserError(f"{utterance.source}: its types and values are not as many")
        said = [{"type": kind, "value": value} for kind, value in zip(said["type"], said["value"], strict=True)]
    if isinstance(said, list):
        for slot in _checked(said, utterance):
            yield _named(slot, TYPE_KEYS, utterance), _named(slot, VALUE_KEYS, utterance)
        return
    if not isinstance(said, dict):
        raise UserError(f"{utterance.source}: its slots are neither an object nor a list")
    for kind, value in said.items():
        for one in value if isinstance(value, list) else [value]:
            if one is not None:
                yield kind, str(one)


def _named(entity: dict[str, Any], keys: tuple[str, ...], utterance: Utterance) -> str:
    found = next((entity[key] for key in keys if entity.get(key) is not None), None)
    if found is None:
        raise UserError(f"{utterance.source}: a slot without a {keys[0]}: {entity!s:.80}")
    return str(found)


def _objects(text: str, utterance: Utterance) -> list[dict[str, Any]]:
    return _checked(_json(text, utterance), utterance)


def _checked(said: Any, utterance: Utterance) -> list[dict[str, Any]]:
    if not isinstance(said, list) or not all(isinstance(entity, dict) for entity in said):
        raise UserError(f"{utterance.source}: its entities or slots are no list of objects")
    return said


def _json(text: str, utterance: Utterance) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{utterance.source}: its slots are not JSON ({error})") from error
