"""Stopping between two updates: on a signal, or after a number of hours."""

from __future__ import annotations

import os
import signal
import time
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
TIME_LIMIT = 75
"""The exit code at run.max_hours: EX_TEMPFAIL of sysexits.h, on which a scheduler may requeue."""


class StopSignal:
    """Turns signals into ``code``, the exit code with which to end after this update. Every rank makes one."""

    def __init__(self, *, main: bool) -> None:
        self.code: int | None = None
        self.training = False
        """Whether there is an update to finish and a checkpoint to save."""
        self.can_resume = False
        """Whether a checkpoint exists, for what a second Ctrl-C prints."""
        self._main, self._began = main, time.monotonic()
        self._handlers = {number: signal.signal(number, self._on_signal) for number in SIGNALS}

    @property
    def session_s(self) -> float:
        """Seconds since this session began."""
        return time.monotonic() - self._began

    def over(self, max_hours: float | None) -> bool:
        """Whether this session has just reached its time limit; ``code`` is set then."""
        if self.code is not None or max_hours is None or self.session_s <= max_hours * 3600:
            return False
        self.code = TIME_LIMIT
        return True

    def restore(self) -> None:
        """Give the signals back to the handlers that were there before."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Before training there is nothing to save: end at once, which cleans up on the way out."""
        name = signal.Signals(number).name
        if self.code is not None and number == signal.SIGINT:  # the second Ctrl-C
            then = "resumes from the last checkpoint" if self.can_resume else "starts again"
            self._print(f"left at once; the same command {then}")
            os._exit(130)
        self.code = 128 + number
        if not self.training:
            self._print(f"{name}: nothing to save yet")
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(self.code)
        self._print(f"{name}: finishing this update, then saving (Ctrl-C again to leave at once)")

    def _print(self, line: str) -> None:
        """``print`` may be in use when a signal arrives, and cannot be entered a second time then."""
        if self._main:
            os.write(1, f"{line}\n".encode())
