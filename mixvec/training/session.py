"""What a session of a run was: where it began, on which machine, with which versions, commit and data."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from ..version import __version__

PACKAGE = Path(__file__).resolve().parent.parent


def note_session(folder: Path, update: int, accelerator: Accelerator, data: dict[str, Any]) -> None:
    """Append a row to sessions.jsonl: the session continues from ``update``.

    Args:
        data: fingerprints by name, of which the counts and seconds are kept.
    """
    cuda = accelerator.device.type == "cuda"
    row = {
        "update": update,
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": torch.cuda.get_device_name(accelerator.device) if cuda else processor(),
        "ranks": accelerator.num_processes,
        "mixvec": __version__,
        "commit": commit(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "data": {name: {key: own[key] for key in ("utterances", "seconds") if key in own}
                 for name, own in data.items() if name.startswith("data.") and isinstance(own, dict)},
    }  # fmt: skip
    with (folder / "sessions.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")


def processor() -> str:
    """The model of the processor, and how many cores this process may use."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"{model or platform.machine()}, {len(os.sched_getaffinity(0))} cores"


def commit() -> str | None:
    """The commit of mixvec's own checkout, with ``-dirty`` after it where files differ; None where it is installed."""
    git = ["git", "-C", str(PACKAGE), "--no-optional-locks"]
    asked = (("rev-parse", "--show-toplevel"), ("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"))
    try:
        done = [
            subprocess.run([*git, *words], capture_output=True, text=True, timeout=10, check=True) for words in asked
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    top, found = (one.stdout.strip() for one in done)
    return found if Path(top).resolve() / PACKAGE.name == PACKAGE else None
