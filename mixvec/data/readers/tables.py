"""Tables with audio in a column: Hugging Face data sets, on disk or by their hub name, and Parquet files.

The stored bytes are never decoded here. A data set on disk is memory-mapped. A Parquet file is read group by group of
its rows; one row costs unpacking its group up to that row, so groups of about a hundred rows, as the hub has them, do.
Its audio is read through once, for the headers, and not again while the index knows them.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, count, repeat
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

from ...audio import AudioHeader, audio_header
from ...errors import UserError
from .ranges import RemoteFile, is_url
from .remote import located
from .rows import LABEL_KEYS, NESTED_KEYS, TEXT_KEYS, Fault, Row, Rows, labels_of

PAGE_BYTES = 1 << 16
ROWS_AT_ONCE = 8


@dataclass(frozen=True)
class TableRow:
    """A row of a memory-mapped table whose only column is ``audio``, undecoded."""

    table: Any = field(repr=False)
    row: int

    @property
    def path(self) -> str | None:
        """The first file of the table; None where it lies in memory."""
        return next((file["filename"] for file in self.table.cache_files), None)

    def open(self) -> BinaryIO:
        return _opened(self.table[self.row]["audio"])


@dataclass(frozen=True)
class ParquetRow:
    """A row of a Parquet file: its group, and its place in the group."""

    path: str
    column: str
    group: int
    row: int

    @property
    def offset(self) -> int:
        """Its place in the file, for the index."""
        return self.group << 32 | self.row

    def open(self) -> BinaryIO:
        left = self.row
        for batch in _batches(located(self.path), self.group, [self.column]):
            if left < len(batch):
                return _opened(batch.column(0)[left].as_py())
            left -= len(batch)
        raise UserError(f"{self.path}: has changed since it was looked at: no row {self.row} in group {self.group}")


@dataclass(frozen=True)
class Held:
    """Audio whose bytes are at hand, as a stream brings them."""

    data: bytes = field(repr=False)

    def open(self) -> BinaryIO:
        return io.BytesIO(self.data)


def _opened(stored: Any) -> BinaryIO:
    """What an ``audio`` struct holds: the bytes, or the path of a file."""
    if not isinstance(stored, dict) or (stored.get("bytes") is None and not stored.get("path")):
        raise UserError("stored audio: none in this row")
    if stored.get("bytes") is not None:
        return io.BytesIO(stored["bytes"])
    return RemoteFile(stored["path"]).open() if is_url(stored["path"]) else open(stored["path"], "rb")


def dataset_rows(name: str, key: str, labels: bool = False) -> Rows:
    """A datasets directory, an ``.arrow`` file of one, or a data set of the hub: ``org/name``, its only or default
    config and ``train``, or ``org/name:config/split``. From the hub, datasets copies it into its own cache."""
    import datasets

    table = _load(name, key)
    if isinstance(table, datasets.DatasetDict):
        splits = ", ".join(table)
        raise UserError(f"{key}={name}: has splits ({splits}); name one, such as {key}={name}/{next(iter(table))}")
    audio, column = _audio_alone(table, name, key)
    names = _class_names(table.features)
    others = table.select_columns(_columns(table.features.arrow_schema, column, labels))
    for row in range(len(table)):
        fields = _named(others[row], names) if others.column_names else {}
        text, label = labels_of(fields)
        yield Row(f"{name}[{row}]", text=text, label=label, fields=fields, stored=TableRow(audio, row))


def streamed_parts(name: str, key: str) -> list[Rows]:
    """A data set of the hub, shard by shard, its audio fetched as it is read and held as bytes; without labels."""
    table = _load(name, key, stream=True)
    audio, _ = _audio_alone(table, name, key)
    return [_streamed(audio.shard(table.num_shards, shard), f"{name}[{shard}]") for shard in range(table.num_shards)]


def _streamed(shard: Any, name: str) -> Rows:
    import datasets

    try:
        for number, row in enumerate(shard):
            yield _held(row["audio"], f"{name}[{number}]")
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise UserError(f"{name}: could not be read on ({_reason(error)}); the same command goes on from the last "
                        "checkpoint") from error  # fmt: skip


def _audio_alone(table: Any, name: str, key: str) -> tuple[Any, str]:
    """A table with its audio column alone, undecoded and called ``audio``; and what it was called."""
    import datasets

    features = table.features or table._resolve_features().features
    column = next((n for n, f in features.items() if isinstance(f, datasets.Audio)), None)
    if column is None:
        raise UserError(f"{key}={name}: no audio column among {', '.join(features)}")
    audio = table.cast_column(column, datasets.Audio(decode=False)).select_columns([column])
    return (audio if column == "audio" else audio.rename_column(column, "audio")), column


def _load(name: str, key: str, *, stream: bool = False) -> Any:
    import datasets

    local = Path(name).exists()
    try:
        if name.endswith(".arrow"):
            table = datasets.Dataset.from_file(name)
        elif local:
            table = datasets.load_from_disk(name)
        else:
            repo, _, part = name.partition(":")
            config, _, split = part.partition("/")
            table = datasets.load_dataset(repo, config or None, split=split or "train", streaming=stream)
        if isinstance(table, datasets.Dataset):
            table.data.validate(full=True)  # offsets that lie would crash the process; audio itself is not looked at
        return table
    except Exception as error:  # where its files are damaged, datasets raises whatever comes first
        why = "not a data set" if local else "no such folder, and no data set of that name"
        why += f" that can be loaded ({_reason(error)})"
        if isinstance(error, datasets.exceptions.DatasetGenerationError) and not local:
            why += f"; its files can be read in place: {key}=hf://datasets/{name.partition(':')[0]}"
        raise UserError(f"{key}={name}: {why}") from error


def _class_names(features: Any) -> dict[str, Callable[[int], str]]:
    import datasets

    return {n: f.int2str for n, f in features.items() if isinstance(f, datasets.ClassLabel)}


def _named(values: dict[str, Any], names: dict[str, Callable[[int], str]]) -> dict[str, Any]:
    """Numbered classes by their names; -1 stands for a label that is kept secret."""
    known = {n: names[n](v) if v is not None and v >= 0 else None for n, v in values.items() if n in names}
    return values | known


def parquet_rows(path: Path, labels: bool = False) -> Rows:
    """A Parquet file with an ``audio`` struct of bytes or path, whatever the column's name."""
    import datasets

    with _parquet(path) as file:
        schema = file.schema_arrow
        try:
            names = _class_names(datasets.Features.from_arrow_schema(schema))
        except (ValueError, TypeError, KeyError):  # types that datasets does not know, or metadata that is not its own
            names = {}
        column, numbers = _audio_column(path, schema), count()
        others = _columns(schema, column, labels)
        for group in range(file.num_row_groups):
            headers = _Headers(path, column, group)
            for at, values in enumerate(_values(file, group, others)):
                fields = _named(values, names)
                text, label = labels_of(fields)
                stored = ParquetRow(str(path), column, group, at)
                yield Row(
                    f"{path}[{next(numbers)}]", text=text, label=label, fields=fields, stored=stored,
                    look=partial(headers.of, at),
                )  # fmt: skip


def streamed_parquet_rows(path: Path) -> Rows:
    """The same, each row holding its audio's bytes, for one who reads it but once; without labels."""
    with _parquet(path) as file:
        column, numbers = _audio_column(path, file.schema_arrow), count()
        for batch in file.iter_batches(ROWS_AT_ONCE, columns=[column], use_threads=False):
            for stored in batch.column(0).to_pylist():
                yield _held(stored, f"{path}[{next(numbers)}]")


def _audio_column(path: Path, schema: Any) -> str:
    for column in schema:
        if hasattr(column.type, "get_field_index") and column.type.get_field_index("bytes") >= 0:
            return str(column.name)
    raise UserError(f"{path}: no audio column in {', '.join(schema.names)}; it needs a struct of bytes and path")


def _columns(schema: Any, audio: str, labels: bool) -> list[str]:
    """What is read beside the audio: texts and labels; where these are needed, every plain column, and nested slots."""
    known = {*TEXT_KEYS, *LABEL_KEYS, *(NESTED_KEYS if labels else ())} - {audio}
    plain = {c.name for c in schema if labels and not c.type.num_fields and "binary" not in str(c.type)} - {audio}
    return [name for name in schema.names if name in known | plain]


def _held(stored: Any, source: str) -> Row | Fault:
    try:
        with _opened(stored) as file:
            return Row(source, stored=Held(file.read()))
    except (UserError, OSError) as error:
        return Fault(source, str(error).replace("stored audio", source, 1))


def _values(file: Any, group: int, columns: list[str]) -> Iterator[dict[str, Any]]:
    """The rows of a group, in these columns."""
    if not columns:
        claimed = file.metadata.row_group(group)
        if claimed.num_rows > 1_000 + 8 * claimed.total_byte_size:
            raise ValueError(f"{claimed.num_rows} rows in {claimed.total_byte_size} bytes")
        return repeat({}, claimed.num_rows)
    batches = file.iter_batches(row_groups=[group], columns=columns, use_threads=False)
    return chain.from_iterable(batch.to_pylist() for batch in batches)


class _Headers:
    """The headers of a group's rows, found in one pass over its audio when the first is asked for, in any thread."""

    def __init__(self, path: Path, column: str, group: int) -> None:
        self.path, self.column, self.group = path, column, group
        self.lock = Lock()
        self.found: list[AudioHeader | UserError] | UserError | None = None

    def of(self, row: int) -> AudioHeader:
        with self.lock:
            if self.found is None:
                self.found = self._pass()
        found: AudioHeader | UserError
        if isinstance(self.found, UserError):
            found = self.found
        else:  # the file's metadata may claim more rows than there are
            found = self.found[row] if row < len(self.found) else UserError("stored audio: none in this row")
        if isinstance(found, UserError):
            raise UserError(str(found))
        return found

    def _pass(self) -> list[AudioHeader | UserError] | UserError:
        found: list[AudioHeader | UserError] = []
        try:
            for batch in _batches(self.path, self.group, [self.column]):
                found += map(_header, batch.column(0).to_pylist())
        except UserError as error:
            return error
        return found


def _header(stored: Any) -> AudioHeader | UserError:
    try:
        with _opened(stored) as file:
            return audio_header(file)
    except (UserError, OSError) as error:
        return UserError(str(error))


def _batches(path: Path, group: int, columns: list[str]) -> Iterator[Any]:
    """A few rows at a time, and no more of the file in memory than they need."""
    with _parquet(path) as file:
        yield from file.iter_batches(ROWS_AT_ONCE, row_groups=[group], columns=columns, use_threads=False)


@contextmanager
def _parquet(path: Path) -> Iterator[Any]:
    import pyarrow
    from pyarrow import parquet

    try:
        source = nullcontext(path) if isinstance(path, Path) else path.open("rb")
        with source as opened, parquet.ParquetFile(opened, buffer_size=PAGE_BYTES, pre_buffer=False) as file:
            yield file
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise UserError(f"{path}: not Parquet that can be read ({_reason(error)})") from error


def _reason(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
