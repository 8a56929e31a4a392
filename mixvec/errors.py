"""What a user did or met that the program cannot mend: one clear line, a non-zero exit, no traceback."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable


class UserError(Exception):
    """A fault of the input or the machine. The message names the file, the key or the number, and the remedy."""


def run_cli(main: Callable[[], None]) -> None:
    """Run a command line's ``main``; end in one line on stderr and exit code 1 where the fault is not ours.

    Ctrl-C ends with code 130. A full disk is the user's to mend, so it is told like any other ``UserError``.
    """
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT):
            raise
        where = f" ({error.filename})" if error.filename else ""
        print(
            f"error: {os.strerror(error.errno).lower()}{where}: free or choose another place and run again",
            file=sys.stderr,
        )
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
