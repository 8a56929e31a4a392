"""The directory of a run: one run uses it at a time, with one configuration."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from ..errors import UserError
from . import checkpoint
from .config import changed_keys, read_config, write_config

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Errors of a disk, or of a quota on it, that is full."""


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
        _compare(config, folder)
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


def _compare(config: Any, folder: Path) -> None:
    """Refuse checkpoints of a run with another configuration."""
    stated = folder / "config.yaml"
    if not stated.exists() or not checkpoint.listed(folder / "checkpoints"):
        return
    try:
        changed = changed_keys(read_config(type(config), stated), config)
    except UserError as error:
        raise UserError(
            f"run.dir={folder} holds a run of another command or version (its config.yaml: {error}); choose another "
            "run.dir"
        ) from error
    if changed:
        raise UserError(f"run.dir={folder} holds a run with other settings: {', '.join(changed[:5])}; "
                        "choose another run.dir, or remove that one to start again")  # fmt: skip
