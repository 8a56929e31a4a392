"""Tables with audio in a column: Hugging Face data sets, on disk or by their hub name, and Parquet files.

The stored bytes are never decoded here. A data set on disk is memory-mapped. A Parquet file is read group by group of
its rows; one row costs unpacking its group up to that row, so groups of about a hundred rows, as the hub has them, do.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from mixvec import UserError
from mixvec.audio import audio_header

from .rows import LABEL_KEYS, TEXT_KEYS, Fault, Row, Rows, labels_of

PAGE_BYTES = 1 << 16
ROWS_AT_ONCE = 8


@dataclass(frozen=True)
class TableRow:
    """A row of a memory-mapped table whose only column is ``audio``, undecoded."""

    table: Any = field(repr=False)
    row: int

    def open(self) -> BinaryIO:
        return _opened(self.table[self.row]["audio"])


@dataclass(frozen=True)
class ParquetRow:
    """A row of a Parquet file: its group, and its place in the group."""

    path: str
    column: str
    group: int
    row: int

    def open(self) -> BinaryIO:
        left = self.row
        for batch in _batches(Path(self.path), self.group, [self.column]):
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
    return io.BytesIO(stored["bytes"]) if stored.get("bytes") is not None else open(stored["path"], "rb")


def dataset_rows(name: str, key: str) -> Rows:
    """A datasets directory, an ``.arrow`` file of one, or a data set of the hub."""
    import datasets

    table = _load(name, key)
    if isinstance(table, datasets.DatasetDict):
        splits = ", ".join(table)
        raise UserError(f"{key}={name}: has splits ({splits}); name one, such as {key}={name}/{next(iter(table))}")
    audio, column = _audio_alone(table, name, key)
    names = _class_names(table.features)
    others = table.select_columns([n for n in table.column_names if n in (*TEXT_KEYS, *LABEL_KEYS) and n != column])
    for row in range(len(table)):
        text, label = labels_of(_named(others[row], names) if others.column_names else {})
        yield Row(f"{name}[{row}]", text=text, label=label, stored=TableRow(audio, row))


def streamed_parts(name: str, key: str) -> list[Rows]:
    """A data set of the hub, shard by shard, its audio fetched as it is read and held as bytes; without labels."""
    table = _load(name, key, stream=True)
    audio, _ = _audio_alone(table, name, key)
    return [_streamed(audio.shard(table.num_shards, shard), f"{name}[{shard}]") for shard in range(table.num_shards)]


def _streamed(shard: Any, name: str) -> Rows:
    import datasets
    import fsspec

    try:
        for number, row in enumerate(shard):
            stored = row["audio"] or {}
            if stored.get("bytes") is None and stored.get("path"):
                with fsspec.open(stored["path"], "rb") as file:
                    stored = {"bytes": file.read()}
            if stored.get("bytes") is None:
                yield Fault(f"{name}[{number}]", f"{name}[{number}]: none in this row")
            else:
                yield Row(f"{name}[{number}]", stored=Held(stored["bytes"]))
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
        if stream:
            return datasets.load_dataset(name, split="train", streaming=True)
        if name.endswith(".arrow"):
            table = datasets.Dataset.from_file(name)
        else:
            table = datasets.load_from_disk(name) if local else datasets.load_dataset(name, split="train")
        if isinstance(table, datasets.Dataset):
            table.data.validate(full=True)  # offsets that lie would crash the process; audio itself is not looked at
        return table
    except Exception as error:  # where its files are damaged, datasets raises whatever comes first
        why = "not a data set" if local else "no such folder, and no data set of that name"
        raise UserError(f"{key}={name}: {why} that can be loaded ({_reason(error)})") from error


def _class_names(features: Any) -> dict[str, Callable[[int], str]]:
    import datasets

    return {n: f.int2str for n, f in features.items() if isinstance(f, datasets.ClassLabel)}


def _named(values: dict[str, Any], names: dict[str, Callable[[int], str]]) -> dict[str, Any]:
    """Numbered classes by their names; -1 stands for a label that is kept secret."""
    known = {n: names[n](v) if v is not None and v >= 0 else None for n, v in values.items() if n in names}
    return values | known


def parquet_rows(path: Path, *, hold: bool = False) -> Rows:
    """A Parquet file with an ``audio`` struct of bytes or path, whatever the column's name.

    With ``hold``, each row holds its audio's bytes, for one who reads it but once.
    """
    import datasets

    with _parquet(path) as file:
        schema, groups = file.schema_arrow, file.num_row_groups
    try:
        names = _class_names(datasets.Features.from_arrow_schema(schema))
    except (ValueError, TypeError, KeyError):  # types that datasets does not know, or metadata that is not its own
        names = {}
    structs = [f.name for f in schema if hasattr(f.type, "get_field_index") and f.type.get_field_index("bytes") >= 0]
    if not structs:
        raise UserError(f"{path}: no audio column in {', '.join(schema.names)}; it needs a struct of bytes and path")
    column, number = structs[0], 0
    columns = [column, *(n for n in schema.names if n in (*TEXT_KEYS, *LABEL_KEYS) and n != column)]
    for group in range(groups):
        at = 0
        for batch in _batches(path, group, columns):
            for values in batch.to_pylist():
                yield _parquet_row(ParquetRow(str(path), column, group, at), values, names, number, hold)
                at, number = at + 1, number + 1


def _parquet_row(
    stored: ParquetRow, values: dict[str, Any], names: dict[str, Any], number: int, hold: bool
) -> Row | Fault:
    source = f"{stored.path}[{number}]"
    try:
        with _opened(values[stored.column]) as file:
            header = audio_header(file)
            held = Held(file.getvalue()) if hold and isinstance(file, io.BytesIO) else None
    except (UserError, OSError) as error:
        return Fault(source, str(error).replace("stored audio", source, 1))
    text, label = labels_of(_named({n: v for n, v in values.items() if n != stored.column}, names))
    return Row(source, text=text, label=label, stored=held or stored, header=header)


def _batches(path: Path, group: int, columns: list[str]) -> Iterator[Any]:
    """A few rows at a time, and no more of the file in memory than they need."""
    with _parquet(path) as file:
        yield from file.iter_batches(ROWS_AT_ONCE, row_groups=[group], columns=columns, use_threads=False)


@contextmanager
def _parquet(path: Path) -> Iterator[Any]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path, buffer_size=PAGE_BYTES, pre_buffer=False) as file:
            yield file
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise UserError(f"{path}: not Parquet that can be read ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
