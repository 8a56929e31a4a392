"""What a user did or met that the program cannot mend: one clear line, a non-zero exit, no traceback."""

from __future__ import annotations

import errno
import os
import re
import sys
import threading
from collections.abc import Callable

PLACE_ERRORS = (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT)
"""Faults of the place that is written to, which its owner can mend."""

SECRET_USER = re.compile(r"(https?://|\w+://(?=[^/\s@]*:))[^/\s]+@")
SECRET_QUERY = re.compile(r"(https?://[^?\n]*)\?[^\s'\"]*[^\s'\":;,.)]")


class UserError(Exception):
    """A fault of the input or the machine. The message names the file, the key or the number, and the remedy.

    What may be secret in a URL is left out of it.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(redacted(message))


def redacted(text: str) -> str:
    """``text`` with the user and password of every URL in it, and all behind its ``?``, replaced by ``***``."""
    if "://" not in text:
        return text
    return SECRET_QUERY.sub(r"\1?***", SECRET_USER.sub(r"\1***@", text))


def is_redacted(text: str) -> bool:
    """Whether ``text`` has a URL from which ``redacted`` removed something."""
    return "://***@" in text or ("://" in text and "?***" in text)


def run_cli(main: Callable[[], None]) -> None:
    """Run a command line's ``main``; end in one line on stderr and exit code 1 where the fault is not ours.

    Ctrl-C ends with code 130. A full disk is the user's to mend, so it is told like any other ``UserError``; the
    threads that meet it (TensorBoard's writer) hand it on to the main one, so they print no traceback of it.
    """
    _quieten_threads()
    try:
        main()
    except UserError as error:
        print(" ".join(f"error: {error}".splitlines()), file=sys.stderr)  # a file's name may hold a line break
        sys.exit(1)
    except OSError as error:
        if error.errno not in PLACE_ERRORS:
            raise
        place = error.filename2 or error.filename  # of two, the second is the one that is written
        what = os.strerror(error.errno).lower() + (f" ({place})" if place else "")
        mend = "make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "mend that"
        print(f"error: {what}: {mend}, or choose another place, and run it again", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _quieten_threads() -> None:
    others = threading.excepthook

    def hook(failed: threading.ExceptHookArgs) -> None:
        if not (isinstance(failed.exc_value, OSError) and failed.exc_value.errno in PLACE_ERRORS):
            others(failed)

    threading.excepthook = hook
