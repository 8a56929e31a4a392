"""Reading remote files in place, in ranges of bytes. Nothing is copied to disk.

A seek requests 128 KiB; sequential reading requests twice as much each time, up to 4 MiB. A request that fails is
tried again (``retries.py``), by a file system made in the process that reads, as instances do not survive a fork.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, BinaryIO, ClassVar, NamedTuple

from ...errors import UserError
from ...extents import Window
from .retries import Missing, retried

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
FIRST_BYTES, MOST_BYTES = 1 << 17, 1 << 22
NEAR_BYTES = 1 << 20
"""A seek ahead by no more counts as sequential: the bytes between cost less than another request."""
LARGEST_WHOLE_BYTES = 1 << 28
"""The largest file that is fetched whole, into memory, from a server that sends no ranges."""
NO_RANGES = "support range requests"  # fsspec's words
CONNECT_S, READ_S = 20, 30
VERSIONS = ("ETag etag Content-MD5 content_md5 md5Hash blob_id sha checksum generation "
            "Last-Modified LastModified last_modified updated modified modify mtime created").split()  # fmt: skip


def is_url(name: str) -> bool:
    return "://" in name and URL.match(name) is not None


_kept: list[Any] = []


class State(NamedTuple):
    """The size of a file in bytes, and a number that changes with its content; -1 where unknown."""

    size: int
    version: int


states: dict[str, State] = {}
"""The states of the files that were listed, by URL."""


@dataclass(frozen=True)
class RemoteFile:
    """A remote audio file, by its URL."""

    path: str = field(repr=False)
    size: int = -1
    version: int = field(default=-1, compare=False)
    offset: ClassVar[int] = -1

    def open(self) -> BinaryIO:
        return opened_audio(self.path, 0, self.size)


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

    Raises:
        UserError: now or on reading, the file cannot be reached.
    """
    if size < 0:
        size = state(url).size
    if size < 0:  # the server does not say
        fs, path = filesystem(url)
        return io.BytesIO(retried(url, lambda: fs.cat_file(path)))
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

    def read(self, count: int) -> bytes:
        """At least one and at most ``count`` bytes."""
        start, block = self._block(count)
        return block[self.at - start : self.at - start + count]

    def close(self) -> None:
        self.file, self.blocks = None, []

    def _block(self, wanted: int) -> tuple[int, bytes]:
        """The block that holds the next byte, and where it starts."""
        for start, block in self.blocks:
            if start <= self.at < start + len(block):
                return start, block
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
            fs, path = filesystem(self.url)
            self.blocks = [(0, retried(self.url, lambda: fs.cat_file(path)))]
        return self.blocks[-1]

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


@lru_cache(maxsize=4096)
def state(url: str) -> State:
    """Size and version of a file.

    Raises:
        UserError: it is not there (``Missing``), or cannot be asked for.
    """
    known = states.get(url)
    if known is not None and known.size >= 0:
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
    """The file system that reads ``url``, made once in each process, and the path in it.

    Raises:
        UserError: there is none for this protocol, or its package is not installed.
    """
    import fsspec

    _prepare()
    found: tuple[Any, str] = retried(url, lambda: fsspec.url_to_fs(url))
    return found


@lru_cache(maxsize=1)
def _prepare() -> None:
    """Timeouts, proxies and ~/.netrc for HTTP, where the user's fsspec configuration has nothing on it."""
    import aiohttp
    import fsspec.asyn

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=READ_S)
    fsspec.config.conf.setdefault("http", {"client_kwargs": {"trust_env": True, "timeout": timeout}})
    os.register_at_fork(before=_keep, after_in_child=fsspec.asyn.reset_lock)


def _keep() -> None:
    """Before a fork: hold the loop and file systems of this process, so that the child never closes them.

    Both processes share the loop's epoll; if the child closed its copies, this process would get no more events.
    """
    import fsspec.asyn
    from fsspec.spec import AbstractFileSystem

    kinds, instances = [AbstractFileSystem], []
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        instances += kind._cache.values()
    _kept[:] = [*fsspec.asyn.loop, *instances]
