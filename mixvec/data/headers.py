"""Reading the headers of a source's audio: several files at a time, and only those that are not in the index.

Threads, not processes: libsndfile and the file system work outside the interpreter's lock, and most of the time is
spent waiting for a disk or a network.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from ..audio import AudioHeader, audio_header
from ..errors import UserError, redacted
from .index import Entries, Entry, IndexLock, index_path, load_index, save_index
from .readers.archives import TarMember
from .readers.parquet import ParquetRow
from .readers.ranges import RemoteFile, is_url, state
from .readers.rows import Fault, Row, Rows, Stored

THREADS = 16
BATCH_ROWS = 64
REMOTE_THREADS, REMOTE_BATCH_ROWS = 48, 8
SILENT_S, TERMINAL_EVERY_S, LOG_EVERY_S = 3.0, 0.5, 10.0

Place = tuple[str, int]
"""The key of an entry of the index: absolute path and offset."""
Looked = list[tuple[Place, Entry | UserError]]


def with_headers(rows: Rows, source: str, labels: bool) -> Iterator[tuple[Row, AudioHeader] | Fault]:
    """The rows of ``source`` in their order, each with its header; a fault in place of those that have none.

    The headers are written to the index of ``source`` at the end, or when interrupted. Where another process scans the
    source, this one waits for its index.
    """
    with closing(IndexLock(index_path(source, labels), redacted(source))) as lock:
        yield from _with_headers(rows, source, lock)


def _with_headers(rows: Rows, source: str, lock: IndexLock) -> Iterator[tuple[Row, AudioHeader] | Fault]:
    threads, batch_rows = (REMOTE_THREADS, REMOTE_BATCH_ROWS) if is_url(source) else (THREADS, BATCH_ROWS)
    old: Entries = {}
    found: dict[Place, Entry | UserError] = {}
    asked: set[Place] = set()
    progress, whole, loaded = Progress("scanned", "utterances"), False, False
    waiting: deque[tuple[list[Row | Fault], Future[Looked] | None]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="headers")
    rows = iter(rows)
    try:
        while True:
            batch = list(islice(rows, batch_rows))
            jobs = _jobs(batch, asked)
            if jobs and not loaded:
                lock.acquire()
                old, loaded = load_index(lock.path), True
            asked.update(jobs)
            waiting.append((batch, pool.submit(_look, jobs, old) if jobs else None))
            while waiting and (len(waiting) > 4 * threads or not batch):
                ready, future = waiting.popleft()
                found.update(future.result() if future else [])
                progress.add(len(ready))
                yield from (_with_header(row, found) for row in ready)
            if not batch:
                break
        whole = True
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        progress.close()
        for future in [future for _, future in waiting if future and future.done() and not future.cancelled()]:
            found.update([] if future.exception() else future.result())
        _keep(lock.path, old, {place: entry for place, entry in found.items() if isinstance(entry, Entry)}, whole)


def _jobs(batch: list[Row | Fault], asked: set[Place]) -> dict[Place, Row]:
    """The rows whose headers are to be read, each file once, as a long one may be in many rows."""
    jobs = {}
    for row in batch:
        if isinstance(row, Row):
            place = _place(row)
            if place is not None and place not in asked:
                jobs[place] = row
    return jobs


def _keep(path: Path | None, old: Entries, new: Entries, whole: bool) -> None:
    """Write the index where it has changed. A source of one file needs none, once it is complete.

    A remote file is opened again next time where nothing tells its versions apart.
    """
    new = {place: entry for place, entry in new.items() if entry.mtime_ns != -1}
    if not whole:
        new = old | new
    same = len(new) == len(old) and all(old.get(place) is entry for place, entry in new.items())
    if not same and (len(new) > 1 or not whole):
        save_index(path, new)


def _place(row: Row) -> Place | None:
    """The index key of the audio of a row; None for what is not indexed, a data set on disk."""
    if row.stored is None:
        return row.source if row.source.startswith("/") else os.path.abspath(row.source), -1
    offset = row.stored.offset if isinstance(row.stored, TarMember | ParquetRow) else -1
    if (url := _url(row)) is None:
        return (os.path.abspath(row.stored.path), offset) if isinstance(row.stored, TarMember | ParquetRow) else None
    shown = redacted(url)  # the index keeps no secrets, but tells such URLs apart
    return (url if shown == url else f"{shown}#{hashlib.sha256(url.encode()).hexdigest()[:16]}"), offset


def _url(row: Row) -> str | None:
    """The remote file that holds the row; None where it is on disk."""
    if isinstance(row.stored, RemoteFile):
        return row.stored.url
    return row.stored.path if isinstance(row.stored, TarMember | ParquetRow) and is_url(row.stored.path) else None


def _look(jobs: dict[Place, Row], old: Entries) -> Looked:
    """In a thread: the entry of each file, the old one where size and mtime are the same, or why there is none."""
    looked: Looked = []
    for place, row in jobs.items():
        try:
            size, mtime_ns = _state(row, place[0])  # before it is opened: a change after that will be noticed
            known = old.get(place)
            if known is not None and (known.size, known.mtime_ns) == (size, mtime_ns):
                looked.append((place, known))
                continue
            looked.append((place, Entry(size, mtime_ns, _header(row))))
        except UserError as error:
            looked.append((place, error))
    return looked


def _state(row: Row, path: str) -> tuple[int, int]:
    """Size in bytes and mtime in ns of the file that holds the row; for a remote one its version."""
    if isinstance(row.stored, RemoteFile) and row.stored.version >= 0:
        return row.stored.size, row.stored.version
    if (url := _url(row)) is not None:
        return state(url)
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return -1, -1  # opening it will say why
    return found.st_size, found.st_mtime_ns


def _with_header(row: Row | Fault, found: dict[Place, Entry | UserError]) -> tuple[Row, AudioHeader] | Fault:
    if isinstance(row, Fault):
        return row
    place = _place(row)
    if place is not None:
        entry = found[place]
        if isinstance(entry, UserError):
            return Fault(row.source, str(entry))
        if isinstance(row.stored, RemoteFile) and row.stored.size < 0:
            row = replace(row, stored=replace(row.stored, size=entry.size))
        return row, entry.header
    try:
        return row, _header(row)
    except UserError as error:
        return Fault(row.source, str(error))


def _header(row: Row) -> AudioHeader:
    if row.look is not None:
        try:
            return row.look()
        except UserError as error:
            raise UserError(str(error).replace("stored audio", row.source, 1)) from error
    with opened(row.source, row.stored) as file:
        return audio_header(file)


@contextmanager
def opened(source: str, stored: Stored | None) -> Iterator[str | BinaryIO]:
    """What libsndfile opens. Errors of stored audio are reported under the name ``source``."""
    if stored is None:
        yield source
        return
    try:
        with stored.open() as file:
            calls = _Calls(file)
            try:
                yield calls  # type: ignore[misc]
            finally:
                if calls.error is not None:
                    raise calls.error
    except OSError as error:
        raise UserError(f"{source}: cannot be opened ({error.strerror or error})") from error
    except UserError as error:
        raise UserError(str(error).replace("stored audio", source, 1)) from error


class _Calls:
    """A file as libsndfile calls it. Nothing can be raised through its code, so a read that fails ends the file."""

    def __init__(self, file: BinaryIO) -> None:
        self.seek, self.tell, self.read, self.file = file.seek, file.tell, file.read, file
        self.error: Exception | None = None

    def readinto(self, buffer: memoryview) -> int:
        try:
            return self.file.readinto(buffer)  # type: ignore[attr-defined, no-any-return]
        except (UserError, OSError) as error:
            self.error = error
            return 0


class Progress:
    """A line on stderr once work takes seconds: updated in place on a terminal, every ten seconds elsewhere."""

    def __init__(self, what: str, unit: str) -> None:
        self.what, self.unit = what, unit
        self.count, self.started_s, self.terminal = 0.0, time.monotonic(), sys.stderr.isatty()
        self.next_s = self.started_s + (SILENT_S if self.terminal else LOG_EVERY_S)
        self.speaks, self.spoke = os.environ.get("RANK", "0") == "0", False

    def add(self, count: float) -> None:
        self.count += count
        if self.speaks and time.monotonic() >= self.next_s:
            self._say("" if self.terminal else "\n")
            self.next_s = time.monotonic() + (TERMINAL_EVERY_S if self.terminal else LOG_EVERY_S)

    def close(self) -> None:
        if self.spoke:
            self._say("\n")

    def _say(self, end: str) -> None:
        self.spoke, spent_s = True, time.monotonic() - self.started_s
        line = (f"{self.what} {self.count:,.0f} {self.unit} in {spent_s:.0f} s, "
                f"{self.count / max(spent_s, 1e-9):,.0f} a second")  # fmt: skip
        print("\r" + line if self.terminal else line, end=end, file=sys.stderr, flush=True)
