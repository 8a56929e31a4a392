"""What a check returns, and a process of its own for what may crash or hang."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Literal, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PROBE_S = 15.0


class Finding(NamedTuple):
    """``remedy`` is a command or a key that mends it; there is one wherever ``level`` is wrong."""

    level: Literal["ok", "warning", "wrong"]
    evidence: str
    remedy: str = ""


def probe(code: str) -> tuple[str, str]:
    """Run Python code in a process of its own: the last line that it prints, and in a line why it failed, if so."""
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
        start_new_session=True,
    )  # fmt: skip
    try:
        out, err = process.communicate(timeout=PROBE_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # with the processes that it started
        out, _ = process.communicate()
        return last_line(out), f"no answer within {PROBE_S:g} s"
    if process.returncode < 0:
        return last_line(out), f"the process died of {signal.Signals(-process.returncode).name}"
    if process.returncode:
        return last_line(out), last_line(err) or f"exit code {process.returncode}"
    return last_line(out), ""


def last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:300] if lines else ""


def shown(count_bytes: float) -> str:
    return f"{count_bytes / 1e9:.3g} GB" if count_bytes >= 1e8 else f"{count_bytes / 1e6:.3g} MB"
