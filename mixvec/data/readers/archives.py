"""webdataset tars, read in place by seeking to their members; nothing is extracted.

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
from pathlib import PurePosixPath
from typing import BinaryIO

from ...audio import EXTENSIONS
from ...errors import UserError
from ...extents import Window
from .files import shards_in
from .ranges import is_url, opened_audio
from .remote import AnyPath
from .rows import Fault, Reader, Row, Rows, Stored, Wanted, labels_of, named

SIDE_SUFFIXES = (".txt", ".json", ".cls")
LARGEST_SIDE_BYTES = 1 << 20
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


@dataclass(frozen=True)
class Tar:
    """An uncompressed tar, whose members are ranges of its bytes."""

    path: str

    def open(self, place: int, size: int) -> BinaryIO:
        if is_url(self.path):
            return opened_audio(self.path, place, size)
        return io.BufferedReader(Window(open(self.path, "rb", buffering=0), place, size), 1 << 16)


def tar_rows(path: AnyPath, wanted: Wanted) -> Rows:
    """The utterances of a tar, in the order of their first members."""
    if path.name.lower().endswith(COMPRESSED):
        raise UserError(f"{wanted.key}={path}: a compressed tar cannot be read in place; decompress or unpack it")
    utterances: dict[str, dict[str, tuple[tarfile.TarInfo, bytes]]] = {}
    for found in _members(path):
        if isinstance(found, Fault):
            yield found
            continue
        member, file = found
        name = PurePosixPath(member.name)
        if name.is_absolute() or ".." in name.parts:
            raise UserError(f"{path}: its member {member.name} is outside of it; this tar cannot be trusted")
        stem, _, suffix = name.name.partition(".")
        kind = PurePosixPath(f"x.{suffix}").suffix.lower()
        kind = "audio" if kind in EXTENSIONS else kind
        if name.name.startswith(".") or kind not in ("audio", *SIDE_SUFFIXES):
            continue
        own = utterances.setdefault(str(name.parent / stem), {})
        if kind in own:
            yield Fault(f"{path}/{member.name}", f"{path}: {member.name} and {own[kind][0].name} have one name; "
                                                 "the first is kept")  # fmt: skip
            continue
        file.seek(member.offset_data)
        unread = kind == "audio" or member.size > LARGEST_SIDE_BYTES
        own[kind] = member, b"" if unread else file.read(member.size)
    for own in utterances.values():
        if "audio" in own:
            yield _utterance(path, own)


def _members(path: AnyPath) -> Iterator[tuple[tarfile.TarInfo, BinaryIO] | Fault]:
    """The plain files of a tar, and the tar; a fault where it is cut off or damaged, after the members before that."""
    at = 0
    try:
        with path.open("rb") as file, tarfile.open(
            fileobj=_Headers(file), mode="r:", encoding="utf-8", errors="surrogateescape"  # type: ignore[call-overload]
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
    """A tar of which tarfile reads no more than ``LARGEST_SIDE_BYTES`` at once, whatever a damaged header claims."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, size: int) -> bytes:
        return self.file.read(min(size, LARGEST_SIDE_BYTES))


def _utterance(path: AnyPath, own: dict[str, tuple[tarfile.TarInfo, bytes]]) -> Row | Fault:
    audio, _ = own["audio"]
    source = f"{path}/{audio.name}"
    try:
        texts = {kind: _text(*own[kind]) for kind in SIDE_SUFFIXES if kind in own}
        known = json.loads(texts.get(".json", "{}"))
    except (ValueError, RecursionError) as error:
        return Fault(source, f"{source}: the members beside it cannot be read ({error})")
    known = known if isinstance(known, dict) else {}
    text, label = labels_of(known)
    text, label = texts.get(".txt", text), texts.get(".cls", label)
    stored = Stored(Tar(str(path)), audio.offset_data, audio.size)
    return Row(source, str(path), text=text, label=label, fields=known, stored=stored)


def _text(member: tarfile.TarInfo, content: bytes) -> str:
    if member.size > LARGEST_SIDE_BYTES:
        raise ValueError(f"{member.name} is too large for a label")
    return content.decode("utf-8-sig").strip()


TAR = Reader(
    "webdataset tar", "`DIR/shard.tar`, with `.txt`, `.cls` or `.json` beside the audio", "file",
    named(".tar", *COMPRESSED), tar_rows,
)  # fmt: skip
TARS = Reader(
    "webdataset tars", "a folder of `*.tar`", "folder", lambda folder, labels: any(folder.glob("*.tar")),
    lambda folder, wanted: shards_in(folder, wanted, "*.tar", tar_rows),
)  # fmt: skip
