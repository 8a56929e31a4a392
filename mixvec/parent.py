"""Processes that do not outlive the one they serve. Quick to import: a rank calls this before all that is not."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
"""Linux's prctl(2): the signal to get when the parent dies."""


def follow_parent(number: signal.Signals) -> None:
    """Let the system send this process a signal when the one that started it dies; nothing outside Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


def follow_torchrun() -> None:
    """In a rank of torchrun: end as if torchrun had said so (SIGTERM) where it is killed and cannot."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        follow_parent(signal.SIGTERM)
