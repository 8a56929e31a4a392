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
from .ranges import State, filesystem, is_url, listed, opened_range, state, state_of
from .retries import Missing, retried

FILES = (*EXTENSIONS, ".jsonl", ".json", ".gz", ".csv", ".tsv", ".txt", ".tar", ".tgz", ".bz2", ".xz", ".zst",
         ".parquet", ".arrow")  # fmt: skip
"""Suffixes by which files are told from folders over HTTP, which has no folders."""

_whole: dict[str, list[RemotePath]] = {}
"""The files below each folder that was listed to any depth."""


def located(name: str) -> AnyPath:
    """A path for what a configuration or a manifest names: a local one, also for ``file://``.

    Raises:
        UserError: nothing can open such a URL.
    """
    if not is_url(name):
        return Path(name)
    if "::" in name:
        raise UserError(f"{name}: file systems inside others are not read; unpack it, or name the file itself")
    protocol, _, rest = name.partition("://")
    if protocol in ("file", "local"):
        return Path(filesystem(name)[1])
    query = mark = ""
    if protocol in ("http", "https"):
        rest, mark, query = rest.partition("?")
        rest = rest.partition("#")[0]
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
        beside = self.parent._known()
        if beside is not None:
            return beside.get(self.parts[-1]) is not None
        try:
            return state(str(self)) is not None
        except Missing:
            return False

    def is_dir(self) -> bool:
        """Whether there is anything in it; over HTTP, before it is listed, whether it is named like a folder."""
        if self.over_http and self._known() is None:
            return not self.name.lower().endswith(FILES)
        return bool(self._children())

    def iterdir(self) -> Iterator[RemotePath]:
        return (self._child(name) for name in self._children())

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

    def _known(self) -> dict[str, State | None] | None:
        """What is in this folder, where it or one above it was listed; None where neither was."""
        if _whole and str(self) not in listed and any(str(path) in _whole for path in self.parents):
            return {}
        return listed.get(str(self))

    def _children(self) -> dict[str, State | None]:
        known = self._known()
        if known is None:
            url = str(self)
            fs, root = filesystem(url)
            with suppress(Missing):
                self._note({entry["name"]: entry for entry in retried(url, lambda: fs.ls(root, detail=True))}, root)
            known = listed.setdefault(url, {})
        return known

    def _note(self, entries: dict[str, dict[str, Any]], root: str) -> list[RemotePath]:
        """Remember a listing of this folder; the files in it, hidden ones left out."""
        files = []
        for name, entry in entries.items():
            below = (name[len(root) :] if name.startswith(root) else "").strip("/")
            if not below or below.startswith(".") or "/." in below or (self.over_http and "?" in below):
                continue
            path = self._child(below)
            is_file = entry.get("type") != "directory"
            listed.setdefault(str(path.parent), {})[path.parts[-1]] = state_of(entry) if is_file else None
            for folder in path.parents[: len(path.parts) - len(self.parts) - 1]:
                listed.setdefault(str(folder.parent), {}).setdefault(folder.parts[-1])
            if is_file:
                files.append(path)
        return files

    def files_below(self) -> list[RemotePath]:
        """Every file at any depth, in a fixed order, in one listing; hidden files and folders left out."""
        url = str(self)
        if url not in _whole:
            fs, root = filesystem(url)
            files = self._note(retried(url, lambda: _found(fs, root)), root.rstrip("/"))
            listed.setdefault(url, {})
            plain = unquote if self.over_http else str
            _whole[url] = sorted(files, key=lambda path: plain(str(path)).split("/"))
        return _whole[url]


AnyPath: TypeAlias = Path | RemotePath
"""A file or folder, local or remote; readers use only what both have."""


def _found(fs: Any, root: str) -> dict[str, dict[str, Any]]:
    """All files below ``root``. File systems that walk would pass over in silence what they cannot list."""
    from fsspec.asyn import AbstractFileSystem, AsyncFileSystem

    walks = type(fs)._find is AsyncFileSystem._find if fs.async_impl else type(fs).find is AbstractFileSystem.find
    if not walks:
        return fs.find(root, detail=True)  # type: ignore[no-any-return]
    errors: list[Exception] = []
    found = fs.find(root, detail=True, on_error=errors.append)
    for error in errors:
        if not found or not isinstance(error, FileNotFoundError):  # a page may well link to what is not there
            raise error
    return found  # type: ignore[no-any-return]


def source_path(name: str) -> AnyPath:
    """The path of a source; a remote folder is listed now, and no older listing is used.

    Raises:
        UserError: it is not there, or cannot be reached.
    """
    path = located(name)
    if not isinstance(path, RemotePath):
        return path
    fs, inner = filesystem(str(path))
    fs.invalidate_cache()
    if path.over_http:
        folder = path.is_dir()
    else:
        folder = retried(name, lambda: fs.info(inner))["type"] == "directory"
    if not folder:
        state(str(path))
    elif not path.files_below():
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
    listed.clear()
    _whole.clear()
    state.cache_clear()
