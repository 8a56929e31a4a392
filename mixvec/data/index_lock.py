"""Taking turns at a source: while one process opens its files, others on the same machine wait for the index of it.

The lock is the kernel's, on a file beside the index, and ends with the process that holds it. Where a file system has
none, each looks for itself.
"""

from __future__ import annotations

import fcntl
import os
import sys
from pathlib import Path
from time import monotonic, sleep
from typing import IO

PAUSE_S, SILENT_S = 0.2, 3.0
PATIENCE_S = 600.0
"""One that holds the lock and shows no life for so long is not waited for: it was stopped, or its disk is gone."""


class Turn:
    """The turn to look through ``source``, whose index is at ``path``; close it when the index is written."""

    def __init__(self, path: Path | None, source: str) -> None:
        self.path, self.source = path, source
        self._held: IO[str] | None = None

    def take(self) -> None:
        """Take the turn; where another has it, wait until its end, and go on without: then all can at once."""
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock = self.path.with_suffix(".lock").open("a")
        except OSError:
            return
        if _locked(lock, fcntl.LOCK_EX):
            self._held = lock
            return
        with lock:
            self._wait(lock)

    def _wait(self, lock: IO[str]) -> None:
        began_s = alive_s = monotonic()
        seen, told = os.fstat(lock.fileno()).st_mtime_ns, os.environ.get("RANK", "0") != "0"
        while not _locked(lock, fcntl.LOCK_SH) and monotonic() - alive_s < PATIENCE_S:
            sleep(PAUSE_S)
            if (now := os.fstat(lock.fileno()).st_mtime_ns) != seen:
                seen, alive_s = now, monotonic()
            if not told and monotonic() - began_s > SILENT_S:
                print(f"waiting for another process that looks through {self.source}", file=sys.stderr, flush=True)
                told = True

    def go_on(self) -> None:
        """Show life to those that wait."""
        if self._held is not None:
            os.utime(self._held.fileno())

    def close(self) -> None:
        """End the turn, if this has it."""
        if self._held is not None:
            self._held.close()


def _locked(lock: IO[str], kind: int) -> bool:
    """Whether nothing is to be waited for: the lock is ours, or there are none here."""
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
