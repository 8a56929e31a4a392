"""webdataset tars, read by seeking to the members where they lie; nothing is extracted.

Members of one name up to the first dot of their last part are one utterance: its audio, and ``.txt`` (text),
``.cls`` (label) or ``.json`` (an object with either).
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from ...audio import EXTENSIONS
from ...errors import UserError
from .ranges import is_url, opened_audio
from .rows import Fault, Row, Rows, labels_of

SIDE_SUFFIXES = (".txt", ".json", ".cls")
LARGEST_SIDE_BYTES = 1 << 20


@dataclass(frozen=True)
class TarMember:
    """Where a member's bytes lie in an uncompressed tar."""

    path: str
    offset: int
    size: int

    def open(self) -> BinaryIO:
        if is_url(self.path):
            return opened_audio(self.path, self.offset, self.size)
        return io.BufferedReader(_Window(self.path, self.offset, self.size), 1 << 16)  # type: ignore[return-value]


class _Window(io.RawIOBase):
    """A stretch of a file as a file of its own."""

    def __init__(self, path: str, offset: int, size: int) -> None:
        self.file = open(path, "rb", buffering=0)  # noqa: SIM115  (close() closes it)
        self.offset, self.size, self.at = offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, to: int, whence: int = os.SEEK_SET) -> int:
        self.at = max(0, to + {os.SEEK_SET: 0, os.SEEK_CUR: self.at, os.SEEK_END: self.size}[whence])
        return self.at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        wanted = max(0, min(len(buffer), self.size - self.at))
        self.file.seek(self.offset + self.at)
        got = self.file.readinto(memoryview(buffer)[:wanted])
        self.at += got
        return got

    def close(self) -> None:
        self.file.close()
        super().close()


def tar_rows(path: Path) -> Rows:
    """The utterances of a tar, in the order of their first members."""
    utterances: dict[str, dict[str, tuple[tarfile.TarInfo, bytes]]] = {}
    for found in _members(path):
        if isinstance(found, Fault):
            yield found
            continue
        member, file = found
        name = PurePosixPath(member.name)
        if name.is_absolute() or ".." in name.parts:
            raise UserError(f"{path}: its member {member.name} lies outside of it; no tar that can be trusted")
        stem, _, suffix = name.name.partition(".")
        kind = PurePosixPath(f"x.{suffix}").suffix.lower()
        kind = "audio" if kind in EXTENSIONS else kind
        if name.name.startswith(".") or kind not in ("audio", *SIDE_SUFFIXES):
            continue
        own = utterances.setdefault(str(name.parent / stem), {})
        if kind in own:
            yield Fault(f"{path}/{member.name}", f"{path}: {member.name} and {own[kind][0].name} are of one name; "
                                                 "the first is kept")  # fmt: skip
        else:
            own[kind] = member, b"" if kind == "audio" else _side(member, file)
    for own in utterances.values():
        if "audio" in own:
            yield _utterance(path, own)


def _members(path: Path) -> Iterator[tuple[tarfile.TarInfo, BinaryIO] | Fault]:
    """The plain files of a tar, and the tar; a fault where it is cut off or damaged, what stands before it kept."""
    at = 0
    try:
        with path.open("rb") as file, tarfile.open(
            fileobj=_Headers(file), mode="r:", encoding="utf-8", errors="surrogateescape"
        ) as tar:  # fmt: skip
            size = file.seek(0, os.SEEK_END)
            while (member := tar.next()) is not None:
                if tar.offset <= at:
                    raise tarfile.ReadError("a member of negative size")
                if member.isreg() and member.offset_data + member.size > size:
                    yield Fault(f"{path}/{member.name}", f"{path}: cut off within {member.name}; copy it again")
                elif member.isreg() and not member.issparse():
                    yield member, file
                tar.members, at = [], tar.offset  # tarfile keeps them all, else
            file.seek(tar.offset)
            if any(file.read(tarfile.BLOCKSIZE)):
                yield Fault(str(path), f"{path}: damaged at byte {tar.offset}; what follows could not be read")
    except PermissionError as error:
        raise UserError(f"{path}: no permission to read it") from error
    except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
        if "unexpected end" in str(error):
            return  # the member that is cut off has been named
        if at:
            yield Fault(str(path), f"{path}: damaged at byte {at}; what follows could not be read ({error})")
            return
        raise UserError(f"{path}: not an uncompressed tar ({error}); if it is compressed, decompress it: "
                        "its members are found by seeking") from error  # fmt: skip


class _Headers:
    """A tar as tarfile reads it: its headers, of which the longest holds a name. One that claims more gets no more."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, size: int) -> bytes:
        return self.file.read(min(size, LARGEST_SIDE_BYTES))


def _utterance(path: Path, own: dict[str, tuple[tarfile.TarInfo, bytes]]) -> Row | Fault:
    audio, _ = own["audio"]
    source = f"{path}/{audio.name}"
    try:
        said = {kind: _text(*own[kind]) for kind in SIDE_SUFFIXES if kind in own}
        known = json.loads(said.get(".json", "{}"))
    except (ValueError, RecursionError) as error:
        return Fault(source, f"{source}: the members beside it cannot be read ({error})")
    known = known if isinstance(known, dict) else {}
    text, label = labels_of(known)
    text, label = said.get(".txt", text), said.get(".cls", label)
    stored = TarMember(str(path), audio.offset_data, audio.size)
    return Row(source, str(path), text=text, label=label, fields=known, stored=stored)


def _side(member: tarfile.TarInfo, file: BinaryIO) -> bytes:
    if member.size > LARGEST_SIDE_BYTES:
        return b""
    file.seek(member.offset_data)
    return file.read(member.size)


def _text(member: tarfile.TarInfo, content: bytes) -> str:
    if member.size > LARGEST_SIDE_BYTES:
        raise ValueError(f"{member.name} is too large for a label")
    return content.decode("utf-8-sig").strip()
