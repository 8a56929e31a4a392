"""Hugging Face data sets, on disk or by their hub name. The stored audio is never decoded here."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from ...errors import UserError
from .ranges import is_url, opened_audio
from .remote import AnyPath, RemotePath
from .rows import LABEL_KEYS, NESTED_KEYS, TEXT_KEYS, Fault, Reader, Row, Rows, Shard, Stored, Wanted, named

HUB_NAME = re.compile(r"\w[\w.-]*/[\w.-]+(:[\w.+-]*(/[\w.+-]+)?)?")


@dataclass(frozen=True, eq=False)
class Table:
    """A memory-mapped table whose only column is ``audio``, undecoded."""

    table: Any

    @property
    def path(self) -> str | None:
        return next((file["filename"] for file in self.table.cache_files), None)

    def open(self, place: int, size: int) -> BinaryIO:
        return opened(self.table[place]["audio"])


@dataclass(frozen=True, eq=False)
class Held:
    """Audio held as bytes, as a stream delivers it."""

    data: bytes
    path: ClassVar[None] = None

    def open(self, place: int, size: int) -> BinaryIO:
        return io.BytesIO(self.data)


def opened(stored: Any) -> BinaryIO:
    """The audio of an ``audio`` struct, which holds the bytes, or the path of a file."""
    if not isinstance(stored, dict) or (stored.get("bytes") is None and not stored.get("path")):
        raise UserError("stored audio: none in this row")
    if stored.get("bytes") is not None:
        return io.BytesIO(stored["bytes"])
    return opened_audio(stored["path"], 0, -1) if is_url(stored["path"]) else open(stored["path"], "rb")


def dataset_rows(name: str, key: str, labels: bool = False) -> Rows:
    """A datasets directory, an ``.arrow`` file of one, or a data set of the hub: ``org/name``, its only or default
    config and ``train``, or ``org/name:config/split``. From the hub, datasets copies it into its own cache."""
    import datasets

    table = _load(name, key)
    if isinstance(table, datasets.DatasetDict):
        splits = ", ".join(table)
        raise UserError(f"{key}={name}: has splits ({splits}); name one, such as {key}={name}/{next(iter(table))}")
    audio, column = _audio_alone(table, name, key)
    holder, in_words = Table(audio), class_names(table.features)
    others = table.select_columns(columns(table.features.arrow_schema, column, labels))
    for row in range(len(table)):
        fields = in_words(others[row]) if others.column_names else {}
        yield Row(f"{name}[{row}]", fields=fields, stored=Stored(holder, row)).labelled()


def streamed_shards(name: str, key: str) -> list[Shard]:
    """A data set of the hub, shard by shard, its audio fetched as it is read and held as bytes; without labels."""
    import datasets

    def rows(shard: Any, shown: str) -> Rows:
        try:
            for number, row in enumerate(shard):
                yield held(row["audio"], f"{shown}[{number}]")
        except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
            raise UserError(f"{shown}: the rest cannot be read ({reason(error)}); the same command resumes from the "
                            "last checkpoint") from error  # fmt: skip

    table = _load(name, key, stream=True)
    audio, _ = _audio_alone(table, name, key)
    shards = [(audio.shard(table.num_shards, number), f"{name}[{number}]") for number in range(table.num_shards)]
    return [Shard(shown, rows(shard, shown)) for shard, shown in shards]


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
            table.data.validate(full=True)  # wrong offsets would crash the process; the audio itself is not read
        return table
    except Exception as error:  # where its files are damaged, datasets raises any kind of error
        why = "not a data set" if local else "no such folder, and no data set of that name"
        why += f" that can be loaded ({reason(error)})"
        if isinstance(error, datasets.exceptions.DatasetGenerationError) and not local:
            why += f"; its files can be read in place: {key}=hf://datasets/{name.partition(':')[0]}"
        raise UserError(f"{key}={name}: {why}") from error


def class_names(features: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """What replaces the class numbers of a row by their names; -1 marks a label that is not public."""
    import datasets

    names = {n: f.int2str for n, f in features.items() if isinstance(f, datasets.ClassLabel)}

    def in_words(row: dict[str, Any]) -> dict[str, Any]:
        numbers = {n: row[n] for n in names if n in row}
        return row | {n: None if number is None or number < 0 else names[n](number) for n, number in numbers.items()}

    return in_words


def columns(schema: Any, audio: str, labels: bool) -> list[str]:
    """The columns read beside the audio: texts and labels; where needed, all plain columns and nested slots."""
    known = {*TEXT_KEYS, *LABEL_KEYS, *(NESTED_KEYS if labels else ())} - {audio}
    plain = {c.name for c in schema if labels and not c.type.num_fields and "binary" not in str(c.type)} - {audio}
    return [name for name in schema.names if name in known | plain]


def held(stored: Any, source: str) -> Row | Fault:
    try:
        with opened(stored) as file:
            return Row(source, stored=Stored(Held(file.read())))
    except (UserError, OSError) as error:
        return Fault(source, str(error).replace("stored audio", source, 1))


def reason(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _on_disk(path: AnyPath, wanted: Wanted) -> Rows:
    if isinstance(path, RemotePath):
        raise UserError(f"{wanted.key}={path}: a datasets directory is mapped into memory, so it has to be on disk; "
                        "copy it, or write it as Parquet (to_parquet) and name that")  # fmt: skip
    return dataset_rows(str(path), wanted.key, wanted.labels)


DATASET = Reader(
    "datasets directory", "a folder written by `save_to_disk`", "folder",
    lambda folder, labels: any((folder / f"dataset_{kind}.json").exists() for kind in ("info", "dict")), _on_disk,
)  # fmt: skip
ARROW = Reader("Arrow", "an `.arrow` file of a datasets directory", "file", named(".arrow"), _on_disk)
HUB = Reader(
    "Hugging Face hub", "`org/name`, its only or default config and `train`; or `org/name:config/split`", "name",
    lambda path, labels: HUB_NAME.fullmatch(str(path)) is not None,
    lambda path, wanted: (
        streamed_shards(str(path), wanted.key) if wanted.stream else dataset_rows(str(path), wanted.key, wanted.labels)
    ),
)  # fmt: skip
