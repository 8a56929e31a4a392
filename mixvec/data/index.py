"""The index: what the headers of a source's files said, kept so that the next start opens only what has changed.

One Arrow file for each source, in ``$MIXVEC_CACHE/index`` (else ``~/.cache/mixvec/index``), with a row for each file,
tar member or row of Parquet: path, offset (-1: the whole file), size in bytes and mtime in ns of the file (of a remote
one a digest of its etag or time), frames, rate in Hz, channels.
It is a cache and no more: never any audio, and where it is lost, damaged or cannot be kept, files are opened again.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from pathlib import Path
from typing import Any, NamedTuple

from ..atomic import whole_file
from ..audio import AudioHeader
from .readers.ranges import is_url

VERSION = "1"
COLUMNS = ("path", "offset", "size", "mtime_ns", "frames", "rate_hz", "channels")


class Entry(NamedTuple):
    """What was found in a file, and what the file was like then."""

    size: int
    mtime_ns: int
    header: AudioHeader


Entries = dict[tuple[str, int], Entry]
"""By absolute path and, in a tar, the member's offset; -1 for a whole file."""


def cache_path(kind: str, identity: bytes, suffix: str) -> Path | None:
    """A file of the cache; None where there is no home."""
    folder = os.environ.get("MIXVEC_CACHE")
    try:
        cache = Path(folder) if folder else Path.home() / ".cache" / "mixvec"
    except RuntimeError:
        return None
    return cache / kind / (hashlib.sha256(identity).hexdigest()[:32] + suffix)


def index_path(source: str, labels: bool) -> Path | None:
    """Where the index of a source lies, whatever folder it is named from; None where there is no home."""
    name = source if is_url(source) else os.path.abspath(source)
    return cache_path("index", os.fsencode(name) + (b"\0labels" if labels else b""), ".arrow")


def load_index(path: Path | None) -> Entries:
    """What an index holds; nothing where there is none, or none that is whole and of this version."""
    if path is None or not path.is_file():
        return {}
    import pyarrow

    try:
        with pyarrow.ipc.open_file(
            pyarrow.BufferReader(path.read_bytes()), options=pyarrow.ipc.IpcReadOptions(use_threads=False)
        ) as file:
            table = file.read_all()
        table.validate(full=True)
        paths = b"\0".join(table["path"].to_pylist())
        numbers = [table[name].to_numpy() for name in COLUMNS[1:]]
        if table.schema.metadata != _metadata(paths, numbers) or not len(table):
            return {}
        offset, size, mtime_ns, *header = (column.tolist() for column in numbers)
        entries = map(Entry, size, mtime_ns, map(AudioHeader, *header))
        return dict(zip(zip(os.fsdecode(paths).split("\0"), offset, strict=True), entries, strict=True))
    except (OSError, ValueError, KeyError, TypeError, MemoryError, pyarrow.ArrowException):
        return {}


def save_index(path: Path | None, entries: Entries) -> None:
    """Write an index so that others find the old or the new one; where that cannot be, let it be."""
    if path is None:
        return
    import numpy as np
    import pyarrow

    paths = os.fsencode("\0".join(name for name, _ in entries))
    rows = [(offset, *entry[:2], *entry.header) for (_, offset), entry in entries.items()]
    numbers = list(np.array(rows, dtype=np.int64).reshape(len(rows), len(COLUMNS) - 1).T.copy())
    columns = [
        pyarrow.array(paths.split(b"\0") if entries else [], pyarrow.large_binary()),
        *map(pyarrow.array, numbers),
    ]
    table = pyarrow.table(columns, COLUMNS).replace_schema_metadata(_metadata(paths, numbers))
    options = pyarrow.ipc.IpcWriteOptions(compression="zstd", use_threads=False)
    try:
        with whole_file(path) as new, pyarrow.ipc.new_file(str(new), table.schema, options=options) as file:
            file.write_table(table)
    except OSError:  # a full disk, or a folder that may not be written to
        return


def _metadata(paths: bytes, numbers: list[Any]) -> dict[bytes, bytes]:
    """The version, and a checksum of all columns."""
    checksum = zlib.crc32(paths)
    for column in numbers:
        checksum = zlib.crc32(column.tobytes(), checksum)
    return {b"mixvec index": VERSION.encode(), b"crc32": b"%08x" % checksum}
