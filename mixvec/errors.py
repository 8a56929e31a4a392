"""Errors that the user can fix: one clear line, a non-zero exit code, no traceback."""

from __future__ import annotations

import errno
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

FILESYSTEM_ERRORS = (
    errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST,
)  # fmt: skip
"""Errors of the file system that the user can fix: disk full, quota, read-only, permission, a file for a folder."""

SECRET_USER = re.compile(r"(https?://|\w+://(?=[^/\s@]*:))[^/\s]+@")
SECRET_QUERY = re.compile(r"(https?://[^?\n]*)\?[^\s'\"]*[^\s'\":;,.)]")


class UserError(Exception):
    """A fault of the input or the machine. The message names the file, the key or the number, and the remedy.

    What may be secret in a URL is left out of it.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(redacted(message))


def redacted(text: str) -> str:
    """``text`` with the user and password of every URL in it, and everything after its ``?``, replaced by ``***``."""
    if "://" not in text:
        return text
    return SECRET_QUERY.sub(r"\1?***", SECRET_USER.sub(r"\1***@", text))


def is_redacted(text: str) -> bool:
    """Whether ``text`` has a URL from which ``redacted`` removed something."""
    return "://***@" in text or ("://" in text and "?***" in text)


@contextmanager
def named(key: str) -> Iterator[None]:
    """Put ``key``, which names the source of a fault, before the message of a ``UserError``."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{key}{error}") from error


def run_cli(main: Callable[[], None]) -> None:
    """Run a command line's ``main``; a ``UserError`` ends in one line on stderr and exit code 1.

    Ctrl-C ends with code 130, and output that its reader (``| head``) has closed with 141, as a shell reports it. A
    full disk is reported like a ``UserError``; threads that run into it (TensorBoard's writer) pass it on to the main
    thread and print no traceback.
    """
    _quieten_threads()
    try:
        try:
            main()
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except UserError as error:
        print(" ".join(f"error: {error}".splitlines()), file=sys.stderr)  # a file's name may hold a line break
        sys.exit(1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the interpreter's own flush at the end
        sys.exit(141)
    except OSError as error:
        if error.errno not in FILESYSTEM_ERRORS:
            raise
        place = error.filename2 or error.filename  # of two, the second is the one that is written
        what = os.strerror(error.errno).lower() + (f" ({place})" if place else "")
        remedy = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "fix this"
        print(f"error: {what}: {remedy} or choose another location, then rerun", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _quieten_threads() -> None:
    others = threading.excepthook

    def hook(failed: threading.ExceptHookArgs) -> None:
        if not (isinstance(failed.exc_value, OSError) and failed.exc_value.errno in FILESYSTEM_ERRORS):
            others(failed)

    threading.excepthook = hook
