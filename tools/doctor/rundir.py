"""A run directory, looked at and left as it is: the lock, the newest checkpoint, room for the next."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

from mixvec.training.manifest import damage

from .finding import Finding, shown


def is_run(folder: Path) -> bool:
    return os.path.isfile(folder / "config.yaml") or os.path.isdir(folder / "checkpoints")


def lock(run: Path) -> Finding:
    """Whether a run is at work in there."""
    path = run / ".lock"
    if not path.is_file():
        return Finding("ok", "no run has used it yet")
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return Finding("warning", f"a run is at work in it{holder(path)}", "wait for it, or choose another run.dir")
    return Finding("ok", "no run is at work in it")


def holder(path: Path) -> str:
    """The process that holds a lock on ``path``, in words, where /proc knows."""
    inode = path.stat().st_ino
    for line in Path("/proc/locks").read_text().splitlines():
        words = line.split()
        if len(words) > 5 and words[5].endswith(f":{inode}") and int(words[4]) > 0:
            return f", process {words[4]}"
    return ""


def checkpoint(run: Path) -> Finding:
    """The newest whole one, from which the same command goes on; each file of it is read."""
    found = sorted((run / "checkpoints").glob("update_*"), reverse=True)
    first = ""
    for number, path in enumerate(found):
        wrong = damage(path)
        first = first or f"{path.name}: {wrong}"
        if wrong is None and number == 0:
            return Finding("ok", f"{path.name} is whole, {shown(size_bytes(path))}")
        if wrong is None:
            return Finding("warning", f"{first}; {path.name} is whole", "the same command goes on from that one")
    if not found:
        return Finding("ok", "none yet: a run starts anew")
    mend = f"put a whole one back from a copy, or to start anew: rm -r {run / 'checkpoints'}"
    return Finding("wrong", f"none of {len(found)} is whole; the newest, {first}", mend)


def room(run: Path) -> Finding:
    """A checkpoint is written before the oldest is removed."""
    found = sorted((run / "checkpoints").glob("update_*"))
    free = shutil.disk_usage(run).free
    if not found:
        return Finding("ok", f"{shown(free)} free, no checkpoint yet to compare with")
    size = size_bytes(found[-1])
    evidence = f"{shown(free)} free, a checkpoint takes {shown(size)}"
    if free < 2 * size:
        mend = f"free more (du -sh {run}/checkpoints/*), with run.keep=2 run.keep_every=0"
        return Finding("wrong" if free < size else "warning", evidence, mend)
    return Finding("ok", evidence)


def size_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
