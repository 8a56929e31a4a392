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
from dataclasses import dataclass, field, replace
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from ..audio import read_audio
from .headers import opened
from .readers.rows import SPEAKER_KEYS, Stored

SHORTEST_PART_S = 1e-3
"""Less of a joined utterance, which rounding leaves at the ends of a segment, is not read."""


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
    followed_by: tuple[Utterance, ...] = field(default=(), repr=False)
    """The utterances joined to it (``data.join_s``); ``duration_s`` and ``text`` are those of all."""
    channel: str = field(default="mean", repr=False, compare=False)
    """Which channel ``read`` takes (``mixvec.audio.read_audio``)."""

    @property
    def speaker(self) -> str | None:
        """The speaker, from whichever column names one."""
        return next((self.fields[key] for key in SPEAKER_KEYS if self.fields.get(key)), None)

    def read(self, start_s: float = 0.0, duration_s: float | None = None) -> Tensor:
        """The waveform (S,) at 16 kHz, or the segment of it that starts ``start_s`` into the utterance. Raises
        ``UserError`` where it cannot be decoded."""
        left = self.duration_s - start_s
        wanted = left if duration_s is None else min(duration_s, left)
        if self.followed_by:
            return torch.cat([part.read(first_s, part_s) for part, first_s, part_s in self._parts(start_s, wanted)])
        with opened(self.source, self.stored) as file:
            return read_audio(file, self.start_s + start_s, wanted, self.channel)

    def _parts(self, start_s: float, duration_s: float) -> Iterator[tuple[Utterance, float, float]]:
        """The joined utterances in a segment, and where in each it starts and for how long."""
        own_s = self.duration_s - sum(part.duration_s for part in self.followed_by)
        at_s, end_s = 0.0, start_s + duration_s
        for part in (replace(self, duration_s=own_s, followed_by=()), *self.followed_by):
            first_s, last_s = max(start_s - at_s, 0.0), min(end_s - at_s, part.duration_s)
            if last_s - first_s > SHORTEST_PART_S:
                yield part, first_s, last_s - first_s
            at_s += part.duration_s


class Utterances(Sequence[Utterance]):
    """A sequence of utterances, each built when it is indexed. Slices and selections share all but its numbers. The
    names and labels of an utterance are a record of JSON, end to end with all others in one buffer. For stored audio it
    ends with three numbers: of its holder, which is kept once for all that it holds, its place and its size."""

    channel = "mean"
    """That of all of them."""

    def __init__(self, utterances: Iterable[Utterance] = ()) -> None:
        self._durations_s: Any = array("d")
        self._starts_s: Any = array("d")
        self._corpus_numbers: Any = array("i")
        self._records, self._ends = bytearray(), array("q", [0])
        self._holders, self._holder_numbers = list[Any](), dict[Any, int]()
        self._rows: np.ndarray | None = None  # in a selection: the numbers of the records
        self._joined: tuple[Utterances, np.ndarray, np.ndarray] | None = None  # of what, first numbers, counts
        for utterance in utterances:
            self.append(utterance)

    def append(self, utterance: Utterance) -> None:
        if self._rows is not None:
            raise TypeError("a selection of utterances cannot grow")
        self._durations_s.append(utterance.duration_s)
        self._starts_s.append(utterance.start_s)
        self._corpus_numbers.append(utterance.corpus_number)
        record: list[Any] = [utterance.source, utterance.text, utterance.label, dict(utterance.fields)]
        if utterance.stored is not None:
            holder, place, size = utterance.stored
            number = self._holder_numbers.setdefault(holder, len(self._holders))
            self._holders += [holder] * (number == len(self._holders))
            record += [number, place, size]
        self._records += json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogatepass")
        self._ends.append(len(self._records))

    def _record(self, row: int) -> list[Any]:
        """Source, text, label, fields, and the numbers of stored audio."""
        packed = self._records[self._ends[row] : self._ends[row + 1]]
        return json.loads(packed.decode("utf-8", "surrogatepass"))  # type: ignore[no-any-return]

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
        if self._joined is not None and self._joined[2][n] > 1:
            of, firsts, counts = self._joined
            first, *others = (of[k] for k in range(firsts[n], firsts[n] + counts[n]))
            text = None if first.text is None else " ".join(str(part.text) for part in (first, *others))
            return replace(first, duration_s=float(self._durations_s[n]), text=text, followed_by=tuple(others))
        source, text, label, fields, *stored = self._record(n if self._rows is None else int(self._rows[n]))
        return Utterance(
            source, float(self._durations_s[n]), float(self._starts_s[n]), text, label, fields,
            Stored(self._holders[stored[0]], *stored[1:]) if stored else None, int(self._corpus_numbers[n]),
            channel=self.channel,
        )  # fmt: skip

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
        times_ms = np.rint(1000 * np.stack([np.asarray(self._starts_s), self.durations_s])).astype(np.int64)
        if self._joined is not None:
            of, firsts, counts = self._joined
            return of.checksums() | {"times": zlib.crc32(np.concatenate([times_ms.ravel(), firsts, counts]).tobytes())}
        names = labels = 0
        for row in range(len(self)) if self._rows is None else self._rows.tolist():
            source, *label = self._record(row)[:4]
            names = zlib.crc32(ascii(source).encode(), names)
            labels = zlib.crc32(ascii(label).encode(), labels)
        return {"names": names, "times": zlib.crc32(times_ms.tobytes()), "labels": labels}

    def where(self, kept: np.ndarray) -> Utterances:
        """The utterances for which ``kept`` (N,) is true."""
        return self if kept.all() else self._selected(np.flatnonzero(kept))

    def longest(self, share: float) -> Utterances:
        """The longest utterances, in order, that make up ``share`` of the hours: as few as possible, at least one. Ties
        are broken by a fixed random draw, so that no folder is preferred."""
        durations_s = self.durations_s
        drawn = np.random.default_rng(0).permutation(len(self))
        order = drawn[np.argsort(-durations_s[drawn], kind="stable")]
        before_s = np.cumsum(durations_s[order]) - durations_s[order]
        return self._selected(np.sort(order[before_s < share * durations_s.sum() * (1 - 1e-12)]))

    def drawn(self, seconds: float, seed: int) -> Utterances:
        """At most ``seconds`` of utterances, in order, drawn at random by ``seed``; more seconds contain fewer."""
        drawn = np.random.default_rng(seed).permutation(len(self))
        return self._selected(np.sort(drawn[np.cumsum(self.durations_s[drawn]) <= seconds]))

    def segments(self, numbers: np.ndarray, starts_s: np.ndarray, durations_s: np.ndarray) -> Utterances:
        """Segments of utterances, with their texts: of which (M,), where in each they start (M,), how long (M,)."""
        selection = self._selected(numbers)
        selection._starts_s, selection._durations_s = selection._starts_s + starts_s, durations_s
        return selection

    def joined(self, firsts: np.ndarray, counts: np.ndarray) -> Utterances:
        """Runs of utterances as one each: which is the first of each (M,), how many they are (M,)."""
        selection = self._selected(firsts)
        selection._durations_s = np.add.reduceat(self.durations_s, firsts)
        selection._joined = self, firsts, counts
        return selection

    def _selected(self, numbers: np.ndarray) -> Utterances:
        selection = copy(self)
        selection._rows = numbers if self._rows is None else self._rows[numbers]
        selection._durations_s, selection._starts_s, selection._corpus_numbers = (
            np.asarray(column)[numbers] for column in (self._durations_s, self._starts_s, self._corpus_numbers)
        )
        if self._joined is not None:
            of, firsts, counts = self._joined
            selection._joined = of, firsts[numbers], counts[numbers]
        return selection
