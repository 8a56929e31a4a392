"""Atomic replacement of folders and files."""

from __future__ import annotations

import ctypes
import errno
import glob
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from .errors import UserError


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """Yield a folder beside ``path`` to fill; move it to ``path`` when the block ends, or remove it on an error.

    The old content of ``path`` stays until the new folder is complete and on disk, and after any error, Ctrl-C
    included. A process that is killed leaves ``path`` unchanged, and beside it a hidden folder that the next one
    removes. Where ``path`` is a link, its target is replaced.

    Raises:
        UserError: ``path`` is a file.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_dir():
        raise UserError(f"{path}: is a file; choose a folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_remains(path)
    new = path.with_name(f".{path.name}.new-{os.getpid()}")
    new.mkdir()
    try:
        yield new
        for entry in [*new.rglob("*"), new]:
            _sync(entry)
        _put_in_place(new, path)
        _sync(path.parent)
    finally:  # the half-written folder or, after the exchange, the old one
        shutil.rmtree(new, ignore_errors=True)


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write tensors from any device as safetensors.

    Raises:
        OSError: the disk is full or the like, with its errno, which safetensors itself has only in its message.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(plain, path, metadata={"format": "pt"})
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        code = int(number[1]) if number else errno.EIO
        raise OSError(code, os.strerror(code), str(path.parent)) from error


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yield a name beside ``path`` to write to; move that file to ``path`` when the block ends, remove it on error.

    A reader finds the old or the new file, never a part. Of several concurrent writers, on one machine or on many that
    share a disk, the last to finish wins.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        yield new
        _sync(new)
        os.replace(new, path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def write_whole(path: str | Path, text: str) -> None:
    """Write a text file atomically: a reader finds the old or the new one, never a part."""
    with whole_file(path) as new:
        new.write_text(text, encoding="utf-8")


def _put_in_place(new: Path, path: Path) -> None:
    """Rename ``new`` to ``path``, exchanging it with a folder there; on Linux ``path`` exists at every moment."""
    if not path.exists():
        os.replace(new, path)
    elif not _exchange(new, path):
        old = path.with_name(f".{path.name}.old-{os.getpid()}")
        os.replace(path, old)
        try:
            os.replace(new, path)
        except BaseException:
            os.replace(old, path)
            raise
        os.replace(old, new)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step; False where the system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE of renameat2(2)
    return rename is not None and rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


def _clear_remains(path: Path) -> None:
    """Remove what killed processes left beside ``path``; restore a folder that one had just moved away."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*-*"):
        found = re.fullmatch(r"(new|old)-(\d+)", left.name[len(path.name) + 2 :])
        if found is None or (int(found[2]) != os.getpid() and _runs(int(found[2]))):
            continue
        if found[1] == "old" and not path.exists():
            os.replace(left, path)
        shutil.rmtree(left, ignore_errors=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # another user's
    return True


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
