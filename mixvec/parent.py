"""Processes that do not outlive the one they serve."""

from __future__ import annotations

import ctypes
import signal
import sys

PR_SET_PDEATHSIG = 1
"""Linux's prctl(2): the signal to get when the parent dies."""


def follow_parent(number: signal.Signals) -> None:
    """Let the system send this process a signal when the one that started it dies; nothing outside Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
