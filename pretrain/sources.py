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
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mixvec import UserError
from mixvec.audio import AudioHeader, read_audio
from mixvec.errors import redacted

from .headers import opened, with_headers
from .mixture import repeats_of, weighted_sources
from .readers.archives import tar_rows
from .readers.layouts import (
    SPLIT_LISTS,
    aishell_rows,
    aishell_transcripts,
    librispeech_rows,
    speech_commands_list_rows,
    speech_commands_rows,
    tedlium_rows,
)
from .readers.manifests import csv_rows, json_rows, kaldi_rows, tsv_rows
from .readers.ranges import is_url
from .readers.remote import RemotePath, each_shard, expanded, forget, settled, source_path
from .readers.rows import SPLIT_NAME, Fault, Row, Rows, Stored, audio_below, files_below, one_split
from .readers.tables import dataset_rows, parquet_rows

HUB_NAME = re.compile(r"\w[\w.-]*/[\w.-]+(:[\w.+-]*(/[\w.+-]+)?)?")
COMPRESSED_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
SPLITS_BELOW = ("*/metadata.*", "*/stm", "legacy/*/stm", "wav/*/S*")
SPLIT_FILES = ("*.tsv", "*.jsonl", "*.jsonl.gz", "*.csv", "data/*_data.csv", "slurp/*.jsonl", "dataset/slurp/*.jsonl")


@dataclass(frozen=True)
class Utterance:
    """A stretch of audio in a file, a tar or a table, with its labels where known."""

    source: str
    """The file; in a tar ``shard.tar/member``, in a table ``name[row]``."""
    duration_s: float
    start_s: float = 0.0
    text: str | None = None
    label: str | None = None
    stored: Stored | None = field(default=None, repr=False, compare=False)
    """Where the audio lies, unless ``source`` is its file."""
    part: int = field(default=0, repr=False, compare=False)
    """Which of the corpora of a list it belongs to."""

    def read(self, start_s: float = 0.0, duration_s: float | None = None) -> Tensor:
        """The waveform (S,) at 16 kHz, or the part of it that starts ``start_s`` into the utterance.

        Raises:
            UserError: it cannot be decoded.
        """
        left = self.duration_s - start_s
        wanted = left if duration_s is None else min(duration_s, left)
        with opened(self.source, self.stored) as file:
            return read_audio(file, self.start_s + start_s, wanted)


@dataclass
class Corpus:
    """What was found, and what was passed over and why."""

    name: str
    utterances: list[Utterance] = field(default_factory=list)
    skipped: list[dict[str, Any]] = field(default_factory=list)
    formats: Counter[tuple[int, int]] = field(default_factory=Counter)
    """Utterances by rate in Hz and channels, before any was dropped."""
    weights: list[float] = field(default_factory=lambda: [1.0])
    """Of each corpus of a list."""

    @property
    def hours(self) -> float:
        return sum(u.duration_s for u in self.utterances) / 3600

    def repeats(self, temperature: float) -> np.ndarray | None:
        """How often each utterance stands in an epoch (N,); None where each does once (``mixture.repeats_of``)."""
        parts = np.array([u.part for u in self.utterances], dtype=np.int64)
        return repeats_of(np.array([u.duration_s for u in self.utterances]), parts, self.weights, temperature)

    def skip(self, source: str, reason: str) -> None:
        self.skipped.append({"source": source, "reason": reason})

    def keep(self, test: Any, reason: str) -> None:
        """Drop the utterances that fail ``test``, each counted with ``reason`` (formatted with the utterance)."""
        kept = []
        for utterance in self.utterances:
            if test(utterance):
                kept.append(utterance)
            else:
                self.skip(utterance.source, reason.format(u=utterance))
        self.utterances = kept

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
    if source in (None, "", []):
        raise UserError(f"{key} is not set: give it a folder of audio, such as {key}=DIR")
    sources = weighted_sources(source, key)
    corpus = Corpus(", ".join(_short(name) for name, _ in sources), weights=[weight for _, weight in sources])
    for part, (name, _) in enumerate(sources):
        forget()
        with _named(key):
            found = _matching(name)
        if not found:
            raise UserError(f"{key}={name}: nothing matches")
        rows = chain.from_iterable(_rows(path, key, labels) for path in found)
        for looked_at in with_headers(settled(rows), name, labels):
            _add(corpus, looked_at, part)
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


def _short(name: str) -> str:
    """A source in a line or on a model card: its last part, and the one before where the last is but a split."""
    path = Path(redacted(name).removesuffix("?***"))
    if SPLIT_NAME.match(path.name.lower()) and path.parent.name:
        return f"{path.parent.name}/{path.name}"
    return path.name or name


def _rows(name: str, key: str, labels: bool) -> Rows:
    with _named(key):
        path = source_path(name)
    if path.is_dir():
        return _folder_rows(path, key, labels)
    if path.is_file():
        return _file_rows(path, key)
    if HUB_NAME.fullmatch(name) and not path.exists():
        return dataset_rows(name, key)
    raise UserError(f"{key}={name}: no such file or folder")


def _file_rows(path: Path, key: str) -> Rows:
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
        return parquet_rows(path)
    if name.endswith(".arrow"):
        _on_disk(path, key)
        return dataset_rows(str(path), key)
    if name.endswith(".trans.txt"):
        return librispeech_rows(path, key)
    if name in SPLIT_LISTS:
        return speech_commands_list_rows(path)
    return iter([Row(str(path))])


def _folder_rows(folder: Path, key: str, labels: bool) -> Rows:
    if (folder / "dataset_info.json").exists() or (folder / "dataset_dict.json").exists():
        _on_disk(folder, key)
        return dataset_rows(str(folder), key)
    if (folder / "wav.scp").is_file():
        return kaldi_rows(folder)
    if labels and (folder / "metadata.jsonl").is_file():
        return json_rows(folder / "metadata.jsonl")
    if labels and (folder / "metadata.csv").is_file():
        return csv_rows(folder / "metadata.csv")
    if all((folder / name).is_file() for name in SPLIT_LISTS):
        return speech_commands_rows(folder)
    if labels and (folder / "stm").is_dir() and (folder / "sph").is_dir():
        return tedlium_rows(folder)
    faults: list[Fault] = []
    files = [] if labels else audio_below(folder, faults)
    if files or faults:
        return chain(faults, (Row(str(file)) for file in files))
    for pattern, reader in (("*.tar", tar_rows), ("*.parquet", parquet_rows), ("data/*.parquet", parquet_rows)):
        if shards := sorted(folder.glob(pattern)):
            one_split(key, folder, [(shard.name, str(_family(shard).relative_to(folder))) for shard in shards])
            return each_shard(reader, shards)
    return _labelled_rows(folder, key) if labels else iter(())


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
    splits = [p.parent for pattern in SPLITS_BELOW for p in sorted(folder.glob(pattern))]
    splits += [p for pattern in SPLIT_FILES for p in sorted(folder.glob(pattern))]
    splits.sort(key=lambda path: "train" not in path.name)
    hint = f"; did you mean {key}={splits[0]}?" if splits else ": a metadata.jsonl or .csv is needed for labels"
    raise UserError(f"{key}={folder}: no metadata.jsonl in it{hint}")


def _add(corpus: Corpus, found: tuple[Row, AudioHeader] | Fault, part: int) -> None:
    """Append one utterance, or count why not."""
    if isinstance(found, Fault):
        return corpus.skip(found.source, found.reason)
    row, (frames, rate_hz, channels) = found
    start_s, wanted_s = row.start_s, row.duration_s
    if row.span_samples is not None:
        start, stop = row.span_samples
        start_s, wanted_s = start / rate_hz, None if stop is None else (stop - start) / rate_hz
    left_s = frames / rate_hz - start_s
    duration_s = left_s if wanted_s is None else min(left_s, wanted_s)
    if duration_s <= 0:
        beyond = f" from {start_s:g} s on, as {row.where} has it" if start_s else ""
        return corpus.skip(row.source, f"{row.source}: no audio in it{beyond}")
    corpus.utterances.append(Utterance(row.source, duration_s, start_s, row.text, row.label, row.stored, part))
    corpus.formats[rate_hz, channels] += 1
    return None
