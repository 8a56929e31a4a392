"""The steps that readers share: walking folders, lines of text, JSON and tables, and the files that they name."""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ...errors import UserError
from ...walk import audio_files, passed_over
from ...walk import walk as walk_local
from .ranges import is_url
from .remote import AnyPath
from .rows import SPLIT_NAME, Fault, Row, Rows, Shard, Wanted


def existing(name: str, where: str, *folders: AnyPath) -> str:
    """The path of a file that a manifest names, absolute or in the first of ``folders`` that has it. Remote audio is
    checked later, several files at a time. Raises ``UserError`` where it is not there."""
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
    """A name from a manifest for a message: unchanged if printable and short, else quoted and cut."""
    return name if name.isprintable() and len(name) < 300 else f"{name!r:.300}"


def walk(folder: AnyPath) -> Iterator[AnyPath | Fault]:
    """Every file at any depth, hidden ones left out, and faults for folders that may not be listed; no fixed order."""
    return walk_local(folder) if isinstance(folder, Path) else folder.files_below()


def files_below(folder: AnyPath) -> list[AnyPath]:
    """Every file at any depth, hidden ones left out, in a fixed order."""
    return [found for found in _in_order(folder) if not isinstance(found, Fault)]


def audio_below(folder: AnyPath) -> tuple[list[AnyPath], list[Fault]]:
    """The audio files at any depth, in a fixed order; faults for broken links, special files and folders that cannot be
    listed, and a note on each kind of files that are no audio."""
    found = audio_files(_in_order(folder))
    return found.audio, [*found.faults, *passed_over(folder, found.others)]


def _in_order(folder: AnyPath) -> Iterable[AnyPath | Fault]:
    if not isinstance(folder, Path):
        return folder.files_below()
    return sorted(walk(folder), key=lambda found: () if isinstance(found, Fault) else found.parts)


def rows_below(folder: AnyPath, row_of: Callable[[AnyPath], Row | Fault | list[Row]], key: str = "") -> Rows:
    """The audio at any depth, each file as ``row_of`` has it, whose ``UserError`` is a fault. With the ``key`` that
    names the folder, several splits in it are refused."""
    files, faults = audio_below(folder)
    if key:
        one_split_below(key, folder, files)
    yield from faults
    for file in files:
        try:
            found = row_of(file)
        except UserError as error:
            found = Fault(str(file), str(error).replace("stored audio", str(file), 1))
        yield from found if isinstance(found, list) else [found]


def one_split(key: str, folder: AnyPath, names: list[tuple[str, str]]) -> None:
    """Refuse a folder that holds several splits, so that no test set is trained on; ``names`` are those of what is in
    it, each with the path below ``folder`` that names it alone."""
    found: dict[str, str] = {}
    for name, path in names:
        if split := SPLIT_NAME.match(name.lower()):
            found.setdefault(split[1], path)
    if len(found) > 1:
        raise UserError(f"{key}={folder}: holds several splits ({', '.join(sorted(found))}); name one, such as "
                        f"{key}={folder}/{found.get('train', min(found.values()))}")  # fmt: skip


def one_split_below(key: str, folder: AnyPath, files: list[AnyPath]) -> None:
    """Refuse a folder whose own folders, those that hold these files, are several splits."""
    parents = dict.fromkeys(parent for file in files for parent in file.relative_to(folder).parents if parent.name)
    one_split(key, folder, [(parent.name, str(parent)) for parent in parents])


def text_lines(path: AnyPath) -> Iterator[tuple[str, str]]:
    """The lines of a text file, also of one compressed with gzip, each with ``file:line`` for messages."""
    with _open_text(path) as file:
        for number, line in enumerate(file, start=1):
            yield f"{path}:{number}", line.rstrip("\n")


def keyed_lines(path: AnyPath) -> Iterator[tuple[str, str, str]]:
    """The lines of a text file that begin with a key: ``file:line``, the key, and the rest of the line."""
    for where, line in text_lines(path):
        if parts := line.split(maxsplit=1):
            yield where, parts[0], "".join(parts[1:]).strip()


@contextmanager
def _open_text(path: AnyPath, newline: str | None = None) -> Iterator[IO[str]]:
    try:
        if path.suffix == ".gz":
            packed = path if isinstance(path, Path) else path.open("rb")
            with gzip.open(packed, "rt", encoding="utf-8-sig", newline=newline) as file:
                yield file
        else:
            with path.open("rb") as start:
                wide = start.read(2) in (b"\xff\xfe", b"\xfe\xff")
            with path.open("r", encoding="utf-16" if wide else "utf-8-sig", newline=newline) as file:
                yield file
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason}); save it as UTF-8") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: not gzip that can be read to its end ({error})") from error
    except csv.Error as error:
        raise UserError(f"{path}: not CSV that can be read ({error})") from error
    except PermissionError as error:
        raise UserError(f"{path}: no permission to read it") from error


def json_lines(path: AnyPath) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a file with one on each line, each with ``file:line``."""
    for where, line in text_lines(path):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{where}: not JSON ({error})") from error
            if not isinstance(row, dict):
                raise UserError(f"{where}: a row must be an object with keys such as file_name")
            yield where, row


def table_lines(path: AnyPath) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a table with a header, each with ``file:line``: a CSV, parted by commas, semicolons, tabs or bars, or
    a TSV, where a quote is a quote unless all of a cell is quoted. More cells than the header has are a ``UserError``.
    """
    with _open_text(path, newline="") as file:
        header, bare = file.readline(), path.suffix.lower() == ".tsv"
        delimiter = "\t" if bare else max(",;\t|", key=header.count)
        file.seek(0)
        quoting: Any = csv.QUOTE_NONE if bare else csv.QUOTE_MINIMAL
        reader: Any = csv.DictReader(file, delimiter=delimiter, quoting=quoting, skipinitialspace=delimiter == ",")
        reader.fieldnames = [name.strip() for name in reader.fieldnames or []]
        for row in reader:
            where = f"{path}:{reader.line_num}"
            if None in row:
                many, few = len(reader.fieldnames) + len(row[None]), len(reader.fieldnames)
                raise UserError(f"{where}: {many} cells under a header of {few}: put a text with {delimiter!r} in it "
                                "into double quotes, or write the table as JSON lines")  # fmt: skip
            if bare:
                row = {key: _unquoted(value) for key, value in row.items()}
            yield where, row


def _unquoted(value: str | None) -> str | None:
    """A cell as pandas writes one with a quote in it, ``"a ""b"" c"``, as it was; any other as it is."""
    inner = (value or "")[1:-1]
    quoted = value is not None and value == f'"{inner}"' and '""' in inner and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if quoted else value


def shards_in(folder: AnyPath, wanted: Wanted, pattern: str, rows: Callable[[AnyPath, Wanted], Rows]) -> list[Shard]:
    """The files of a folder that match the pattern, as shards of one split."""
    files: list[AnyPath] = sorted(folder.glob(pattern))
    # train-00000-of-00002.parquet → train-*.parquet
    names = [(f.name, str(f.with_name(re.sub(r"\d.*(?=\.)", "*", f.name)).relative_to(folder))) for f in files]
    one_split(wanted.key, folder, names)
    return [Shard(str(file), rows(file, wanted)) for file in files]
