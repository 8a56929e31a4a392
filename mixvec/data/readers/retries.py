"""Remote requests: retried where that may help, and their errors in words."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from ...errors import UserError

Result = TypeVar("Result")
WAITS_S = (0.25, 1.0, 4.0)
"""Pauses before each further try."""


class Missing(UserError):
    """There is no such file, folder or bucket, or not for these credentials: many servers answer both alike."""


def retried(url: str, work: Callable[[], Result]) -> Result:
    """What ``work`` returns, retried where the error may pass.

    Raises:
        UserError: it failed; the message names the URL and the reason.
    """
    for wait_s in (*WAITS_S, None):
        try:
            return work()
        except UserError:
            raise
        except Exception as error:  # each file system raises its own
            missing, why, lasting = _judged(error)
            if lasting or wait_s is None:
                raise (Missing if missing else UserError)(f"{url}: {why}") from error
        time.sleep(wait_s)
    raise AssertionError  # never reached


def _judged(error: BaseException) -> tuple[bool, str, bool]:
    """Whether an error means that nothing is there, the reason in words, and whether a retry is useless."""
    while isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        error = error.__cause__  # over HTTP only the cause has the reason
    shown = " ".join(str(error).split())[:300]
    status = getattr(error, "status", None) or getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403) or isinstance(error, PermissionError):
        how = f"HTTP {status}" if status else shown
        return True, f"no permission to read it ({how}); are the credentials in the environment?", True
    if status in (404, 410) or isinstance(error, FileNotFoundError):
        return True, f"no such file or folder ({shown})", True
    if isinstance(status, int):
        return False, f"the server answers HTTP {status}", status < 500 and status not in (408, 425, 429)
    if "credentials" in shown.lower():
        return False, f"{shown}: set them in the environment", True
    if isinstance(error, TimeoutError) or not shown:
        return False, f"no answer in time ({type(error).__name__})", False
    useless = isinstance(error, ImportError | ValueError | TypeError | NotImplementedError)
    return isinstance(error, NotImplementedError), shown, useless
