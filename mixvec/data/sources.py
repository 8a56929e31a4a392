"""Finding audio: any source becomes one list of utterances; nothing is decoded and nothing is copied.

What is in a source decides which reader reads it: the first of ``readers/forms.READERS`` that matches. A corpus that
keeps its splits in files is named by one of them, ``data.train=DIR/train.tsv``; one that keeps them in folders by a
folder, ``data.train=DIR/train-clean-100``; a folder that holds several splits is refused.
"""

from __future__ import annotations

import glob
import math
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..audio import AudioHeader, silent_channels
from ..errors import UserError, named, redacted
from .fingerprint import Fingerprint
from .headers import opened, with_headers
from .plan import repeats_of
from .readers.files import audio_below
from .readers.forms import READERS
from .readers.ranges import RemoteFile, State, is_url, states
from .readers.remote import AnyPath, RemotePath, expanded, forget, located, source_path
from .readers.rows import SPLIT_NAME, Fault, Row, Rows, Shard, Stored, Wanted, fields_of
from .utterances import Utterance, Utterances

CHANNELS_CHECKED, CHECKED_S = 8, 10.0
SHARDS_AT_ONCE = 8


class SourceSpec(NamedTuple):
    """One source of a list."""

    name: str
    """A path, URL, glob or hub name."""
    weight: float = 1.0
    """How often an epoch takes each of its utterances (``plan.repeats_of``)."""

    @property
    def short_name(self) -> str:
        """The name in a log line or on a model card: its last part, with the one before where the last is a split."""
        path = Path(redacted(self.name).removesuffix("?***"))
        if SPLIT_NAME.match(path.name.lower()) and path.parent.name:
            return f"{path.parent.name}/{path.name}"
        return path.name or self.name


def parse_sources(value: Any, key: str) -> tuple[SourceSpec, ...]:
    """The sources that the value of ``key`` names: a name, ``{source: NAME, weight: 2}``, or a list of these. Raises
    ``UserError`` where there is none, or an entry has neither form; the message names the key and the entry."""
    if value in (None, "", [], ()):
        raise UserError(f"{key} is not set: give it a folder of audio, such as {key}=DIR")
    entries = value if isinstance(value, list | tuple) else [value]
    return tuple(_parse_entry(entry, key) for entry in entries)


def _parse_entry(entry: Any, key: str) -> SourceSpec:
    if not isinstance(entry, dict):
        return SourceSpec(str(entry))
    name, weight = entry.get("source"), entry.get("weight", 1.0)
    if not isinstance(name, str) or not name or set(entry) - {"source", "weight"}:
        raise UserError(f"{key}: {entry} is neither a source nor of the form {{source: DIR, weight: 2}}")
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
        raise UserError(f"{key}: weight={weight!r} of {name} is not a number above 0")
    return SourceSpec(name, float(weight))


def short_names(sources: tuple[SourceSpec, ...]) -> str:
    """The names of all sources, in a log line or on a model card."""
    return ", ".join(source.short_name for source in sources)


@dataclass
class Corpus:
    """The utterances that were found, and those that were skipped, with the reason."""

    name: str
    utterances: Utterances = field(default_factory=Utterances)
    skipped: list[dict[str, Any]] = field(default_factory=list)
    notes: list[dict[str, Any]] = field(default_factory=list)
    """On files that are no audio, by kind, in the form of ``skipped``."""
    formats: Counter[tuple[int, int]] = field(default_factory=Counter)
    """The number of utterances by rate in Hz and channels, before any was dropped."""
    sources: tuple[SourceSpec, ...] = (SourceSpec(""),)
    several: list[Utterance] = field(default_factory=list)
    """The first few utterances of several channels."""
    labelled: bool = False
    """Whether labels were asked for, so that changed labels are changed data."""

    @property
    def hours(self) -> float:
        return float(self.utterances.durations_s.sum()) / 3600

    def repeats(self, temperature: float) -> np.ndarray | None:
        """How often an epoch takes each utterance (N,); None where it takes each once (``plan.repeats_of``)."""
        weights = [source.weight for source in self.sources]
        return repeats_of(self.utterances.durations_s, self.utterances.corpus_numbers, weights, temperature)

    def fingerprint(self) -> Fingerprint:
        """Plain JSON by which a resumed run notices that its data has changed (``fingerprint_changes``)."""
        checksums = self.utterances.checksums()
        if not self.labelled:
            del checksums["labels"]
        seconds = round(float(self.utterances.durations_s.sum()), 3)
        return {"utterances": len(self.utterances), "seconds": seconds, **checksums}

    def keep(self, test: Callable[[Utterance], Any], reason: str) -> None:
        """Drop the utterances that fail ``test``, each counted as skipped; ``u`` in ``reason`` is the utterance."""
        self._keep(np.array([bool(test(utterance)) for utterance in self.utterances], dtype=bool), reason)

    def keep_durations(self, min_s: float = 0.0, max_s: float = math.inf) -> None:
        """Drop the utterances shorter than ``min_s`` or longer than ``max_s``, of the configuration's ``data``."""
        self._keep(self.utterances.durations_s <= max_s, "{u.source}: {u.duration_s:.1f} s is over data.max_s")
        self._keep(self.utterances.durations_s >= min_s, "{u.source}: {u.duration_s:.2f} s is under data.min_s")

    def _keep(self, kept: np.ndarray, reason: str) -> None:
        for number in np.flatnonzero(~kept):
            utterance = self.utterances[int(number)]
            self.skipped.append({"source": utterance.source, "reason": reason.format(u=utterance)})
        self.utterances = self.utterances.where(kept)

    def reasons(self, count: int) -> str:
        """The first reasons for which utterances were skipped, on one line."""
        return " ".join("; ".join(row["reason"] for row in self.skipped[:count]).split())

    @property
    def others(self) -> str:
        """The files that are no audio, by kind, on one line."""
        return "; ".join(row["reason"] for row in self.notes)

    def channel_warnings(self, key: str) -> list[str]:
        """Warnings of silent channels, and of those that cancel, in the first few utterances of several channels."""
        lines = []
        for utterance in self.several:
            try:
                with opened(utterance.source, utterance.stored) as file:
                    silent = silent_channels(file, utterance.start_s, min(utterance.duration_s, CHECKED_S))
                if self.utterances.channel == "mean":
                    utterance.read(0.0, CHECKED_S)
            except UserError as error:
                lines.append(f"WARNING {key}: {error}")
                continue
            if silent and self.utterances.channel != "loudest":
                which = ", ".join(map(str, silent))
                lines.append(f"WARNING {key}: {utterance.source}: channel {which} is silent (data.channel="
                             f"{self.utterances.channel}); data.channel=loudest reads the other")  # fmt: skip
        return lines[:1] + [f"    and {len(lines) - 1} more of the first {len(self.several)}"] * (len(lines) > 1)

    def check_skipped(self, most: float, key: str) -> None:
        """Raise ``UserError``, with numbers and reasons, where more than the share ``most`` has been skipped."""
        total = len(self.skipped) + len(self.utterances)
        if len(self.skipped) > most * total:
            raise UserError(f"{key}: {len(self.skipped)} of {total} utterances cannot be used, more than "
                            f"data.max_skipped={most:g} allows: {self.reasons(3)}")  # fmt: skip


def find_utterances(source: Any, key: str, *, labels: bool = False, channel: str = "mean") -> Corpus:
    """All utterances of ``source`` (``parse_sources``), in a fixed order.

    Args:
        key: the configuration key it came from, for messages.
        labels: whether text or labels are needed, so that a bare folder of audio is refused.

    Raises:
        UserError: ``source`` is missing, or holds no audio that can be read.
    """
    sources = parse_sources(source, key)
    corpus = Corpus(short_names(sources), sources=sources, labelled=labels)
    for corpus_number, (name, _) in enumerate(sources):
        forget()
        rows = _in_order(shards_of(name, key, labels), remote=is_url(name))
        for found in with_headers(rows, name):
            _add(corpus, found, corpus_number, labels)
    corpus.utterances.channel = channel
    if not corpus.utterances:
        why = f"; {len(corpus.skipped)} skipped, the first: {corpus.reasons(1)}" if corpus.skipped else ""
        why += f"; {corpus.others}" if corpus.notes else ""
        raise UserError(f"{key}={source}: no readable audio in it{why}")
    return corpus


def _matching(name: str) -> list[str]:
    """The sources that a pattern matches, in order; ``name`` itself where it is no pattern."""
    if is_url(name):
        return expanded(name)
    name = os.path.expanduser(name) if name.startswith("~") and not os.path.exists(name) else name
    return sorted(glob.glob(name)) if glob.has_magic(name) and not Path(name).exists() else [name]


def shards_of(name: str, key: str, labels: bool, *, stream: bool = False) -> list[Shard]:
    """The shards of a source that is one name or a pattern: its tars or Parquet files, or all of it as one. With
    ``stream``, rows of Parquet and of the hub hold the bytes of their audio, and nothing is fetched in advance. Raises
    ``UserError`` where there is no such source."""
    with named(f"{key}="):
        found = _matching(name)
        if not found:
            raise UserError(f"{name}: nothing matches")
        if found != [name]:
            return [shard for path in found for shard in shards_of(path, key, labels, stream=stream)]
        path = source_path(name)
    kind = "folder" if path.is_dir() else "file" if path.is_file() else "name"
    for reader in READERS if kind != "name" or name == str(path) else ():  # ./org/name can only be a path
        if reader.kind == kind and reader.matches(path, labels):
            rows = reader.rows(path, Wanted(key, labels, stream))
            shards = rows if isinstance(rows, list) else [Shard(name, rows)]
            return [Shard(shard.name, _settled(shard.rows)) for shard in shards]
    if kind == "name":
        raise UserError(f"{key}={name}: no such file or folder")
    if labels:
        raise UserError(f"{key}={path}: no metadata.jsonl or other labels in it{_hint(path, key)}")
    return [Shard(name, _settled(iter(audio_below(path)[1])))]


def _settled(rows: Rows) -> Rows:
    """The rows with ``stored`` set for remote audio, and secrets in names replaced."""
    for row in rows:
        if not is_url(row.source):
            yield row
        elif isinstance(row, Fault):
            yield replace(row, source=redacted(row.source), reason=redacted(row.reason))
        else:
            source, stored = row.source, row.stored
            if stored is None:
                path = located(source)  # which may be on this machine
                source = str(path)
                size, version = states.get(source, State())
                stored = Stored(RemoteFile(source, version), -1, size) if isinstance(path, RemotePath) else None
            yield replace(row, source=redacted(source), where=redacted(row.where), stored=stored)


def _in_order(shards: list[Shard], *, remote: bool) -> Rows:
    """The rows of all shards in order; several remote shards are read at a time."""
    if not remote:
        yield from chain.from_iterable(shard.rows for shard in shards)
        return
    with ThreadPoolExecutor(SHARDS_AT_ONCE, thread_name_prefix="shards") as pool:
        yield from chain.from_iterable(pool.map(lambda shard: list(shard.rows), shards))


def _hint(folder: AnyPath, key: str) -> str:
    """Which split of the folder could have been meant."""
    readers = sorted(READERS, key=lambda reader: reader.kind != "folder")
    found = [(reader, path) for reader in readers for glob in reader.splits for path in sorted(folder.glob(glob))]
    splits = [path.parent if reader.kind == "folder" else path for reader, path in found]
    if splits:
        return f"; did you mean {key}={min(splits, key=lambda path: 'train' not in path.name)}?"
    return (": metadata.jsonl, .csv or .parquet, wav.scp and text, a .txt beside each file, or a folder for each class "
            "gives them (python -m mixvec.data.readers lists all forms)")  # fmt: skip


def _add(corpus: Corpus, found: tuple[Row, AudioHeader] | Fault, corpus_number: int, labels: bool) -> None:
    """Append one utterance, or count it as skipped."""
    if isinstance(found, Fault):
        fault = found
    else:
        row, header = found
        made = utterance_of(row, header, corpus_number, labels)
        if isinstance(made, Utterance):
            if header.channels > 1 and len(corpus.several) < CHANNELS_CHECKED:
                corpus.several.append(made)
            corpus.utterances.append(made)
            corpus.formats[header.rate_hz, header.channels] += 1
            return
        fault = made
    (corpus.skipped if fault.counted else corpus.notes).append({"source": fault.source, "reason": fault.reason})


def utterance_of(row: Row, header: AudioHeader, corpus_number: int, labels: bool = False) -> Utterance | Fault:
    """The utterance of a row and its audio's header, with ``labels`` its other fields; or a fault: no audio is left."""
    frames, rate_hz, _ = header
    start_s, wanted_s = row.start_s, row.duration_s
    if row.span_samples is not None:
        start, stop = row.span_samples
        start_s, wanted_s = start / rate_hz, None if stop is None else (stop - start) / rate_hz
    left_s = frames / rate_hz - start_s
    duration_s = left_s if wanted_s is None else min(left_s, wanted_s)
    if duration_s <= 0:
        beyond = f" from {start_s:g} s on, where {row.where} starts it" if start_s else ""
        return Fault(row.source, f"{row.source}: no audio in it{beyond}")
    fields = fields_of(row.fields) if labels else {}
    return Utterance(row.source, duration_s, start_s, row.text, row.label, fields, row.stored, corpus_number)
