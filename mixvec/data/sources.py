"""Finding audio: whatever people have becomes one list of utterances; nothing is decoded and nothing is copied.

A folder is, in this order: a datasets directory (``save_to_disk``); a Kaldi folder (``wav.scp``); Speech Commands (its
split lists), less what these hold out; an audiofolder (``metadata.jsonl`` or ``.csv``) or an official layout
(``readers/layouts.py``), where labels are needed; every audio file at any depth; or, where there is none,
webdataset tars (``*.tar``) or Parquet files (``*.parquet``, or in ``data``).

A file is, by its name: a manifest (``.jsonl``, ``.jsonl.gz``, ``.json``, ``.csv``, ``.tsv``; ``readers/manifests.py``),
a tar, a Parquet or Arrow table, a transcript or split list of an official layout, or audio. A corpus that keeps its
splits in files is named by one of them, ``data.train=DIR/train.tsv``; one that keeps them in folders by a folder,
``data.train=DIR/train-clean-100``; a folder that holds several splits is refused. Any of these may be a URL that
fsspec opens (``readers/remote.py``). Also taken are names of data sets on the hub (``org/name``,
``org/name:config/split``), globs, and lists of all these.
"""

from __future__ import annotations

import glob
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ..audio import AudioHeader
from ..errors import UserError
from .fingerprint import Fingerprint
from .headers import with_headers
from .mixture import repeats_of
from .readers.archives import tar_rows
from .readers.layouts import (
    SPLIT_LISTS,
    aishell_rows,
    aishell_transcripts,
    librispeech_rows,
    official_rows,
    speech_commands_list_rows,
)
from .readers.manifests import csv_rows, json_rows, kaldi_rows, tsv_rows
from .readers.ranges import is_url
from .readers.remote import RemotePath, expanded, forget, in_order, settled, source_path
from .readers.rows import Fault, Row, Rows, audio_below, fields_of, files_below, one_split
from .readers.tables import dataset_rows, parquet_rows, streamed_parquet_rows, streamed_parts
from .readers.voices import voice_rows
from .spec import SourceSpec, parse_sources, short_names
from .utterances import Utterance, Utterances

HUB_NAME = re.compile(r"\w[\w.-]*/[\w.-]+(:[\w.+-]*(/[\w.+-]+)?)?")
COMPRESSED_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
SPLITS_BELOW = ("*/metadata.*", "*/stm", "legacy/*/stm", "wav/*/S*")
SPLIT_FILES = ("*.tsv", "*.jsonl", "*.jsonl.gz", "*.csv", "data/*_data.csv", "slurp/*.jsonl", "dataset/slurp/*.jsonl")


@dataclass
class Corpus:
    """The utterances that were found, and those that were skipped, with the reason."""

    name: str
    utterances: Utterances = field(default_factory=Utterances)
    skipped: list[dict[str, Any]] = field(default_factory=list)
    formats: Counter[tuple[int, int]] = field(default_factory=Counter)
    """The number of utterances by rate in Hz and channels, before any was dropped."""
    sources: tuple[SourceSpec, ...] = (SourceSpec(""),)
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
        """Drop the utterances that fail ``test``, each counted with ``reason``, in which ``u`` is the utterance."""
        self._keep(np.array([bool(test(utterance)) for utterance in self.utterances], dtype=bool), reason)

    def keep_durations(self, min_s: float = 0.0, max_s: float = math.inf) -> None:
        """Drop what is shorter than ``min_s`` or longer than ``max_s``, which are ``data``'s in the configuration."""
        self._keep(self.utterances.durations_s <= max_s, "{u.source}: {u.duration_s:.1f} s is over data.max_s")
        self._keep(self.utterances.durations_s >= min_s, "{u.source}: {u.duration_s:.2f} s is under data.min_s")

    def _keep(self, kept: np.ndarray, reason: str) -> None:
        for number in np.flatnonzero(~kept):
            utterance = self.utterances[int(number)]
            self.skip(utterance.source, reason.format(u=utterance))
        self.utterances = self.utterances.where(kept)

    def reasons(self, count: int) -> str:
        """The first reasons for which something was skipped, on one line, whatever the names of the files."""
        return " ".join("; ".join(row["reason"] for row in self.skipped[:count]).split())

    def check_skipped(self, most: float, key: str) -> None:
        """Stop where more than the share ``most`` of what ``key`` names has been skipped.

        Raises:
            UserError: so it is; the message has the numbers and the first three reasons.
        """
        total = len(self.skipped) + len(self.utterances)
        if len(self.skipped) > most * total:
            raise UserError(f"{key}: {len(self.skipped)} of {total} utterances cannot be used, more than "
                            f"data.max_skipped={most:g} allows: {self.reasons(3)}")  # fmt: skip


def find_utterances(source: Any, key: str, *, labels: bool = False) -> Corpus:
    """All utterances of ``source`` (see the module), in a fixed order.

    Args:
        source: a path, glob, hub name, or list of them.
        key: the configuration key it came from, for messages.
        labels: whether text or labels are needed, so that a bare folder of audio will not do.

    Raises:
        UserError: ``source`` is missing, or holds no audio that can be read.
    """
    sources = parse_sources(source, key)
    corpus = Corpus(short_names(sources), sources=sources, labelled=labels)
    for corpus_number, (name, _) in enumerate(sources):
        forget()
        rows = in_order(parts_of(name, key, labels), remote=is_url(name))
        for looked_at in with_headers(settled(rows), name, labels):
            _add(corpus, looked_at, corpus_number, labels)
    if not corpus.utterances:
        why = f"; {len(corpus.skipped)} skipped, the first: {corpus.reasons(1)}" if corpus.skipped else ""
        raise UserError(f"{key}={source}: no readable audio in it{why}")
    return corpus


def _matching(name: str) -> list[str]:
    """The sources that a pattern stands for, in order; ``name`` where it is none."""
    if is_url(name):
        return expanded(name)
    return sorted(glob.glob(name)) if glob.has_magic(name) and not Path(name).exists() else [name]


@contextmanager
def _named(key: str) -> Iterator[None]:
    """Errors begin with the key whose value they are about."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{key}={error}") from error


def parts_of(name: str, key: str, labels: bool, *, stream: bool = False) -> list[Rows]:
    """The rows of a source that is one name or a pattern, shard by shard where it lies in tars or Parquet files.

    With ``stream``, rows of Parquet and of the hub hold their audio's bytes, and nothing is fetched ahead of them.

    Raises:
        UserError: there is no such source.
    """
    with _named(key):
        found = _matching(name)
        if not found:
            raise UserError(f"{name}: nothing matches")
        if found != [name]:
            return [part for path in found for part in parts_of(path, key, labels, stream=stream)]
        path = source_path(name)
    if path.is_dir():
        return _folder_parts(path, key, labels, stream)
    if path.is_file():
        return [_file_rows(path, key, labels, stream)]
    if HUB_NAME.fullmatch(name) and not path.exists():
        return streamed_parts(name, key) if stream else [dataset_rows(name, key, labels)]
    raise UserError(f"{key}={name}: no such file or folder")


def is_hub_name(name: str) -> bool:
    """Whether ``name`` can only mean a data set of the hub, org/name."""
    return name.count("/") == 1 and not Path(name).exists() and not name.startswith((".", "/", "~"))


def _file_rows(path: Path, key: str, labels: bool, stream: bool) -> Rows:
    name = path.name.lower()
    if name.endswith((".jsonl", ".json", ".jsonl.gz", ".json.gz")):
        return json_rows(path)
    if name.endswith(".csv"):
        return csv_rows(path)
    if name.endswith(".tsv"):
        return tsv_rows(path)
    if name.endswith(".tar"):
        return tar_rows(path)
    if name.endswith(COMPRESSED_TARS):
        raise UserError(f"{key}={path}: a compressed tar cannot be read in place; decompress or unpack it")
    if name.endswith(".parquet"):
        return streamed_parquet_rows(path) if stream else parquet_rows(path, labels)
    if name.endswith(".arrow"):
        _on_disk(path, key)
        return dataset_rows(str(path), key, labels)
    if name.endswith(".trans.txt"):
        return librispeech_rows(path, key)
    if name in SPLIT_LISTS:
        return speech_commands_list_rows(path)
    return iter([Row(str(path))])


def _folder_parts(folder: Path, key: str, labels: bool, stream: bool) -> list[Rows]:
    if (folder / "dataset_info.json").exists() or (folder / "dataset_dict.json").exists():
        _on_disk(folder, key)
        return [dataset_rows(str(folder), key, labels)]
    if (folder / "wav.scp").is_file():
        return [kaldi_rows(folder)]
    if labels and (folder / "metadata.jsonl").is_file():
        return [json_rows(folder / "metadata.jsonl")]
    if labels and (folder / "metadata.csv").is_file():
        return [csv_rows(folder / "metadata.csv")]
    if official := official_rows(folder, key, labels):
        return [official]
    faults: list[Fault] = []
    files = [] if labels else audio_below(folder, faults)
    if files or faults:
        return [chain(faults, (Row(str(file)) for file in files))]
    for pattern in ("*.tar", "*.parquet", "data/*.parquet"):
        if shards := sorted(folder.glob(pattern)):
            one_split(key, folder, [(shard.name, str(_family(shard).relative_to(folder))) for shard in shards])
            return [_file_rows(shard, key, labels, stream) for shard in shards]
    return [_labelled_rows(folder, key)] if labels else []


def _on_disk(path: Path, key: str) -> None:
    if isinstance(path, RemotePath):
        raise UserError(f"{key}={path}: a datasets directory is mapped into memory, so it has to be on disk; copy it, "
                        "or write it as Parquet (to_parquet) and name that")  # fmt: skip


def _family(shard: Path) -> Path:
    """``train-00000-of-00002.parquet`` → ``train-*.parquet``: a glob for the shards of one split."""
    return shard.with_name(re.sub(r"\d.*(?=\.)", "*", shard.name))


def _labelled_rows(folder: Path, key: str) -> Rows:
    if any(file.name.endswith(".trans.txt") for file in files_below(folder)):
        return librispeech_rows(folder, key)
    if aishell_transcripts(folder):
        return aishell_rows(folder, key)
    if (voices := voice_rows(folder)) is not None:
        return voices
    splits = [p.parent for pattern in SPLITS_BELOW for p in sorted(folder.glob(pattern))]
    splits += [p for pattern in SPLIT_FILES for p in sorted(folder.glob(pattern))]
    splits.sort(key=lambda path: "train" not in path.name)
    hint = f"; did you mean {key}={splits[0]}?" if splits else ": a metadata.jsonl or .csv is needed for labels"
    raise UserError(f"{key}={folder}: no metadata.jsonl in it{hint}")


def _add(corpus: Corpus, found: tuple[Row, AudioHeader] | Fault, corpus_number: int, labels: bool) -> None:
    """Append one utterance, or count it as skipped."""
    if isinstance(found, Fault):
        return corpus.skip(found.source, found.reason)
    row, header = found
    made = utterance_of(row, header, corpus_number, labels)
    if isinstance(made, Fault):
        return corpus.skip(made.source, made.reason)
    corpus.utterances.append(made)
    corpus.formats[header.rate_hz, header.channels] += 1
    return None


def utterance_of(row: Row, header: AudioHeader, corpus_number: int, labels: bool = False) -> Utterance | Fault:
    """What a row states and its audio's header make together; a fault where no audio is left.

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
        beyond = f" from {start_s:g} s on, as {row.where} has it" if start_s else ""
        return Fault(row.source, f"{row.source}: no audio in it{beyond}")
    fields = fields_of(row.fields) if labels else {}
    return Utterance(row.source, duration_s, start_s, row.text, row.label, fields, row.stored, corpus_number)
