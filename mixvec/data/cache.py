"""What was learnt by opening audio files, kept in SQLite in ``$MIXVEC_CACHE``, else in ``~/.cache/mixvec``.

It may be lost at any time: what is not in it is read from the audio again. Each value has a checksum, so that damage is
noticed, and its key is a hash of all that it depends on, so that the cache holds no names and no secrets.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from threading import Lock
from typing import Any

from ..errors import redacted

TABLE = "CREATE TABLE IF NOT EXISTS found (key BLOB PRIMARY KEY, value BLOB, checksum INTEGER) WITHOUT ROWID"
DAMAGE = (sqlite3.DatabaseError, UnicodeError, MemoryError, OverflowError)
"""What a damaged file makes SQLite raise: an error of its own schema, of a text in it, or of a size."""
WAIT_S = 30.0
"""How long a write waits for another one, before this process continues without the cache."""


def cache_folder() -> Path | None:
    """The folder of the cache; None where there is no home folder."""
    with suppress(RuntimeError):
        return Path(os.environ.get("MIXVEC_CACHE") or Path.home() / ".cache" / "mixvec")
    return None


def key_of(*facts: object) -> bytes:
    """The key of what follows from these facts, such as the path, size and mtime of a file."""
    return blake2b(repr(facts).encode(), digest_size=16).digest()


class Cache:
    """Bytes by key, for any number of threads and processes; empty where the file cannot be read or written."""

    def __init__(self) -> None:
        folder = cache_folder()
        self.path = folder / "found.sqlite" if folder else None
        self._lock = Lock()  # SQLite's own is polled, and a thread may get none for WAIT_S

    def get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """The values of those of these keys (at most a thousand) that are known."""
        query = f"SELECT key, value, checksum FROM found WHERE key IN ({','.join('?' * len(keys))})"
        rows = self._run(lambda database: database.execute(query, keys).fetchall())
        whole = [row for row in rows if isinstance(row[0], bytes) and isinstance(row[1], bytes)]  # damage may be NULL
        return {key: value for key, value, checksum in whole if zlib.crc32(key + value) == checksum}

    def put(self, values: Mapping[bytes, bytes]) -> None:
        """Write these values; once this returns, they outlive the process."""
        rows = [(key, value, zlib.crc32(key + value)) for key, value in values.items()]
        self._run(lambda database: database.executemany("REPLACE INTO found VALUES (?, ?, ?)", rows).fetchall())

    def _run(self, work: Callable[[sqlite3.Connection], list[Any]]) -> list[Any]:
        """What ``work`` returns on a connection of its own, or nothing; a damaged file is removed."""
        with self._lock:
            try:
                if self.path is not None:
                    self.path.parent.mkdir(parents=True, exist_ok=True)
                    with closing(sqlite3.connect(self.path, WAIT_S)) as database, database:
                        database.execute(
                            "PRAGMA synchronous = OFF"
                        )  # a power cut may damage it, a killed process cannot
                        database.execute(TABLE)
                        return work(database)
            except (OSError, sqlite3.OperationalError):  # a read-only folder, a full disk, no locks
                self.path = None
            except DAMAGE:
                with suppress(OSError):
                    for suffix in ("-journal", ""):
                        Path(f"{self.path}{suffix}").unlink(missing_ok=True)
        return []


@contextmanager
def scanning(source: str) -> Iterator[None]:
    """Scan a source alone: where another process of this machine does, wait for it, and then do not wait for others.
    The kernel releases the lock with the process that has it. Where a file system has no locks, nobody waits."""
    folder = cache_folder()
    with ExitStack() as stack:
        with suppress(OSError):
            if folder is not None:
                (folder / "locks").mkdir(parents=True, exist_ok=True)
                lock = stack.enter_context((folder / "locks" / key_of(source).hex()).open("a"))
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if os.environ.get("RANK", "0") == "0":
                        print(f"waiting for another process that scans {redacted(source)}", file=sys.stderr, flush=True)
                    fcntl.flock(lock, fcntl.LOCK_SH)
                    fcntl.flock(lock, fcntl.LOCK_UN)
        yield
