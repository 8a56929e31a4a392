"""What a reader is, and what it yields.

A reader raises ``UserError`` for a fault of the whole source, and yields a ``Fault`` for that of one utterance.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, Literal, NamedTuple, Protocol

from ...audio import AudioHeader
from ...errors import UserError
from ...walk import Fault as Fault
from .remote import AnyPath

AUDIO_KEYS = ("file_name", "audio_filepath", "audio", "path", "file", "wav")
TEXT_KEYS = ("text", "transcription", "transcript", "sentence", "normalized_text", "wrd", "words")
LABEL_KEYS = ("intent", "label", "keyword", "command")
SPEAKER_KEYS = ("speaker", "speaker_id", "speakerId", "spk_id", "spk", "client_id", "usrid")
NESTED_KEYS = ("slots", "entities", "tokens")
LONGEST_FIELD = 1000
WHOLE_NUMBER = re.compile(r"-?\d+\.0")
INVISIBLE = "\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff "
"""What may be around a label and is not seen: marks of spreadsheets and of copied web pages, and the space."""
SPLIT_NAME = re.compile(r"(train|dev|valid|test)(?=$|[^a-z]|ation)")


class Holder(Protocol):
    """What holds audio: a tar, a table, a remote file. It has names and numbers only, as it is sent to workers."""

    @property
    def path(self) -> str | None:
        """The file or URL; None where it is in memory."""

    def open(self, place: int, size: int) -> BinaryIO: ...


class Stored(NamedTuple):
    """Audio inside something larger: ``place`` is a number that no other audio of the holder has, -1 for all of it."""

    holder: Holder
    place: int = -1
    size: int = -1

    def open(self) -> BinaryIO:
        return self.holder.open(self.place, self.size)


@dataclass(frozen=True)
class Row:
    """One utterance as its source states it, before its audio has been looked at."""

    source: str
    """The audio file; for audio inside something larger its name: ``shard.tar/a.flac``, ``table[3]``."""
    where: str = ""
    """The manifest's line, or what else names the row in a message."""
    start_s: float = 0.0
    duration_s: float | None = None
    """None: to the end of the file."""
    span_samples: tuple[int, int | None] | None = None
    """Start and stop in samples of the file itself, in place of the two above."""
    text: str | None = None
    label: str | None = None
    fields: dict[str, Any] | None = None
    """All columns of the row, for labelled tasks: speaker, slots, another label."""
    stored: Stored | None = None
    look: Callable[[], AudioHeader] | None = None
    """A faster way to its header than to open ``stored``."""

    def labelled(self) -> Row:
        """The row with text and label from the first of its fields that has one."""
        try:
            text, label = labels_of(self.fields or {})
        except ValueError as error:
            raise UserError(f"{self.where or self.source}: {error}") from error
        return replace(self, text=text, label=label)


Rows = Iterator[Row | Fault]


class Shard(NamedTuple):
    """A part of a source that can be read alone."""

    name: str
    rows: Rows


class Wanted(NamedTuple):
    """What is wanted of a source: ``key`` names it in messages. With ``labels``, texts or labels are needed. With
    ``stream``, rows of Parquet and of the hub hold the bytes of their audio, as each is read once."""

    key: str
    labels: bool
    stream: bool = False


class Reader(NamedTuple):
    """A form of data: ``forms.READERS`` lists all of them, in the order in which they are tried."""

    name: str
    form: str
    """What a source of this form is, in Markdown, for the table in the documentation."""
    kind: Literal["file", "folder", "name"]  # a name: of a data set on the hub
    matches: Callable[[AnyPath, bool], bool]
    """Whether a path of that kind has this form, given the path and whether labels are needed."""
    rows: Callable[[AnyPath, Wanted], Rows | list[Shard]]
    """Its rows; as shards where it consists of several."""
    splits: tuple[str, ...] = ()
    """For the hint where a folder has several splits: globs of the files, or of something in each folder."""


def named(*suffixes: str) -> Callable[[AnyPath, bool], bool]:
    """``matches`` for these suffixes."""
    return lambda path, labels: path.name.lower().endswith(suffixes)


def labels_of(row: dict[str, Any]) -> tuple[str | None, str | None]:
    """Text and label of a row, from the first key that has one. Raises ``ValueError`` where the value is a list or an
    object, which is no text."""
    text = next((value for k in TEXT_KEYS if (value := cell(row, k)) is not None), None)
    return text, next((value for k in LABEL_KEYS if (value := label_cell(row, k)) is not None), None)


def cell(row: dict[str, Any], key: str) -> str | None:
    """A value as text, a whole number without ``.0``; None for nothing: null, NaN and an empty cell."""
    value = row.get(key)
    if isinstance(value, list) and value and all(isinstance(word, str) for word in value):
        value = " ".join(value)
    if isinstance(value, list | dict):
        raise ValueError(f"{key}={value!r:.60} is no text")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return None if value is None or str(value).strip() in ("", "nan", "NaN") else str(value)


def label_cell(row: dict[str, Any], key: str) -> str | None:
    """A label: the same however a table has written it, with spaces around it, composed or not, ``1`` or ``1.0``."""
    value = cell(row, key)
    if value is None:
        return None
    value = " ".join(unicodedata.normalize("NFC", value).split()).strip(INVISIBLE)
    return value.removesuffix(".0") if WHOLE_NUMBER.fullmatch(value) else value or None


def fields_of(row: dict[str, Any] | None) -> dict[str, str]:
    """The columns of a row for labelled tasks, without its text: plain values as text; slots, entities and the tokens
    that they count as JSON."""
    kept = {}
    for key, value in (row or {}).items():
        if key in NESTED_KEYS and isinstance(value, list | dict):
            kept[str(key)] = json.dumps(value, ensure_ascii=False, default=str)
        if isinstance(value, str | int | float) and key not in TEXT_KEYS:
            text = label_cell({"": value}, "")
            if text is not None and len(text) <= LONGEST_FIELD:
                kept[str(key)] = text
    return kept


def number_of(value: Any, name: str, where: str, unit: str = "seconds") -> float | None:
    """``value`` as a finite number of at least 0; None where there is none."""
    if value is None or value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number < math.inf:
        raise UserError(f"{where}: {name}={value!r:.100} is not a number of {unit}")
    return number


def span_of(start: Any, stop: Any, where: str) -> tuple[float, float]:
    """Start and duration of a segment from ``start`` to ``stop``, in their own unit."""
    first, last = number_of(start, "start", where), number_of(stop, "end", where)
    if first is None or last is None or last <= first:
        raise UserError(f"{where}: a segment from {start!s:.100} to {stop!s:.100} has no length")
    return first, last - first
