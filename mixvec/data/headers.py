"""Reading the headers of a source's audio: several files at a time, and only those that the cache does not know.

Threads, not processes: libsndfile and the file system work outside the interpreter's lock, and most of the time is
spent waiting for a disk or a network.
"""

from __future__ import annotations

import os
import struct
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any, BinaryIO

from ..audio import AudioHeader, audio_header
from ..errors import UserError
from .cache import Cache, key_of, scanning
from .readers.ranges import RemoteFile, is_url, state
from .readers.rows import Fault, Row, Rows, Stored
from .readers.tables import Table

THREADS = 16
BATCH_ROWS = 256
REMOTE_THREADS, REMOTE_BATCH_ROWS = 48, 8
HEADER = struct.Struct("<3q")
SILENT_S, LOG_EVERY_S = 3.0, 10.0
KNOWN_PLACES = 1 << 14
"""How many places are remembered besides remote files, as a long file may be in many rows and is opened once."""

Place = tuple[str, int]
"""The file that holds an utterance, as an absolute path or a URL, and where in it; -1: the utterance is the file."""
Looked = dict[Place, tuple[int, AudioHeader] | UserError]
"""The size in bytes and the header of what each place holds, or why there is none."""


def with_headers(rows: Rows, source: str) -> Iterator[tuple[Row, AudioHeader] | Fault]:
    """The rows of ``source`` in their order, each with its header; a fault in place of those that have none. Each
    header is in the cache as soon as it has been read. Where another process scans the source, this one waits."""
    threads, batch_rows = (REMOTE_THREADS, REMOTE_BATCH_ROWS) if is_url(source) else (THREADS, BATCH_ROWS)
    known, most = dict[Place, Future[Looked]](), KNOWN_PLACES
    waiting: deque[list[tuple[Row | Fault, Future[Looked]]]] = deque()
    pool, cache = ThreadPoolExecutor(threads, thread_name_prefix="headers"), Cache()
    with scanning(source), progress_bar("scanned", " utterances") as progress:
        try:
            while True:
                batch = list(islice(rows, batch_rows))
                if len(known) > most:
                    known = {place: known[place] for place in known if place[1] < 0 and is_url(place[0])}
                    most = KNOWN_PLACES + 2 * len(known)
                jobs = {place_of(row): row for row in batch if isinstance(row, Row)}
                jobs = {place: row for place, row in jobs.items() if place not in known}
                future = pool.submit(_look, jobs, cache)
                known |= dict.fromkeys(jobs, future)
                waiting.append([(row, known[place_of(row)] if isinstance(row, Row) else future) for row in batch])
                while waiting and (len(waiting) > 4 * threads or not batch):
                    ready = waiting.popleft()
                    yield from (_with_header(row, looked.result()) for row, looked in ready)
                    progress.update(len(ready))
                if not batch:
                    return
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def place_of(row: Row) -> Place:
    """Where the audio of a row is."""
    path, number = (row.source, -1) if row.stored is None else (row.stored.holder.path or row.source, row.stored.place)
    return (path if path.startswith("/") or is_url(path) else os.path.abspath(path)), number


def content_of(place: Place, stored: Stored | None) -> tuple[int, int]:
    """The size in bytes and the mtime in ns of the file at a place, for a remote one its version; -1 where unknown.
    Raises ``UserError`` where a remote file cannot be reached."""
    holder = stored and stored.holder
    if isinstance(holder, Table):  # as fast as the cache, and it may name other files
        return -1, -1
    if stored and isinstance(holder, RemoteFile) and holder.version >= 0:
        return stored.size, holder.version
    if is_url(place[0]):
        return state(place[0])
    try:
        found = os.stat(place[0])
    except (OSError, ValueError):
        return -1, -1  # opening it will report why
    return found.st_size, found.st_mtime_ns


def _look(jobs: dict[Place, Row], cache: Cache) -> Looked:
    """In a thread: the headers of these files, from the cache where it has them for this size and mtime."""
    looked: Looked = {}
    contents: dict[Place, tuple[int, int]] = {}
    for place, row in jobs.items():
        try:
            contents[place] = content_of(place, row.stored)  # before it is opened, so that a change is noticed
        except UserError as error:
            looked[place] = error
    keys = {place: key_of("length", place, tuple(content)) for place, content in contents.items() if content[1] != -1}
    known, new = cache.get(list(keys.values())), {}
    for place, (size, _) in contents.items():
        key = keys.get(place, b"")
        try:
            header = AudioHeader(*HEADER.unpack(known[key])) if key in known else _header(jobs[place])
        except UserError as error:
            looked[place] = error
            continue
        looked[place] = size, header
        if key and key not in known:
            new[key] = HEADER.pack(*header)
    if new:
        cache.put(new)
    return looked


def _with_header(row: Row | Fault, looked: Looked) -> tuple[Row, AudioHeader] | Fault:
    if isinstance(row, Fault):
        return row
    found = looked[place_of(row)]
    if isinstance(found, UserError):
        return Fault(row.source, str(found))
    size, header = found
    if row.stored and isinstance(row.stored.holder, RemoteFile):
        row = replace(row, stored=row.stored._replace(size=size))
    return row, header


def _header(row: Row) -> AudioHeader:
    if row.look is not None:
        return row.look()
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


def progress_bar(what: str, unit: str) -> Any:
    """A line on stderr once work takes seconds: updated in place on a terminal, every ten seconds elsewhere."""
    from tqdm import tqdm

    every_s = 0.5 if sys.stderr.isatty() else LOG_EVERY_S
    quiet = os.environ.get("RANK", "0") != "0"
    return tqdm(desc=what, unit=unit, delay=SILENT_S, mininterval=every_s, disable=quiet, unit_scale=True)
