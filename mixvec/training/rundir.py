"""Whose a run's directory is: one run's at a time, and of one configuration."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..errors import UserError
from . import checkpoint
from .config import changed_keys, write_config

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What the system says of a disk, or of a share of it, without room."""


def open_directory(config: Any, say: Callable[[str], None]) -> IO[str]:
    """Make or enter ``config.run.dir``, and write config.yaml; the lock, which is held until it is closed.

    What a killed run was writing there is removed.

    Raises:
        UserError: the directory cannot be used, is in use, or holds checkpoints of a run with another configuration.
    """
    folder = Path(config.run.dir)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"run.dir={folder}: not a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = _lock(folder, say)
        for left in folder.glob(".*.new-*"):  # what a killed process was writing; with the lock it is nobody's
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        _compare(config, folder)
        write_config(config, folder / "config.yaml")
    except OSError as error:
        what = "make room, or choose another" if error.errno in FULL else "choose another"
        why = os.strerror(error.errno or 0).lower()
        raise UserError(f"run.dir={folder}: cannot be used ({why}); {what}") from error
    return held


def _lock(folder: Path, say: Callable[[str], None]) -> IO[str]:
    held = (folder / ".lock").open("w")
    lock = weakref.ref(held)  # a loader's worker may outlive a killed run by seconds, and does not keep it
    os.register_at_fork(after_in_child=lambda: (found := lock()) and found.close())
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(f"run.dir={folder}: another run is using it; wait for it or choose another run.dir") from error
    except OSError:  # some network disks
        say(f"WARNING run.dir={folder}: no locks there; see to it yourself that no second run uses it")
    return held


def _compare(config: Any, folder: Path) -> None:
    """Refuse checkpoints of a run with another configuration."""
    stated = folder / "config.yaml"
    if not stated.exists() or not checkpoint.listed(folder / "checkpoints"):
        return
    try:
        merged = OmegaConf.merge(OmegaConf.structured(type(config)), OmegaConf.load(stated))
        changed = changed_keys(OmegaConf.to_object(merged), config)
    except (OmegaConfBaseException, ValueError) as error:
        key = getattr(error, "full_key", None) or " ".join(str(error).split())
        raise UserError(
            f"run.dir={folder} holds a run of another command or version (its config.yaml has {key}); "
            "choose another run.dir"
        ) from error
    if changed:
        raise UserError(f"run.dir={folder} holds a run with other settings: {', '.join(changed[:5])}; "
                        "choose another run.dir, or remove that one to start anew")  # fmt: skip
