"""Reading remote files where they lie, in ranges of bytes. Nothing is copied to disk.

A jump asks for 128 KiB from there on; reading on asks for twice as much each time, up to 4 MiB. A request that fails
is tried again (``retries.py``), by a file system of the process that reads: instances do not outlive a fork.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, BinaryIO, NamedTuple

from ...errors import UserError
from .retries import Missing, retried

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
FIRST_BYTES, MOST_BYTES = 1 << 17, 1 << 22
NEAR_BYTES = 1 << 20
"""A jump ahead by no more is reading on: what lies between costs less than another request."""
LARGEST_WHOLE_BYTES = 1 << 28
"""What is fetched whole, into memory, from a server that sends no ranges."""
TIMEOUTS_S = {"total": None, "sock_connect": 20, "sock_read": 30}
VERSIONS = ("ETag etag Content-MD5 content_md5 md5Hash blob_id sha checksum generation "
            "Last-Modified LastModified last_modified updated modified modify mtime created").split()  # fmt: skip


def is_url(name: str) -> bool:
    return "://" in name and URL.match(name) is not None


_kept: list[Any] = []


class State(NamedTuple):
    """What a file system tells of a file: size in bytes, and a number that changes with it; -1 where it does not."""

    size: int
    version: int


listed: dict[str, dict[str, State | None]] = {}
"""What is in each folder that was listed, by URL: a file's state, or None for a folder."""


def listed_state(url: str) -> State | None:
    """What a listing told of a file; None where there was none."""
    folder, _, name = url.rpartition("/")
    return listed.get(folder, {}).get(name)


@dataclass(frozen=True)
class RemoteFile:
    """A remote audio file, by its URL."""

    url: str = field(repr=False)
    size: int = -1
    version: int = field(default=-1, compare=False)

    def open(self) -> BinaryIO:
        return opened_audio(self.url, 0, self.size)


def opened_audio(url: str, offset: int, size: int) -> BinaryIO:
    """``opened_range``, with what libsndfile asks for first already there: soundfile opens one file at a time."""
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
        return io.BytesIO(_whole(url))
    return io.BufferedReader(_Ranges(url, offset, size), 1 << 16)  # type: ignore[return-value]


class _Ranges(io.RawIOBase):
    """A stretch of a remote file, of which the first block and the last one asked for are kept."""

    def __init__(self, url: str, offset: int, size: int) -> None:
        self.url, self.offset, self.size = url, offset, size
        self.at, self.ahead = 0, FIRST_BYTES
        self.blocks: list[tuple[int, bytes]] = []
        self.file: Any = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, to: int, whence: int = os.SEEK_SET) -> int:
        self.at = max(0, to + {os.SEEK_SET: 0, os.SEEK_CUR: self.at, os.SEEK_END: self.size}[whence])
        return self.at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        wanted = max(0, min(len(buffer), self.size - self.at))
        if not wanted:
            return 0
        start, block = self._block(wanted)
        piece = block[self.at - start : self.at - start + wanted]
        memoryview(buffer)[: len(piece)] = piece
        self.at += len(piece)
        return len(piece)

    def _block(self, wanted: int) -> tuple[int, bytes]:
        """The block that holds the next byte, and where it starts."""
        for start, block in self.blocks:
            if start <= self.at < start + len(block):
                return start, block
        before = self.blocks[-1] if self.blocks else (0, b"")
        reads_on = len(before[1]) > 0 and 0 <= self.at - before[0] - len(before[1]) <= NEAR_BYTES
        self.ahead = min(2 * self.ahead, MOST_BYTES) if reads_on else FIRST_BYTES
        left = self.size - self.at
        count = left if left <= 2 * self.ahead else max(self.ahead, wanted)
        fetched = retried(self.url, lambda: self._fetch(self.offset + self.at, count))
        whole = len(fetched) > count
        self.blocks = [(0, fetched)] if whole else [*self.blocks[:1], (self.at, fetched)]
        return self.blocks[-1]

    def _fetch(self, start: int, count: int) -> bytes:
        """``count`` bytes, or the whole file where the server sends no ranges."""
        file, self.file = self.file, None  # a file that has failed is not used again
        if file is None:
            fs, path = filesystem(self.url)
            file = fs.open(path, "rb", block_size=MOST_BYTES, cache_type="none", size=self.offset + self.size)
            with suppress(AttributeError):
                file.details = {"name": path, "size": self.offset + self.size}  # else some ask for them first
        file.seek(start)
        try:
            found: bytes = file.read(count)
        except ValueError as error:
            if "range requests" not in str(error):
                raise
            if self.offset:
                raise UserError(f"{self.url}: its server sends no ranges of bytes, and without these a tar cannot be "
                                "read in place; serve it by another, or copy it") from error  # fmt: skip
            return _whole(self.url)
        if len(found) < count:
            raise EOFError(f"cut off: {len(found)} of {count} bytes came from byte {start} on")
        self.file = file
        return found

    def close(self) -> None:
        self.file, self.blocks = None, []
        super().close()


def _whole(url: str) -> bytes:
    """All of a file, read from its start.

    Raises:
        UserError: it cannot be had, or is too large for that.
    """

    def fetch() -> bytes:
        fs, path = filesystem(url)
        pieces, count = [], 0
        with fs.open(path, "rb", block_size=0) as file:
            while piece := file.read(1 << 20):
                pieces.append(piece)
                count += len(piece)
                if count > LARGEST_WHOLE_BYTES:
                    raise UserError(
                        f"{url}: its server sends no ranges of bytes, and all of it is too much to fetch "
                        f"(over {LARGEST_WHOLE_BYTES >> 20} MiB); serve it by another, or copy it"
                    )
        return b"".join(pieces)

    return retried(url, fetch)


@lru_cache(maxsize=4096)
def state(url: str) -> State:
    """Size and version of a file.

    Raises:
        UserError: it is not there (``Missing``), or cannot be asked for.
    """
    told = listed_state(url)
    if told is not None and told.size >= 0:
        return told
    fs, path = filesystem(url)
    info = retried(url, lambda: fs.info(path))
    if info.get("type") == "directory":
        raise Missing(f"{url}: a folder, no file")
    found = state_of(info)
    if found.version < 0 and "http" not in fs.protocol:  # some tell more of it where they list its folder
        entries = retried(url, lambda: fs.ls(fs._parent(path), detail=True))
        found = next((state_of(entry) for entry in entries if entry["name"] == info["name"]), found)
    return found


def state_of(info: dict[str, Any]) -> State:
    """What an entry of a listing tells."""
    size = info.get("size")
    told = next((info[name] for name in VERSIONS if info.get(name)), None)
    digest = hashlib.sha256(str(told).encode()).digest()[:8]
    return State(-1 if size is None else int(size), -1 if told is None else int.from_bytes(digest, "big") >> 1)


def filesystem(url: str) -> tuple[Any, str]:
    """The file system that reads ``url``, made once in each process, and the path as it has it.

    Raises:
        UserError: there is none for this protocol, or its package is not installed.
    """
    import fsspec

    _prepare()
    return retried(url, lambda: fsspec.url_to_fs(url))


@lru_cache(maxsize=1)
def _prepare() -> None:
    """Timeouts, proxies and ~/.netrc for HTTP, where the user's fsspec configuration has nothing on it."""
    import aiohttp
    import fsspec.asyn

    fsspec.config.conf.setdefault(
        "http", {"client_kwargs": {"trust_env": True, "timeout": aiohttp.ClientTimeout(**TIMEOUTS_S)}}
    )
    os.register_at_fork(before=_keep, after_in_child=fsspec.asyn.reset_lock)


def _keep() -> None:
    """Before a fork: hold what reads here, so that the child never disposes of it.

    The two share the loop's epoll: a child that closed its copies of loop and connections would make this process deaf.
    """
    import fsspec.asyn
    from fsspec.spec import AbstractFileSystem

    kinds, instances = [AbstractFileSystem], []
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        instances += kind._cache.values()
    _kept[:] = [*fsspec.asyn.loop, *instances]
