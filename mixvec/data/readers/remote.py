"""Paths that fsspec opens (``s3://``, ``hf://``, ``https://`` and all others), for the same readers as local ones.

``RemotePath`` offers the part of pathlib's interface that the readers use. A folder is listed once, and its files are
not requested again to learn their sizes. Relative names in a remote manifest start at its folder, absolute ones are
on this machine; a local manifest may name URLs.
"""

from __future__ import annotations

import io
import posixpath
from collections.abc import Iterator
from contextlib import suppress
from fnmatch import fnmatchcase
from glob import has_magic
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias
from urllib.parse import quote, unquote

from ...audio import EXTENSIONS
from ...errors import UserError
from .ranges import Missing, filesystem, is_url, opened_range, retried, state, state_of, states

FILES = (*EXTENSIONS, ".jsonl", ".json", ".gz", ".csv", ".tsv", ".txt", ".tar", ".tgz", ".bz2", ".xz", ".zst",
         ".parquet", ".arrow")  # fmt: skip
"""Suffixes by which files are told from folders over HTTP, which has no folders."""

_listings: dict[str, list[str]] = {}
"""The names in each folder that was listed to any depth, and in each of those below it, in the order of local ones."""


def located(name: str) -> AnyPath:
    """A path for what a configuration or a manifest names: a local one, also for ``file://``. Raises ``UserError``
    where nothing can open such a URL."""
    if not is_url(name):
        return Path(name)
    if "::" in name:
        raise UserError(f"{name}: file systems inside others are not read; unpack it, or name the file itself")
    protocol, _, rest = name.partition("://")
    if protocol in ("file", "local"):
        return Path(filesystem(name)[1])
    rest, mark, query = rest.partition("?") if protocol in ("http", "https") else (rest, "", "")
    rest = rest.partition("#")[0] if protocol in ("http", "https") else rest
    top, _, below = rest.lstrip("/").partition("/")
    return RemotePath(f"{protocol}:/{top}{posixpath.normpath('/' + below)}{mark}{query.replace('/', '%2F')}")


class RemotePath(PurePosixPath):
    """A file or folder that fsspec opens; made by ``located``. It keeps no more than its URL."""

    __slots__ = ()

    def __str__(self) -> str:
        return super().__str__().replace(":/", "://", 1)

    @property
    def over_http(self) -> bool:
        return self.parts[:1] in (("http:",), ("https:",))

    @property
    def name(self) -> str:
        """The last part, without what HTTP adds to it."""
        return unquote(super().name.partition("?")[0]) if self.over_http else super().name

    def __truediv__(self, other: Any) -> Any:
        text = str(other)
        if is_url(text) or text.startswith("/"):
            return located(text)
        below = "/".join((*self.parts[2:], quote(text) if self.over_http else text))
        return type(self)(*self.parts[:2], posixpath.normpath("/" + below)[1:])  # .. ends at the host or bucket

    def resolve(self) -> RemotePath:
        return self

    def open(self, mode: str = "r", encoding: str | None = None, newline: str | None = None) -> Any:
        file = opened_range(str(self), 0, -1)
        return file if "b" in mode else io.TextIOWrapper(file, encoding=encoding, newline=newline)

    def exists(self) -> bool:
        return self.is_file() or self.is_dir()

    def is_file(self) -> bool:
        if str(self) in states or self._names() is not None:
            return str(self) in states
        try:
            return state(str(self)) is not None
        except Missing:
            return False

    def is_dir(self) -> bool:
        """Whether there is anything in it; over HTTP, before it is listed, whether it is named like a folder."""
        if self.over_http and self._names() is None:
            return not self.name.lower().endswith(FILES)
        return next(self.iterdir(), None) is not None

    def iterdir(self) -> Iterator[RemotePath]:
        names = self._names()
        if names is not None:
            yield from map(self._child, names)
            return
        fs, root = filesystem(str(self))
        entries = []
        with suppress(Missing):
            entries = retried(str(self), lambda: fs.ls(root, detail=True))
        yield from map(self._child, self._noted({entry["name"]: entry for entry in entries}, root))

    def glob(self, pattern: str) -> list[RemotePath]:
        """What matches, in order; no ``**``."""
        found = [self] if len(self.parts) > 1 else []
        for part in pattern.split("/"):
            if has_magic(part):
                found = [child for path in found for child in path.iterdir() if fnmatchcase(child.name, part)]
            else:  # not listed for that: the folder may be anyone's
                found = [child for path in found if (child := path / part).exists()]
        return sorted(found)

    def _child(self, name: str) -> RemotePath:
        """``name`` as a listing has it, quoted over HTTP."""
        return type(self)(f"{super().__str__()}/{name}")

    def _names(self) -> list[str] | None:
        """What is in this folder, where it or one above it was listed to any depth."""
        known = any(str(path) in _listings for path in (self, *self.parents))
        return _listings.get(str(self), []) if known else None

    def _noted(self, entries: dict[str, dict[str, Any]], root: str) -> list[str]:
        """What is listed in this folder, hidden files and folders left out; the states of files are remembered."""
        found = []
        for name, entry in entries.items():
            below = (name[len(root) :] if name.startswith(root) else "").strip("/")
            if below and not below.startswith(".") and "/." not in below and not (self.over_http and "?" in below):
                found.append(below)
                if entry.get("type") != "directory":
                    states[str(self._child(below))] = state_of(entry)
        return found

    def files_below(self) -> Iterator[RemotePath]:
        """Every file at any depth, in a fixed order, in one listing; hidden files and folders left out."""
        url = str(self)
        if self._names() is None:
            fs, root = filesystem(url)
            folders: dict[str, set[str]] = {url: set()}
            for below in self._noted(retried(url, lambda: _found(fs, root)), root.rstrip("/")):
                if str(self._child(below)) in states:
                    parts = below.split("/")
                    for depth, name in enumerate(parts):
                        folders.setdefault("/".join([url, *parts[:depth]]), set()).add(name)
            plain = unquote if self.over_http else str
            _listings.update({folder: sorted(names, key=plain) for folder, names in folders.items()})
        for path in self.iterdir():
            if str(path) in states:
                yield path
            if str(path) in _listings:
                yield from path.files_below()


AnyPath: TypeAlias = Path | RemotePath
"""A file or folder, local or remote; readers use only what both have."""


def _found(fs: Any, root: str) -> dict[str, dict[str, Any]]:
    """All files below ``root``. File systems that walk would pass over in silence what they cannot list."""
    from fsspec.asyn import AbstractFileSystem, AsyncFileSystem

    walks = type(fs)._find is AsyncFileSystem._find if fs.async_impl else type(fs).find is AbstractFileSystem.find
    errors: list[Exception] = []
    found: dict[str, dict[str, Any]] = fs.find(root, detail=True, **({"on_error": errors.append} if walks else {}))
    for error in errors:
        if not found or not isinstance(error, FileNotFoundError):  # a page may well link to what is not there
            raise error
    return found


def source_path(name: str) -> AnyPath:
    """The path of a source; a remote folder is listed now, and no older listing is used. Raises ``UserError`` where it
    is not there, or cannot be reached."""
    path = located(name)
    if not isinstance(path, RemotePath):
        return path
    fs, inner = filesystem(str(path))
    fs.invalidate_cache()
    if not (path.is_dir() if path.over_http else retried(name, lambda: fs.info(inner))["type"] == "directory"):
        state(str(path))
    elif not any(path.files_below()):
        why = "; its server has to list it, or name a manifest in it" if path.over_http else ""
        raise UserError(f"{name}: no files in this folder{why}")
    return path


def expanded(name: str) -> list[str]:
    """The URLs that a pattern matches; ``?`` and ``[`` are what they are in a URL."""
    path = located(name)
    if not isinstance(path, RemotePath) or "*" not in name:
        return [name]
    at = next(parent for parent in path.parents if not has_magic(str(parent)))
    return list(map(str, at.glob("/".join(path.parts[len(at.parts) :]))))


def forget() -> None:
    """Drop all cached listings and file states."""
    states.clear()
    _listings.clear()
    state.cache_clear()
