"""The utterances of a corpus as columns: about a hundred bytes each, shared by all worker processes.

A list of objects would take five times as much, and as much again in every worker process that reads it, since reading
an object writes its reference count, and so copies its page.
"""

from __future__ import annotations

import json
import zlib
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, fields
from typing import Any, overload

import numpy as np
from torch import Tensor

from ..audio import read_audio
from .headers import opened
from .readers.rows import SPEAKER_KEYS, Stored


@dataclass(frozen=True)
class Utterance:
    """A segment of audio in a file, a tar or a table, with its labels where known."""

    source: str
    """The name of the file; in a tar ``shard.tar/member``, in a table ``name[row]``."""
    duration_s: float
    start_s: float = 0.0
    text: str | None = None
    label: str | None = None
    fields: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Other columns of its row, where labels were asked for: ``speaker``, ``emotion``, ``slots`` as JSON."""
    stored: Stored | None = field(default=None, repr=False, compare=False)
    """Where the audio is stored, unless ``source`` is its file."""
    corpus_number: int = field(default=0, repr=False, compare=False)
    """Which source of the list it comes from."""

    @property
    def speaker(self) -> str | None:
        """The speaker, from whichever column names one."""
        return next((self.fields[key] for key in SPEAKER_KEYS if self.fields.get(key)), None)

    def read(self, start_s: float = 0.0, duration_s: float | None = None) -> Tensor:
        """The waveform (S,) at 16 kHz, or the segment of it that starts ``start_s`` into the utterance.

        Raises:
            UserError: it cannot be decoded.
        """
        left = self.duration_s - start_s
        wanted = left if duration_s is None else min(duration_s, left)
        with opened(self.source, self.stored) as file:
            return read_audio(file, self.start_s + start_s, wanted)


class _JsonFields(Mapping[str, str]):
    """The fields of an utterance as JSON, parsed once and only where one is looked up."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._parsed: dict[str, str] | None = None

    def _fields(self) -> dict[str, str]:
        if self._parsed is None:
            self._parsed = json.loads(self._text)
        return self._parsed

    def __getitem__(self, key: str) -> str:
        return self._fields()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields())

    def __len__(self) -> int:
        return len(self._fields())

    def __repr__(self) -> str:
        return repr(self._fields())


class _Strings:
    """Strings, or None, end to end in one buffer."""

    def __init__(self) -> None:
        self._bytes, self._ends, self._none = bytearray(), array("q", [0]), bytearray()

    def append(self, text: str | None) -> None:
        self._none.append(text is None)
        if text is not None:
            self._bytes += text.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._bytes))

    def __getitem__(self, number: int) -> str | None:
        if self._none[number]:
            return None
        return self._bytes[self._ends[number] : self._ends[number + 1]].decode("utf-8", "surrogatepass")

    def checksum(self, numbers: Iterable[int], begun: int = 0) -> int:
        """A CRC-32 of these strings in this order, continued from ``begun``; None differs from an empty string."""
        for number in numbers:
            first, end = self._ends[number], self._ends[number + 1]
            begun = zlib.crc32(b"%d %d " % (self._none[number], end - first), begun)
            begun = zlib.crc32(self._bytes[first:end], begun)
        return begun


class _Storage:
    """Where stored audio is: what many utterances share is kept once, and numbers for each.

    Two members of one tar, ``TarMember("a.tar", 512, 90)`` and ``TarMember("a.tar", 1024, 80)``, share
    ``(TarMember, ["a.tar", None, None])``; beside it stand the numbers 512, 90, 1024, 80.
    """

    def __init__(self) -> None:
        self._shared: list[tuple[type[Any], list[Any]]] = []
        self._known: dict[Any, int] = {}
        self._which, self._ends, self._numbers = array("i"), array("q", [0]), array("q")

    def append(self, stored: Any) -> None:
        if stored is None:
            self._which.append(-1)
        else:
            values = [getattr(stored, f.name) for f in fields(stored)]
            shared = [None if type(value) is int else value for value in values]
            key = (type(stored), *(value if isinstance(value, str) else id(value) for value in shared))
            if key not in self._known:
                self._known[key] = len(self._shared)
                self._shared.append((type(stored), shared))  # which keeps the values, and so their ids, alive
            self._which.append(self._known[key])
            self._numbers.extend(value for value in values if type(value) is int)
        self._ends.append(len(self._numbers))

    def __getitem__(self, number: int) -> Any:
        if self._which[number] < 0:
            return None
        kind, shared = self._shared[self._which[number]]
        numbers = iter(self._numbers[self._ends[number] : self._ends[number + 1]])
        return kind(*(next(numbers) if value is None else value for value in shared))


class Utterances(Sequence[Utterance]):
    """A sequence of utterances, each built when it is indexed. Slices and selections share the columns."""

    def __init__(self, utterances: Iterable[Utterance] = ()) -> None:
        self._durations_s: Any = array("d")
        self._starts_s: Any = array("d")
        self._corpus_numbers: Any = array("i")
        self._sources, self._texts, self._labels, self._fields = _Strings(), _Strings(), _Strings(), _Strings()
        self._stored = _Storage()
        self._rows: np.ndarray | None = None  # in a selection: the rows of the shared string columns
        for utterance in utterances:
            self.append(utterance)

    def append(self, utterance: Utterance) -> None:
        if self._rows is not None:
            raise TypeError("a selection of utterances cannot grow")
        self._durations_s.append(utterance.duration_s)
        self._starts_s.append(utterance.start_s)
        self._corpus_numbers.append(utterance.corpus_number)
        self._sources.append(utterance.source)
        self._texts.append(utterance.text)
        self._labels.append(utterance.label)
        self._fields.append(json.dumps(dict(utterance.fields), ensure_ascii=False) if utterance.fields else None)
        self._stored.append(utterance.stored)

    def __len__(self) -> int:
        return len(self._durations_s)

    @overload
    def __getitem__(self, number: int) -> Utterance: ...
    @overload
    def __getitem__(self, number: slice) -> Utterances: ...
    def __getitem__(self, number: int | slice) -> Utterance | Utterances:
        if isinstance(number, slice):
            return self._selected(np.arange(len(self))[number])
        if not -len(self) <= number < len(self):
            raise IndexError(f"utterance {number} of {len(self)}")
        n = number % len(self)
        i = n if self._rows is None else int(self._rows[n])
        return Utterance(
            self._sources[i] or "", float(self._durations_s[n]), float(self._starts_s[n]), self._texts[i],
            self._labels[i], _JsonFields(self._fields[i] or "{}"), self._stored[i], int(self._corpus_numbers[n]),
        )  # fmt: skip

    def __iter__(self) -> Iterator[Utterance]:
        return (self[i] for i in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(Utterance.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]

    @property
    def durations_s(self) -> np.ndarray:
        """Seconds (N,)."""
        return np.array(self._durations_s, dtype=np.float64)

    @property
    def corpus_numbers(self) -> np.ndarray:
        """Which source of the list each utterance comes from (N,)."""
        return np.array(self._corpus_numbers, dtype=np.int64)

    def checksums(self) -> dict[str, int]:
        """CRC-32 in order: ``names`` of the files, ``times`` (start and duration), ``labels`` (with texts, fields)."""
        rows = range(len(self)) if self._rows is None else self._rows.tolist()
        times_ms = np.rint(1000 * np.stack([np.asarray(self._starts_s), self.durations_s])).astype(np.int64)
        labels = 0
        for column in (self._texts, self._labels, self._fields):
            labels = column.checksum(rows, labels)
        return {"names": self._sources.checksum(rows), "times": zlib.crc32(times_ms.tobytes()), "labels": labels}

    def where(self, kept: np.ndarray) -> Utterances:
        """The utterances for which ``kept`` (N,) is true."""
        return self if kept.all() else self._selected(np.flatnonzero(kept))

    def longest(self, share: float) -> Utterances:
        """The longest utterances, in order, that make up ``share`` of the hours: as few as possible, at least one.

        Ties are broken by a fixed random draw, so that no folder is preferred.
        """
        durations_s = self.durations_s
        drawn = np.random.default_rng(0).permutation(len(self))
        order = drawn[np.argsort(-durations_s[drawn], kind="stable")]
        before_s = np.cumsum(durations_s[order]) - durations_s[order]
        kept = np.zeros(len(self), dtype=bool)
        kept[order[before_s < share * durations_s.sum() * (1 - 1e-12)]] = True
        return self.where(kept)

    def segments(self, numbers: np.ndarray, starts_s: np.ndarray, durations_s: np.ndarray) -> Utterances:
        """Segments of utterances: of which one (M,), where in it they start (M,), how long they are (M,).

        Each keeps the text of its whole utterance.
        """
        selection = self._selected(numbers)
        selection._starts_s, selection._durations_s = selection._starts_s + starts_s, durations_s
        return selection

    def _selected(self, numbers: np.ndarray) -> Utterances:
        selection = copy(self)
        selection._rows = numbers if self._rows is None else self._rows[numbers]
        selection._durations_s, selection._starts_s, selection._corpus_numbers = (
            np.asarray(column)[numbers] for column in (self._durations_s, self._starts_s, self._corpus_numbers)
        )
        return selection
