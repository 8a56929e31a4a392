"""Parquet files with audio in a column, read group by group of rows; the stored audio is never decoded here.

One row costs unpacking its group up to that row, so groups of about a hundred rows, as on the hub, are best. The audio
is read through once, for the headers, and not again while the index has them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import chain, count, repeat
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

from ...audio import AudioHeader, audio_header
from ...errors import UserError
from .files import shards_in
from .remote import AnyPath, located
from .rows import AUDIO_KEYS, Reader, Row, Rows, Shard, Stored, Wanted, named
from .tables import class_names, columns, held, opened, reason

PAGE_BYTES = 1 << 16
ROWS_AT_ONCE = 8


@dataclass(frozen=True)
class ParquetColumn:
    """The audio column of a Parquet file, whose places are group << 32 | number in the group."""

    path: str
    column: str

    def open(self, place: int, size: int) -> BinaryIO:
        left = place & (1 << 32) - 1
        for batch in _batches(located(self.path), place >> 32, [self.column]):
            if left < len(batch):
                return opened(batch.column(0)[left].as_py())
            left -= len(batch)
        raise UserError(f"{self.path}: has changed since it was indexed")


def parquet_rows(path: AnyPath, labels: bool = False) -> Rows:
    """A Parquet file with an ``audio`` struct of bytes or path, whatever the column's name."""
    import datasets

    with _parquet(path) as file:
        schema = file.schema_arrow
        try:
            in_words = class_names(datasets.Features.from_arrow_schema(schema))
        except (ValueError, TypeError, KeyError):  # types or metadata that datasets does not know
            in_words = class_names({})
        column, numbers = _audio_column(path, schema), count()
        holder, others = ParquetColumn(str(path), column), columns(schema, column, labels)
        for group in range(file.num_row_groups):
            headers = _Headers(path, column, group)
            for at, values in enumerate(_values(file, group, others)):
                source = f"{path}[{next(numbers)}]"
                stored, look = Stored(holder, group << 32 | at), partial(headers.of, at, source)
                yield Row(source, fields=in_words(values), stored=stored, look=look).labelled()


def parquet_values(path: AnyPath) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a Parquet file that holds no audio, and where each is."""
    with _parquet(path) as file:
        rows = chain.from_iterable(batch.to_pylist() for batch in file.iter_batches(use_threads=False))
        yield from ((f"{path}[{number}]", row) for number, row in enumerate(rows))


def names_audio(path: AnyPath) -> bool:
    """Whether the rows of a Parquet file name their audio and do not hold it."""
    with _parquet(path) as file:
        schema = file.schema_arrow
    names = {column.name for column in schema if str(column.type) in ("string", "large_string")}
    return not any(map(_holds_audio, schema)) and not names.isdisjoint(AUDIO_KEYS)


def streamed_parquet_rows(path: AnyPath) -> Rows:
    """The rows of a Parquet file, each holding the bytes of its audio; without labels."""
    with _parquet(path) as file:
        column, numbers = _audio_column(path, file.schema_arrow), count()
        for batch in file.iter_batches(ROWS_AT_ONCE, columns=[column], use_threads=False):
            for stored in batch.column(0).to_pylist():
                yield held(stored, f"{path}[{next(numbers)}]")


def _holds_audio(column: Any) -> bool:
    return hasattr(column.type, "get_field_index") and column.type.get_field_index("bytes") >= 0


def _audio_column(path: AnyPath, schema: Any) -> str:
    column = next(filter(_holds_audio, schema), None)
    if column is None:
        raise UserError(f"{path}: no audio column in {', '.join(schema.names)}; it needs a struct of bytes and path")
    return str(column.name)


def _values(file: Any, group: int, columns: list[str]) -> Iterator[dict[str, Any]]:
    """The rows of a group, with these columns."""
    if not columns:
        claimed = file.metadata.row_group(group)
        if claimed.num_rows > 1_000 + 8 * claimed.total_byte_size:
            raise ValueError(f"{claimed.num_rows} rows in {claimed.total_byte_size} bytes")
        return repeat({}, claimed.num_rows)
    batches = file.iter_batches(row_groups=[group], columns=columns, use_threads=False)
    return chain.from_iterable(batch.to_pylist() for batch in batches)


class _Headers:
    """The headers of a group's rows, found in one pass over its audio when the first is asked for, in any thread."""

    def __init__(self, path: AnyPath, column: str, group: int) -> None:
        self.read = partial(_batches, path, group, [column])
        self.lock = Lock()
        self.found: list[AudioHeader | UserError] = []

    def of(self, row: int, source: str) -> AudioHeader:
        with self.lock:
            if not self.found:
                try:
                    self.found += (_header(stored) for batch in self.read() for stored in batch.column(0).to_pylist())
                    self.found.append(UserError("stored audio: none in this row"))  # damaged metadata may claim more
                except UserError as error:
                    self.found.append(error)
        found = self.found[min(row, len(self.found) - 1)]
        if isinstance(found, UserError):
            raise UserError(str(found).replace("stored audio", source, 1))
        return found


def _header(stored: Any) -> AudioHeader | UserError:
    try:
        with opened(stored) as file:
            return audio_header(file)
    except (UserError, OSError) as error:
        return UserError(str(error))


def _batches(path: AnyPath, group: int, columns: list[str]) -> Iterator[Any]:
    """The rows of a group, a few at a time, with no more of the file in memory than they need."""
    with _parquet(path) as file:
        yield from file.iter_batches(ROWS_AT_ONCE, row_groups=[group], columns=columns, use_threads=False)


@contextmanager
def _parquet(path: AnyPath) -> Iterator[Any]:
    import pyarrow
    from pyarrow import parquet

    try:
        source = nullcontext(path) if isinstance(path, Path) else path.open("rb")
        with source as opened, parquet.ParquetFile(opened, buffer_size=PAGE_BYTES, pre_buffer=False) as file:
            yield file
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise UserError(f"{path}: not Parquet that can be read ({reason(error)})") from error


def _rows(path: AnyPath, wanted: Wanted) -> Rows:
    return streamed_parquet_rows(path) if wanted.stream else parquet_rows(path, wanted.labels)


def _shards(folder: AnyPath, wanted: Wanted) -> list[Shard]:
    found = (shards_in(folder, wanted, pattern, _rows) for pattern in PATTERNS)
    return next(shards for shards in found if shards)


PATTERNS = ("*.parquet", "data/*.parquet")
PARQUET = Reader("Parquet", "a file with an audio column", "file", named(".parquet"), _rows)
PARQUETS = Reader(
    "Parquet files", "a folder with `*.parquet`, or in `data`", "folder",
    lambda folder, labels: any(any(folder.glob(pattern)) for pattern in PATTERNS), _shards,
)  # fmt: skip
