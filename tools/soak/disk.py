"""A small disk of our own: a tmpfs in a namespace, for which nobody need be root."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

SIZE_MB = 64
INSIDE = "MIXVEC_SOAK_DISK"
"""Set in the process that has the disk: where it is."""
FILLER = "filler"


def enter(folder: Path) -> str | None:
    """Start this command anew with a small disk at ``folder``, and never return; or say why that cannot be.

    The disk is seen by this command alone and is gone with it. In the new process, the first thing is to mount it.
    """
    if INSIDE in os.environ:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    inside = ["unshare", "--user", "--map-root-user", "--mount"]
    try:
        done = subprocess.run([*inside, *_mount(folder)], capture_output=True, text=True)
    except OSError as error:
        return f"unshare(1) cannot be run ({error.strerror})"
    if done.returncode:
        return f"no user namespaces here ({' '.join(done.stderr.split())})"
    os.environ[INSIDE] = str(folder.resolve())
    os.execvp(inside[0], [*inside, sys.executable, "-m", "tools.soak", *sys.argv[1:]])


def _mount(folder: Path) -> list[str]:
    return ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m", "tmpfs", str(folder)]


class Disk:
    """The small disk, mounted."""

    def __init__(self) -> None:
        self.path = Path(os.environ[INSIDE])
        subprocess.run(_mount(self.path), check=True)

    def fill(self, spare_bytes: int) -> None:
        """Leave room for ``spare_bytes`` alone."""
        with (self.path / FILLER).open("wb", buffering=0) as file:
            for piece in (bytes(1 << 20), bytes(1 << 12)):
                try:
                    while True:
                        file.write(piece)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
            file.truncate(max(0, file.tell() - spare_bytes))

    def free(self) -> None:
        (self.path / FILLER).unlink(missing_ok=True)
