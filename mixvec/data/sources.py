"""Finding audio: any source becomes one list of utterances; nothing is decoded and nothing is copied.

A source is a file, a folder, the name of a data set on the hub, or a glob, and what is in it decides which reader
reads it: the first of ``readers/forms.READERS`` that matches (``python -m mixvec.data.readers`` prints them). A corpus
that keeps its splits in files is named by one of them, ``data.train=DIR/train.tsv``; one that keeps them in folders by
a folder, ``data.train=DIR/train-clean-100``; a folder that holds several splits is refused. A file or folder may be a
URL that fsspec opens (``readers/remote.py``).
"""

from __future__ import annotations

import glob
import math
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..audio import AudioHeader, silent_channels
from ..errors import UserError, named
from .fingerprint import Fingerprint
from .headers import opened, with_headers
from .mixture import repeats_of
from .readers.files import audio_below
from .readers.forms import READERS
from .readers.ranges import is_url
from .readers.remote import AnyPath, expanded, forget, source_path
from .readers.remote_rows import in_order, settled
from .readers.rows import Fault, Row, Shard, Wanted, fields_of
from .spec import SourceSpec, parse_sources, short_names
from .utterances import Utterance, Utterances

CHANNELS_CHECKED, CHECKED_S = 8, 10.0


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
        """How often an epoch takes each utterance (N,); None where it takes each once (``mixture.repeats_of``)."""
        weights = [source.weight for source in self.sources]
        return repeats_of(self.utterances.durations_s, self.utterances.corpus_numbers, weights, temperature)

    def fingerprint(self) -> Fingerprint:
        """Plain JSON by which a resumed run notices that its data has changed (``fingerprint_changes``)."""
        checksums = self.utterances.checksums()
        if not self.labelled:
            del checksums["labels"]
        seconds = round(float(self.utterances.durations_s.sum()), 3)
        return {"utterances": len(self.utterances), "seconds": seconds, **checksums}

    def skip(self, source: str, reason: str) -> None:
        self.skipped.append({"source": source, "reason": reason})

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
            self.skip(utterance.source, reason.format(u=utterance))
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
        """Check that at most the share ``most`` of the utterances of ``key`` has been skipped.

        Raises:
            UserError: more has; the message has the numbers and the first three reasons.
        """
        total = len(self.skipped) + len(self.utterances)
        if len(self.skipped) > most * total:
            raise UserError(f"{key}: {len(self.skipped)} of {total} utterances cannot be used, more than "
                            f"data.max_skipped={most:g} allows: {self.reasons(3)}")  # fmt: skip


def find_utterances(source: Any, key: str, *, labels: bool = False, channel: str = "mean") -> Corpus:
    """All utterances of ``source``, in a fixed order.

    Args:
        source: a path, URL, glob or hub name, ``{source: NAME, weight: 2}``, or a list of them (``parse_sources``).
        key: the configuration key it came from, for messages.
        labels: whether text or labels are needed, so that a bare folder of audio is refused.
        channel: which channel is read of audio that has several.

    Raises:
        UserError: ``source`` is missing, or holds no audio that can be read.
    """
    sources = parse_sources(source, key)
    corpus = Corpus(short_names(sources), sources=sources, labelled=labels)
    for corpus_number, (name, _) in enumerate(sources):
        forget()
        rows = in_order([shard.rows for shard in shards_of(name, key, labels)], remote=is_url(name))
        for looked_at in with_headers(settled(rows), name):
            _add(corpus, looked_at, corpus_number, labels)
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
    """The shards of a source that is one name or a pattern: its tars or Parquet files, or all of it as one.

    With ``stream``, rows of Parquet and of the hub hold the bytes of their audio, and nothing is fetched in advance.

    Raises:
        UserError: there is no such source.
    """
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
            return rows if isinstance(rows, list) else [Shard(name, rows)]
    if kind == "name":
        raise UserError(f"{key}={name}: no such file or folder")
    if labels:
        raise UserError(f"{key}={path}: no metadata.jsonl or other labels in it{_hint(path, key)}")
    return [Shard(name, iter(audio_below(path)[1]))] if kind == "folder" else []


def _hint(folder: AnyPath, key: str) -> str:
    """Which split of the folder could have been meant."""
    splits = [p.parent for reader in READERS for pattern in reader.split_folders for p in sorted(folder.glob(pattern))]
    splits += [p for reader in READERS for pattern in reader.split_files for p in sorted(folder.glob(pattern))]
    splits.sort(key=lambda path: "train" not in path.name)
    return (
        f"; did you mean {key}={splits[0]}?"
        if splits
        else (
            ": metadata.jsonl, .csv or .parquet, wav.scp and text, a .txt beside each file, or a folder for each class "
            "gives them (python -m mixvec.data.readers lists all forms)"
        )
    )


def _add(corpus: Corpus, found: tuple[Row, AudioHeader] | Fault, corpus_number: int, labels: bool) -> None:
    """Append one utterance, or count it as skipped."""
    if isinstance(found, Fault) and not found.counted:
        return corpus.notes.append({"source": found.source, "reason": found.reason})
    if isinstance(found, Fault):
        return corpus.skip(found.source, found.reason)
    row, header = found
    made = utterance_of(row, header, corpus_number, labels)
    if isinstance(made, Fault):
        return corpus.skip(made.source, made.reason)
    if header.channels > 1 and len(corpus.several) < CHANNELS_CHECKED:
        corpus.several.append(made)
    corpus.utterances.append(made)
    corpus.formats[header.rate_hz, header.channels] += 1
    return None


def utterance_of(row: Row, header: AudioHeader, corpus_number: int, labels: bool = False) -> Utterance | Fault:
    """The utterance of a row and its audio's header; a fault where no audio is left.

    Args:
        labels: whether the row's other fields are kept.
    """
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
