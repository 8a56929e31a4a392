"""Remote requests, tried again where that may help, and what went wrong with them in words."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from ...errors import UserError

Result = TypeVar("Result")
WAITS_S = (0.25, 1.0, 4.0)
"""Before each further try."""


class Missing(UserError):
    """There is no such file, folder or bucket, or not for these credentials: many a server answers both alike."""


def retried(url: str, work: Callable[[], Result]) -> Result:
    """What ``work`` returns, tried again where it may yet go well.

    Raises:
        UserError: it did not; the message names the URL and why.
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
    """Why something failed, in words, and whether trying again is of no use."""
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
        said = " ".join(str(error.__cause__).split())[:300]  # of HTTP, where only the cause tells
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
        return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    found = getattr(error, "status", None) or getattr(response, "status_code", None)
    return found if isinstance(found, int) else None
