"""Finding audio: whatever people have becomes one list of utterances; nothing is decoded and nothing is copied.

Read are a folder at any depth, a Hugging Face audiofolder (``metadata.jsonl`` or ``.csv``), a jsonl manifest, a
datasets directory (``save_to_disk``) or hub name, a glob, a single file, and lists of these.
"""

from __future__ import annotations

import csv
import glob
import io
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from mixvec import UserError
from mixvec.audio import EXTENSIONS, audio_length, read_audio

AUDIO_KEYS = ("file_name", "audio_filepath", "audio", "path", "file", "wav")
TEXT_KEYS = ("text", "transcription", "transcript", "sentence", "normalized_text")
LABEL_KEYS = ("intent", "label", "keyword", "command")


@dataclass(frozen=True)
class Utterance:
    """A stretch of audio in a file or a table's row, with its labels where known."""

    source: str
    """The file; for a table, ``name[row]``."""
    duration_s: float
    start_s: float = 0.0
    text: str | None = None
    label: str | None = None
    table: Any = field(default=None, repr=False, compare=False)
    row: int = 0

    def read(self, start_s: float = 0.0, duration_s: float | None = None) -> Tensor:
        """The waveform (S,) at 16 kHz, or the part of it that starts ``start_s`` into the utterance.

        Raises:
            UserError: it cannot be decoded.
        """
        left = self.duration_s - start_s
        wanted = left if duration_s is None else min(duration_s, left)
        return read_audio(_stored(self.table, self.row, self.source), self.start_s + start_s, wanted)


@dataclass
class Corpus:
    """What was found, and what was passed over and why."""

    name: str
    utterances: list[Utterance] = field(default_factory=list)
    skipped: list[dict[str, Any]] = field(default_factory=list)

    @property
    def hours(self) -> float:
        return sum(u.duration_s for u in self.utterances) / 3600

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
    sources = [str(s) for s in source] if isinstance(source, list | tuple) else [str(source)]
    corpus = Corpus(", ".join(Path(s).name or s for s in sources))
    for name in sources:
        found = sorted(glob.glob(name)) if glob.has_magic(name) and not Path(name).exists() else [name]
        if not found:
            raise UserError(f"{key}={name}: nothing matches")
        for path in found:
            _find(path, key, labels, corpus)
    if not corpus.utterances:
        why = f"; {len(corpus.skipped)} skipped, the first: {corpus.skipped[0]['reason']}" if corpus.skipped else ""
        raise UserError(f"{key}={source}: no readable audio in it{why}")
    return corpus


def _find(name: str, key: str, labels: bool, corpus: Corpus) -> None:
    path = Path(name)
    if path.is_dir():
        if (path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists():
            _from_dataset(name, key, corpus)
        elif labels:
            _from_metadata(_metadata(path, key), path, corpus)
        else:
            _from_folder(path, corpus)
    elif path.suffix.lower() in (".jsonl", ".json", ".csv") and path.is_file():
        _from_metadata(path, path.parent, corpus)
    elif path.is_file():
        _add(corpus, str(path), {})
    elif "/" in name and not path.exists() and not name.startswith((".", "/", "~")) and name.count("/") == 1:
        _from_dataset(name, key, corpus)
    else:
        raise UserError(f"{key}={name}: no such file or folder")


def _from_folder(folder: Path, corpus: Corpus) -> None:
    """Every audio file below ``folder``, at any depth, linked folders too (each once), hidden ones left out."""
    seen, paths = set(), []
    for at, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        real = os.path.realpath(at)
        if real in seen:  # a link in a loop, or a second link to the same
            folders.clear()
            continue
        seen.add(real)
        paths += [Path(at, name) for name in names if not name.startswith(".")]
    for path in sorted(paths):
        if path.suffix.lower() in EXTENSIONS and path.is_file():
            _add(corpus, str(path), {})


def _metadata(folder: Path, key: str) -> Path:
    for name in ("metadata.jsonl", "metadata.csv"):
        if (folder / name).is_file():
            return folder / name
    splits = sorted(p.parent.name for p in folder.glob("*/metadata.*"))
    hint = (
        f"; did you mean {key}={folder}/{splits[0]}?" if splits else ": a metadata.jsonl or .csv is needed for labels"
    )
    raise UserError(f"{key}={folder}: no metadata.jsonl in it{hint}")


def _from_metadata(path: Path, root: Path, corpus: Corpus) -> None:
    """The rows of a manifest; each names its audio relative to the manifest's folder."""
    for number, row in _rows(path):
        name = next((row[k] for k in AUDIO_KEYS if isinstance(row.get(k), str) and row[k]), None)
        if name is None:
            raise UserError(f"{path}:{number}: the row names no audio; it needs one of {', '.join(AUDIO_KEYS)}")
        if not (root / name).is_file():
            raise UserError(f"{path}:{number}: {name} is not there (looked in {root})")
        _add(corpus, str(root / name), row, where=f"{path}:{number}")


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        yield from _parsed_rows(path)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason}); save it as UTF-8") from error
    except csv.Error as error:
        raise UserError(f"{path}: not CSV that can be read ({error})") from error


def _parsed_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        if path.suffix.lower() == ".csv":
            yield from enumerate(csv.DictReader(file), start=2)
            return
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise UserError(f"{path}:{number}: not JSON ({error})") from error
            if not isinstance(row, dict):
                raise UserError(f"{path}:{number}: a row must be an object with keys such as file_name")
            yield number, row


def _from_dataset(name: str, key: str, corpus: Corpus) -> None:
    """A datasets directory or hub name, undecoded: soundfile reads the stored bytes when they are needed."""
    import datasets

    try:
        table: Any = (
            datasets.load_from_disk(name) if Path(name).is_dir() else datasets.load_dataset(name, split="train")
        )
    except (OSError, ValueError, RuntimeError, ImportError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{key}={name}: no such folder, and no data set of that name could be loaded ({reason})"
        ) from error
    if isinstance(table, datasets.DatasetDict):
        splits = ", ".join(table)
        raise UserError(f"{key}={name}: has splits ({splits}); name one, such as {key}={name}/{next(iter(table))}")
    column = next((n for n, f in table.features.items() if isinstance(f, datasets.Audio)), None)
    if column is None:
        raise UserError(f"{key}={name}: no audio column among {', '.join(table.features)}")
    labels = {n: f.int2str for n, f in table.features.items() if isinstance(f, datasets.ClassLabel)}
    audio = table.cast_column(column, datasets.Audio(decode=False)).select_columns([column])
    if column != "audio":
        audio = audio.rename_column(column, "audio")
    others = table.remove_columns([column])
    for row in range(len(table)):
        values = others[row] if others.column_names else {}
        for n, name_of in labels.items():
            known = values[n] is not None and values[n] >= 0  # -1 stands for a label that is kept secret
            values[n] = name_of(values[n]) if known else None
        _add(corpus, f"{name}[{row}]", values, audio, row)


def _stored(table: Any, row: int, path: str) -> Any:
    """What soundfile opens: the path itself, or a table row's bytes or path."""
    if table is None:
        return path
    stored = table[row]["audio"]
    return io.BytesIO(stored["bytes"]) if stored["bytes"] is not None else stored["path"]


def _add(
    corpus: Corpus, source: str, row: dict[str, Any], table: Any = None, number: int = 0, where: str | None = None
) -> None:
    """Append one utterance, or count why not. ``where`` the row stands, for messages."""
    try:
        frames, rate = audio_length(_stored(table, number, source))
    except UserError as error:
        return corpus.skip(source, str(error))
    start_s = _seconds(row, "offset", where or source) or 0.0
    duration_s = frames / rate - start_s
    if row.get("offset") is not None:
        duration_s = min(duration_s, _seconds(row, "duration", where or source) or duration_s)
    if duration_s <= 0:
        return corpus.skip(source, f"{source}: no audio in it")
    text = next((str(row[k]) for k in TEXT_KEYS if row.get(k) is not None), None)
    label = next((str(row[k]) for k in LABEL_KEYS if row.get(k) is not None), None)
    corpus.utterances.append(Utterance(source, duration_s, start_s, text, label, table, number))
    return None


def _seconds(row: dict[str, Any], key: str, where: str) -> float | None:
    value = row.get(key)
    if value is None or value == "":
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise UserError(f"{where}: {key}={value!r} is not a number of seconds")
    return seconds
