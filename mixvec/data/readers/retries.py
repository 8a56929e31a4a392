"""Remote requests: retried where that may help, and their errors in words."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
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
            why, lasting = _judged(error)
            if lasting or wait_s is None:
                absent = why.startswith(("no such", "no permission")) or isinstance(error, NotImplementedError)
                raise (Missing if absent else UserError)(f"{url}: {why}") from error
        time.sleep(wait_s)
    raise AssertionError  # never reached


def _judged(error: Exception) -> tuple[str, bool]:
    """The reason of a failure, in words, and whether a retry is useless."""
    status = next((code for code in map(_status, _causes(error)) if code), None)
    said = " ".join(str(error).split())[:300]
    if status in (401, 403) or (status is None and isinstance(error, PermissionError)):
        how = f"HTTP {status}" if status else said
        return f"no permission to read it ({how}); are the credentials in the environment?", True
    if status in (404, 410) or (isinstance(error, FileNotFoundError) and error.__cause__ is None):
        return f"no such file or folder ({said})", True
    if status:
        return f"the server answers HTTP {status}", status < 500 and status not in (408, 425, 429)
    if isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        said = " ".join(str(error.__cause__).split())[:300]  # over HTTP only the cause has the reason
    if "credentials" in said.lower():
        return f"{said}: set them in the environment", True
    if isinstance(error, TimeoutError) or not said:
        return f"no answer in time ({type(error).__name__})", False
    return said, isinstance(error, ImportError | ValueError | TypeError | NotImplementedError)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _status(error: BaseException) -> int | None:
    """The HTTP status in an error of aiohttp, requests or botocore."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        found = getattr(error, "status", None) or getattr(response, "status_code", None)
    return found if isinstance(found, int) else None
