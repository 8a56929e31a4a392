"""Reading remote files in place, in ranges of bytes. Nothing is copied to disk.

A seek requests 128 KiB; sequential reading requests twice as much each time, up to 4 MiB. A request that fails is
tried again, by a file system made in the process that reads, as instances do not survive a fork.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, BinaryIO, NamedTuple, TypeVar

from ...errors import UserError
from ...extents import Window

Result = TypeVar("Result")
WAITS_S = (0.25, 1.0, 4.0)
"""Pauses before each further try."""
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
FIRST_BYTES, MOST_BYTES = 1 << 17, 1 << 22
NEAR_BYTES = 1 << 20
"""A seek ahead by no more counts as sequential: the bytes between cost less than another request."""
LARGEST_WHOLE_BYTES = 1 << 28
"""The largest file that is fetched whole, into memory, from a server that sends no ranges."""
NO_RANGES = "support range requests"  # fsspec's words
VERSIONS = ("ETag etag Content-MD5 content_md5 md5Hash blob_id sha checksum generation "
            "Last-Modified LastModified last_modified updated modified modify mtime created").split()  # fmt: skip


def is_url(name: str) -> bool:
    return "://" in name and URL.match(name) is not None


class Missing(UserError):
    """There is no such file, folder or bucket, or not for these credentials: many servers answer both alike."""


def retried(url: str, work: Callable[[], Result]) -> Result:
    """What ``work`` returns, retried where the error may pass. Raises ``UserError`` where it failed; the message names
    the URL and the reason."""
    for wait_s in (*WAITS_S, None):
        try:
            return work()
        except UserError:
            raise
        except Exception as error:  # each file system raises its own
            kind, why, lasting = _judged(error)
            if lasting or wait_s is None:
                raise kind(f"{url}: {why}") from error
        time.sleep(wait_s)
    raise AssertionError  # never reached


def _judged(error: BaseException) -> tuple[type[UserError], str, bool]:
    """What an error means, the reason in words, and whether a retry is useless."""
    while isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        error = error.__cause__  # over HTTP only the cause has the reason
    shown = " ".join(str(error).split())[:300]
    status = getattr(error, "status", None) or getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403) or isinstance(error, PermissionError):
        how = f"HTTP {status}" if status else shown
        return Missing, f"no permission to read it ({how}); are the credentials in the environment?", True
    if status in (404, 410) or isinstance(error, FileNotFoundError):
        return Missing, f"no such file or folder ({shown})", True
    if isinstance(status, int):
        return UserError, f"the server answers HTTP {status}", status < 500 and status not in (408, 425, 429)
    if "credentials" in shown.lower():
        return UserError, f"{shown}: set them in the environment", True
    if isinstance(error, TimeoutError) or not shown:
        return UserError, f"no answer in time ({type(error).__name__})", False
    useless = isinstance(error, ImportError | ValueError | TypeError | NotImplementedError)
    return Missing if isinstance(error, NotImplementedError) else UserError, shown, useless


class State(NamedTuple):
    """The size of a file in bytes, and a number that changes with its content; -1 where unknown."""

    size: int = -1
    version: int = -1


states: dict[str, State] = {}
"""The states of the files that were listed, by URL."""


@dataclass(frozen=True)
class RemoteFile:
    """A remote audio file, by its URL."""

    path: str = field(repr=False)
    version: int = field(default=-1, compare=False)

    def open(self, place: int, size: int) -> BinaryIO:
        return opened_audio(self.path, 0, size)


def opened_audio(url: str, offset: int, size: int) -> BinaryIO:
    """``opened_range``, with the bytes that libsndfile needs first already read, outside soundfile's lock."""
    file = opened_range(url, offset, size)
    if file.read(4) == b"OggS":  # the length is at the end
        file.seek(max(0, file.seek(0, os.SEEK_END) - FIRST_BYTES))
        file.read(1)
    file.seek(0)
    return file


def opened_range(url: str, offset: int, size: int) -> BinaryIO:
    """``size`` bytes of a remote file from ``offset`` on, as a file of their own; all of it where ``size`` is -1.
    Raises ``UserError`` where now or on reading, the file cannot be reached."""
    if size < 0:
        size = state(url).size
    if size < 0:  # the server does not say
        return io.BytesIO(_whole_file(url))
    return io.BufferedReader(Window(_Ranges(url, offset, offset + size), offset, size), 1 << 16)


class _Ranges:
    """A remote file from ``start`` to ``end``; the first block and the last one requested are kept."""

    def __init__(self, url: str, start: int, end: int) -> None:
        self.url, self.start, self.end, self.at = url, start, end, start
        self.ahead = FIRST_BYTES
        self.blocks: list[tuple[int, bytes]] = []
        self.file: Any = None

    def seek(self, at: int) -> None:
        self.at = at

    def close(self) -> None:
        self.file, self.blocks = None, []

    def read(self, count: int) -> bytes:
        """At most ``count`` bytes, at least one of a file that has not shrunk."""
        if count and not any(start <= self.at < start + len(block) for start, block in self.blocks):
            self._request(count)
        found = (block[self.at - start : self.at - start + count] for start, block in self.blocks if start <= self.at)
        return next(filter(None, found), b"")

    def _request(self, wanted: int) -> None:
        """Add the block that begins with the next byte."""
        start, block = self.blocks[-1] if self.blocks else (self.start, b"")
        reads_on = len(block) > 0 and 0 <= self.at - start - len(block) <= NEAR_BYTES
        self.ahead = min(2 * self.ahead, MOST_BYTES) if reads_on else FIRST_BYTES
        left = self.end - self.at
        count = left if left <= 2 * self.ahead else max(self.ahead, wanted)
        try:
            self.blocks = [*self.blocks[:1], (self.at, retried(self.url, lambda: self._fetch(count)))]
        except UserError as error:
            if NO_RANGES not in str(error):
                raise
            if self.start or self.end > LARGEST_WHOLE_BYTES:
                raise UserError(f"{self.url}: its server sends no ranges of bytes, without which tars, and files over "
                                f"{LARGEST_WHOLE_BYTES >> 20} MiB, cannot be read; copy it") from error  # fmt: skip
            self.blocks = [(0, _whole_file(self.url))]

    def _fetch(self, count: int) -> bytes:
        file, self.file = self.file, None  # a file that has failed is not used again
        if file is None:
            fs, path = filesystem(self.url)
            file = fs.open(path, "rb", block_size=MOST_BYTES, cache_type="none", size=self.end)
            with suppress(AttributeError):
                file.details = {"name": path, "size": self.end}  # else some ask for them first
        file.seek(self.at)
        found: bytes = file.read(count)
        if len(found) < count:
            raise EOFError(f"cut off: {len(found)} of {count} bytes came from byte {self.at} on")
        self.file = file
        return found


def _whole_file(url: str) -> bytes:
    fs, path = filesystem(url)
    return retried(url, lambda: bytes(fs.cat_file(path)))


@lru_cache(maxsize=4096)
def state(url: str) -> State:
    """Size and version of a file; raises ``UserError``, ``Missing`` where it is not there."""
    known = states.get(url, State())
    if known.size >= 0:
        return known
    fs, path = filesystem(url)
    info = retried(url, lambda: fs.info(path))
    if info.get("type") == "directory":
        raise Missing(f"{url}: a folder, no file")
    return state_of(info)


def state_of(info: dict[str, Any]) -> State:
    """The state in an entry of a listing."""
    size = info.get("size")
    version = next((info[name] for name in VERSIONS if info.get(name)), None)
    digest = hashlib.sha256(str(version).encode()).digest()[:8]
    return State(-1 if size is None else int(size), -1 if version is None else int.from_bytes(digest, "big") >> 1)


def filesystem(url: str) -> tuple[Any, str]:
    """The file system that reads ``url``, made once in each process, and the path in it. Raises ``UserError`` where
    there is none for this protocol, or its package is not installed."""
    import fsspec

    _prepare()
    return retried(url, lambda: fsspec.url_to_fs(url))  # type: ignore[no-any-return]


@lru_cache(maxsize=1)
def _prepare() -> None:
    """Timeouts, proxies and ~/.netrc for HTTP, where the user's fsspec configuration has nothing on it."""
    import aiohttp
    import fsspec.asyn

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=20, sock_read=30)
    fsspec.config.conf.setdefault("http", {"client_kwargs": {"trust_env": True, "timeout": timeout}})
    os.register_at_fork(before=_keep, after_in_child=fsspec.asyn.reset_lock)


def _keep() -> None:
    """Before a fork: hold the loop and file systems of this process, so that the child never closes them. Both
    processes share the loop's epoll; if the child closed its copies, this process would get no more events."""
    import fsspec.asyn
    from fsspec.spec import AbstractFileSystem

    kinds = [AbstractFileSystem]
    _kept[:] = fsspec.asyn.loop
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        _kept.extend(kind._cache.values())


_kept: list[Any] = []
