"""The index: the headers of a source's files, kept so that the next start opens only what has changed.

One file of the cache for each source, with a row for each audio file, tar member or row of Parquet: path, offset (-1:
the whole file), size in bytes and mtime in ns of the file (of a remote one a digest of its etag or time), and its
header. Where the index is lost, damaged or cannot be written, files are opened again.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from ..audio import AudioHeader
from .cache import cache_path, load_arrays, save_arrays
from .readers.ranges import is_url

VERSION = b"2"
PAUSE_S, SILENT_S = 0.2, 3.0


class Entry(NamedTuple):
    """The header of a file, with the file's size and mtime when it was read."""

    size: int
    mtime_ns: int
    header: AudioHeader


Entries = dict[tuple[str, int], Entry]
"""By absolute path and, in a tar, the member's offset; -1 for a whole file."""


def index_path(source: str, labels: bool) -> Path | None:
    """The file of a source's index, from whatever folder it is named; None where there is no home folder."""
    name = source if is_url(source) else os.path.abspath(source)
    return cache_path("index", os.fsencode(name) + (b"\0labels" if labels else b"") + b"\0" + VERSION)


def load_index(path: Path | None) -> Entries:
    """The entries of an index; none where there is no such file, or it is damaged."""
    arrays = load_arrays(path)
    if arrays is None or not arrays["numbers"].size:
        return {}
    paths = os.fsdecode(arrays["paths"].tobytes()).split("\0")
    offset, size, mtime_ns, *header = arrays["numbers"].tolist()
    entries = map(Entry, size, mtime_ns, map(AudioHeader, *header))
    return dict(zip(zip(paths, offset, strict=True), entries, strict=True))


def save_index(path: Path | None, entries: Entries) -> None:
    """Write an index so that other processes find the old or the new one; do nothing where that is not possible."""
    paths = np.frombuffer(os.fsencode("\0".join(name for name, _ in entries)), np.uint8)
    numbers = [(offset, *entry[:2], *entry.header) for (_, offset), entry in entries.items()]
    save_arrays(path, {"paths": paths, "numbers": np.array(numbers, np.int64).T})


class IndexLock:
    """A lock on the index of ``source``: one process opens the files, others on the machine wait for its index.

    The kernel releases it with the process that holds it. Where a file system has no locks, nobody waits.
    """

    def __init__(self, path: Path | None, source: str) -> None:
        self.path, self.source = path, source
        self._file: IO[str] | None = None

    def acquire(self) -> None:
        """Acquire the lock; where another process has it, wait for that one and continue without the lock."""
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.with_suffix(".lock").open("a")
        except OSError:
            return
        if _is_free(self._file, fcntl.LOCK_EX):
            return
        began_s, silent = time.monotonic(), os.environ.get("RANK", "0") != "0"
        while not _is_free(self._file, fcntl.LOCK_SH):
            if not silent and time.monotonic() - began_s > SILENT_S:
                print(f"waiting for another process that scans {self.source}", file=sys.stderr, flush=True)
                silent = True
            time.sleep(PAUSE_S)
        self.close()

    def close(self) -> None:
        """Release the lock, if this process has it."""
        if self._file is not None:
            self._file.close()


def _is_free(lock: IO[str], kind: int) -> bool:
    """Whether the lock could be taken, or there are none here."""
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
