"""Looking at the headers of a source's audio: several files at a time, and only those that the index does not know.

Threads, not processes: libsndfile and the file system work outside the interpreter's lock, and the wait for a disk or
a network is most of it.
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from mixvec import UserError
from mixvec.audio import AudioHeader, audio_header

from .index import Entries, Entry, index_path, load_index, save_index
from .readers.archives import TarMember
from .readers.rows import Fault, Row, Rows, Stored

THREADS = 16
BATCH_ROWS = 64
SILENT_S, TERMINAL_EVERY_S, LOG_EVERY_S = 3.0, 0.5, 10.0

Place = tuple[str, int]
"""As the index has it: absolute path and offset."""
Looked = list[tuple[Place, Entry | UserError]]


def with_headers(rows: Rows, source: str, labels: bool) -> Iterator[tuple[Row, AudioHeader] | Fault]:
    """The rows of ``source`` in their order, each with its header; a fault in place of those that have none.

    What was found goes into the index of ``source`` at the end, or when it is interrupted.
    """
    path = index_path(source, labels)
    old: Entries = {}
    found: dict[Place, Entry | UserError] = {}
    asked: set[Place] = set()
    progress, whole, loaded = Progress("looked at", "utterances"), False, False
    waiting: deque[tuple[list[Row | Fault], Future[Looked] | None]] = deque()
    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="headers")
    rows = iter(rows)
    try:
        while True:
            batch = list(islice(rows, BATCH_ROWS))
            jobs = _jobs(batch, asked)
            if jobs and not loaded:
                old, loaded = load_index(path), True
            asked.update(jobs)
            waiting.append((batch, pool.submit(_look, jobs, old) if jobs else None))
            while waiting and (len(waiting) > 4 * THREADS or not batch):
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
        _keep(path, old, {place: entry for place, entry in found.items() if isinstance(entry, Entry)}, whole)


def _jobs(batch: list[Row | Fault], asked: set[Place]) -> dict[Place, Row]:
    """What is to be looked at, each file once: a long one stands in many rows."""
    jobs = {}
    for row in batch:
        if isinstance(row, Row) and row.header is None:
            place = _place(row)
            if place is not None and place not in asked:
                jobs[place] = row
    return jobs


def _keep(path: Path | None, old: Entries, new: Entries, whole: bool) -> None:
    """Write the index where it has changed. A source of one file needs none."""
    if not whole:
        new = old | new
    same = len(new) == len(old) and all(old.get(place) is entry for place, entry in new.items())
    if not same and len(new) > 1:
        save_index(path, new)


def _place(row: Row) -> Place | None:
    """Where the audio of a row lies on disk; None for what the index does not keep, such as the rows of a table."""
    if row.stored is None:
        return row.source if row.source.startswith("/") else os.path.abspath(row.source), -1
    return (os.path.abspath(row.stored.path), row.stored.offset) if isinstance(row.stored, TarMember) else None


def _look(jobs: dict[Place, Row], old: Entries) -> Looked:
    """In a thread: each file's entry, the old one where neither size nor mtime has changed, or why there is none."""
    looked: Looked = []
    for place, row in jobs.items():
        try:
            state = os.stat(place[0])  # before it is opened: a change after that will be noticed
            size, mtime_ns = state.st_size, state.st_mtime_ns
        except (OSError, ValueError):
            size, mtime_ns = -1, -1  # opening it will say why
        known = old.get(place)
        if known is not None and (known.size, known.mtime_ns) == (size, mtime_ns):
            looked.append((place, known))
            continue
        try:
            looked.append((place, Entry(size, mtime_ns, _header(row))))
        except UserError as error:
            looked.append((place, error))
    return looked


def _with_header(row: Row | Fault, found: dict[Place, Entry | UserError]) -> tuple[Row, AudioHeader] | Fault:
    if isinstance(row, Fault):
        return row
    if row.header is not None:
        return row, row.header
    place = _place(row)
    if place is not None:
        entry = found[place]
        return Fault(row.source, str(entry)) if isinstance(entry, UserError) else (row, entry.header)
    try:
        return row, _header(row)
    except UserError as error:
        return Fault(row.source, str(error))


def _header(row: Row) -> AudioHeader:
    with opened(row.source, row.stored) as file:
        return audio_header(file)


@contextmanager
def opened(source: str, stored: Stored | None) -> Iterator[str | BinaryIO]:
    """What libsndfile opens. Faults of stored audio are told under the name ``source``."""
    if stored is None:
        yield source
        return
    try:
        with stored.open() as file:
            yield file
    except OSError as error:
        raise UserError(f"{source}: cannot be opened ({error.strerror or error})") from error
    except UserError as error:
        raise UserError(str(error).replace("stored audio", source, 1)) from error


class Progress:
    """A line on stderr once it takes seconds: renewed in place on a terminal, every ten seconds elsewhere."""

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
