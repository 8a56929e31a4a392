"""What every reader yields, and the steps that readers share: lines, JSON, tables of text, files that must be there.

A reader is a function from a path to an iterator of ``Row`` and ``Fault``. It raises ``UserError`` for a fault of the
whole source, naming file and line, and yields a ``Fault`` for what concerns one utterance alone.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import os
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from ...audio import EXTENSIONS, AudioHeader
from ...errors import UserError
from .ranges import is_url

TEXT_KEYS = ("text", "transcription", "transcript", "sentence", "normalized_text", "wrd", "words")
LABEL_KEYS = ("intent", "label", "keyword", "command")
SPEAKER_KEYS = ("speaker", "speaker_id", "speakerId", "spk_id", "spk", "client_id", "usrid")
NESTED_KEYS = ("slots", "entities", "tokens")
LONGEST_FIELD = 1000
SPLIT_NAME = re.compile(r"(train|dev|valid|test)(?=$|[^a-z]|ation)")


class Stored(Protocol):
    """Audio inside something larger. It holds names and numbers only: it travels to worker processes."""

    def open(self) -> BinaryIO: ...


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
    """The row itself, where a labelled task may want more of it: who speaks, slots, another label."""
    stored: Stored | None = None
    look: Callable[[], AudioHeader] | None = None
    """How to find its header, where to open ``stored`` for it is a slow way."""


@dataclass(frozen=True)
class Fault:
    """An utterance that is passed over, and why."""

    source: str
    reason: str


Rows = Iterator[Row | Fault]


def labels_of(row: dict[str, Any]) -> tuple[str | None, str | None]:
    """Text and label of a row, from the first key that has one."""
    text = next((str(row[k]) for k in TEXT_KEYS if row.get(k) is not None), None)
    return text, next((str(row[k]) for k in LABEL_KEYS if row.get(k) is not None), None)


def fields_of(row: dict[str, Any] | None) -> dict[str, str]:
    """What a labelled task may want of a row beside its text: plain values as text, slots, entities and
    the tokens that these count as JSON."""
    kept = {}
    for key, value in (row or {}).items():
        if key in NESTED_KEYS and isinstance(value, list | dict):
            kept[str(key)] = json.dumps(value, ensure_ascii=False, default=str)
        if isinstance(value, str | int | float) and key not in TEXT_KEYS and len(text := str(value)) <= LONGEST_FIELD:
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
    """Start and duration of a stretch from ``start`` to ``stop``, in the unit in which they stand."""
    first, last = number_of(start, "start", where), number_of(stop, "end", where)
    if first is None or last is None or last <= first:
        raise UserError(f"{where}: a stretch from {start!s:.100} to {stop!s:.100} has no length")
    return first, last - first


def existing(name: str, where: str, *folders: Path) -> str:
    """The path of a file that a manifest names, absolute or in the first of ``folders`` that has it.

    Whether remote audio is there shows when it is looked at, several files at a time.

    Raises:
        UserError: it is not there; the message names the row and the folders.
    """
    if is_url(name):
        return name
    for folder in folders:
        if not isinstance(folder, Path):
            return str(folder / name)
        path = folder / name
        try:
            if path.is_file():
                return str(path)
        except OSError:  # a name that is too long for any file
            continue
    raise UserError(f"{where}: {shown(name)} is not there (looked in {' and '.join(map(str, folders))})")


def shown(name: str) -> str:
    """What a manifest has for a name, in a message: as it stands, or its beginning where it is none."""
    return name if name.isprintable() and len(name) < 300 else f"{name!r:.300}"


def files_below(folder: Path, faults: list[Fault] | None = None) -> list[Path]:
    """Every file at any depth, in a fixed order; linked folders too (each once), hidden files and folders left out.

    Folders that may not be listed are added to ``faults``.
    """
    if not isinstance(folder, Path):
        return folder.files_below()
    seen, paths, unlisted = set(), [], [] if faults is None else faults

    def note(error: OSError) -> None:
        unlisted.append(Fault(error.filename, f"{error.filename}: cannot be listed ({error.strerror})"))

    for at, folders, names in os.walk(folder, onerror=note, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        real = os.path.realpath(at)
        if real in seen:  # a link in a loop, or a second link to the same
            folders.clear()
            continue
        seen.add(real)
        paths += [Path(at, name) for name in names if not name.startswith(".")]
    return sorted(paths, key=lambda path: path.parts)


def audio_below(folder: Path, faults: list[Fault] | None = None) -> list[Path]:
    """The audio files among ``files_below``; broken links and what else is no file are added to ``faults``."""
    named = [path for path in files_below(folder, faults) if path.suffix.lower() in EXTENSIONS]
    files = [path for path in named if path.is_file()]
    if faults is not None and len(files) < len(named):
        lost = sorted(set(named) - set(files))
        faults += [Fault(str(path), f"{path}: a broken link, or no plain file") for path in lost]
    return files


def one_split(key: str, folder: Path, names: list[tuple[str, str]]) -> None:
    """Refuse a folder whose parts belong to several splits: what is for testing must not be trained on.

    Args:
        names: for each part the name that may state its split, and what to write behind ``folder`` to have it alone.
    """
    found: dict[str, str] = {}
    for name, path in names:
        split = SPLIT_NAME.match(name.lower())
        if split:
            found.setdefault(split[1], path)
    if len(found) > 1:
        raise UserError(f"{key}={folder}: holds several splits ({', '.join(sorted(found))}); name one, such as "
                        f"{key}={folder}/{found.get('train', min(found.values()))}")  # fmt: skip


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file, or of one compressed with gzip, with their numbers from 1.

    Raises:
        UserError: it is not UTF-8, not whole, or may not be read.
    """
    try:
        with _text(path) as file:
            for number, line in enumerate(file, start=1):
                yield number, line.rstrip("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason}); save it as UTF-8") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: not gzip that can be read to its end ({error})") from error
    except PermissionError as error:
        raise UserError(f"{path}: no permission to read it") from error


def _text(path: Path, newline: str | None = None) -> io.TextIOBase:
    if path.suffix == ".gz":
        packed = path if isinstance(path, Path) else path.open("rb")
        return gzip.open(packed, "rt", encoding="utf-8-sig", newline=newline)  # type: ignore[return-value]
    return path.open(encoding="utf-8-sig", newline=newline)


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a file with one on each line, each with ``file:line``."""
    for number, line in numbered_lines(path):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path}:{number}: not JSON ({error})") from error
            if not isinstance(row, dict):
                raise UserError(f"{path}:{number}: a row must be an object with keys such as file_name")
            yield f"{path}:{number}", row


def table_lines(path: Path, delimiter: str = ",") -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a CSV or TSV with a header, each with ``file:line``. A TSV knows no quotes."""
    quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    try:
        with _text(path, newline="") as file:
            reader = csv.DictReader(file, delimiter=delimiter, quoting=quoting, skipinitialspace=delimiter == ",")
            for number, row in enumerate(reader, start=2):
                yield f"{path}:{number}", row
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason}); save it as UTF-8") from error
    except csv.Error as error:
        raise UserError(f"{path}: not CSV that can be read ({error})") from error
    except PermissionError as error:
        raise UserError(f"{path}: no permission to read it") from error
