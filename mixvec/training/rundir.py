"""The directory of a run: one run uses it at a time, with one configuration, in one or more sessions."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import shutil
import subprocess
import weakref
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any

import torch
from accelerate import Accelerator

from ..errors import UserError
from ..version import __version__
from .checkpoint import listed
from .config import changed_keys, read_config, write_config
from .log import append

PACKAGE = Path(__file__).resolve().parent.parent
FULL = (errno.ENOSPC, errno.EDQUOT)  # errors of a disk, or of a quota on it, that is full


def open_directory(config: Any, report: Callable[[str], None]) -> IO[str]:
    """Make or enter ``config.run.dir``, and write config.yaml; the lock, which is held until it is closed.

    What a killed run was writing there is removed.

    Raises:
        UserError: the directory cannot be used, is in use, or holds checkpoints of a run with another configuration.
    """
    folder = config.run.folder
    if folder.exists() and not folder.is_dir():
        raise UserError(f"run.dir={folder}: not a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = _lock(folder, report)
        # what a killed process was writing or removing; with the lock it is nobody's
        for left in [*folder.glob(".*.new-*"), *(folder / "checkpoints").glob(".update_*")]:
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        if (folder / "config.yaml").exists() and listed(folder / "checkpoints"):
            _compare(config, folder, report)
        write_config(config, folder / "config.yaml")
    except OSError as error:
        what = "make room, or choose another" if error.errno in FULL else "choose another"
        why = os.strerror(error.errno or 0).lower()
        raise UserError(f"run.dir={folder}: cannot be used ({why}); {what}") from error
    return held


def _lock(folder: Path, report: Callable[[str], None]) -> IO[str]:
    held = (folder / ".lock").open("w")
    lock = weakref.ref(held)  # a loader's worker may outlive a killed run by seconds, and does not keep it

    def release() -> None:
        if (file := lock()) is not None:
            file.close()

    os.register_at_fork(after_in_child=release)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(f"run.dir={folder}: another run is using it; wait for it or choose another run.dir") from error
    except OSError:  # some network disks
        report(f"WARNING run.dir={folder}: its file system has no locks; make sure that no second run uses it")
    return held


def _compare(config: Any, folder: Path, report: Callable[[str], None]) -> None:
    """Refuse checkpoints of a run with another configuration; report keys in its config.yaml that are no more."""
    try:
        old, removed = read_config(type(config), folder / "config.yaml")
    except UserError as error:
        raise UserError(
            f"run.dir={folder} holds a run of another command or version (its config.yaml: {error}). Resume it with "
            f"{_writer(folder)}, or choose another run.dir"
        ) from error
    if changed := changed_keys(old, config):
        raise UserError(f"run.dir={folder} holds a run with other settings: {', '.join(changed[:5])}; "
                        "choose another run.dir, or remove that one to start again")  # fmt: skip
    if removed:
        report(f"WARNING run.dir={folder}: this version has no {', '.join(removed)}, which its config.yaml has and "
               "which changed nothing")  # fmt: skip


def _writer(folder: Path) -> str:
    """The command and version of a run's last session."""
    try:
        session = json.loads((folder / "sessions.jsonl").read_text(encoding="utf-8").splitlines()[-1])
        commit = f", commit {session['commit']}" if session["commit"] else ""
        return f"the command that began it, in mixvec {session['mixvec']}{commit}"
    except (OSError, ValueError, LookupError, TypeError):
        return "the command and version that began it"


def note_session(folder: Path, update: int, accelerator: Accelerator, data: dict[str, Any]) -> None:
    """Append a row to sessions.jsonl: the session continues from ``update``, on data of these fingerprints by name."""
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
                 for name, own in data.items() if name.startswith("data.")},
    }  # fmt: skip
    append(folder / "sessions.jsonl", row)


def processor() -> str:
    """The model of the processor, and how many cores this process may use."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"{model or platform.machine()}, {len(os.sched_getaffinity(0))} cores"


def commit() -> str | None:
    """The commit of mixvec's own checkout, with ``-dirty`` after it where files differ; None where it is installed."""
    git = ["git", "-C", str(PACKAGE), "--no-optional-locks"]
    asked = (("rev-parse", "--show-toplevel"), ("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"))
    try:
        top, found = (
            subprocess.check_output([*git, *words], stderr=subprocess.DEVNULL, text=True, timeout=10).strip()
            for words in asked
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found if Path(top).resolve() / PACKAGE.name == PACKAGE else None
