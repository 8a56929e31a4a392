"""Which bytes of a file are audio, where its header is wrong about it or silent.

A recorder that died leaves sizes of 0, of 2^32 − 1 or of its last flush; an MP3 without a Xing header has no length;
MP3s and Oggs that were joined state the length of the first. libsndfile believes all of them. ``extents`` finds the
audio from the bytes themselves, and a ``Window`` shows it to libsndfile with the sizes put right.
"""

from __future__ import annotations

import io
import os
import re
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

from .errors import UserError

FAMILIES = {b"RIFF": (12, "<I", b"data"), b"RF64": (12, "<I", b"data"), b"FORM": (12, ">I", b"SSND"),
            b"caff": (8, ">q", b"data")}  # fmt: skip
"""By its first four bytes: where a file's first chunk is, the type of chunk sizes, and the chunk with the samples."""
UNSIZED = 0xFFFFFFFF
FIRST_PAGE = re.compile(rb"OggS\0[\x02\x03\x06\x07]\0{8}.{4}\0{4}.{4}(.)", re.DOTALL)
"""Of an Ogg stream: flagged as the first, of granule 0 and number 0; last the number of bytes that state its size."""
SCAN_BYTES = 1 << 20
TAIL_BYTES = 1 << 16
ID3_BYTES = 128
BEYOND = 64
"""A file of unknown length claims to be so many times as long: 320 kbit/s over 8 is 40."""


class Extent(NamedTuple):
    """Bytes of a file that libsndfile reads as one stream."""

    start: int
    stop: int
    patches: tuple[tuple[int, bytes], ...] = ()
    """Sizes put right: where in the file, and the bytes that are to be there."""
    open_ended: bool = False
    """Whether only decoding shows its length."""
    beyond: bool = False
    """Whether it has to claim more bytes than there are, as libsndfile would stop at its estimate of the length."""


class Window(io.RawIOBase):
    """A range of a file as a file of its own, of which only ``seek``, ``tell``, ``read`` and ``close`` are used.

    Args:
        patches: bytes to show in place of the file's own, by their place in the file.
        claimed: the size that seeking to the end shows; ``size`` by default.
    """

    def __init__(
        self, file: Any, offset: int, size: int, patches: tuple[tuple[int, bytes], ...] = (), claimed: int | None = None
    ) -> None:
        self.file, self.offset, self.size, self.at = file, offset, size, 0
        self.patches, self.claimed = patches, size if claimed is None else claimed

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, to: int, whence: int = os.SEEK_SET) -> int:
        self.at = max(0, to + {os.SEEK_SET: 0, os.SEEK_CUR: self.at, os.SEEK_END: self.claimed}[whence])
        return self.at

    def tell(self) -> int:
        return self.at

    def readinto(self, buffer: Any) -> int:
        view, at = memoryview(buffer), self.offset + self.at
        if self.at >= self.claimed - ID3_BYTES >= self.size:  # libsndfile looks for a tag at the end that is claimed
            piece = bytes(min(len(view), ID3_BYTES))
        else:
            self.file.seek(at)
            wanted = min(len(view), self.size - self.at)
            piece = self.file.read(wanted) if wanted > 0 else b""
        view[: len(piece)] = piece
        for place, new in self.patches:
            first, last = max(place, at), min(place + len(new), at + len(piece))
            if first < last:
                view[first - at : last - at] = new[first - place : last - place]
        self.at += len(piece)
        return len(piece)

    def close(self) -> None:
        self.file.close()
        super().close()


def extents(file: BinaryIO, size: int, *, local: bool = True) -> list[Extent]:
    """The streams of audio in a file of ``size`` bytes, in order; one, of all its bytes, where its header is right.

    Args:
        local: whether reading all of it is cheap. Of a long remote Ogg the last page is read instead, which shows that
            streams follow the first one if it is of another.

    Raises:
        UserError: files of a kind that cannot be read on were joined.
    """
    magic = _read(file, 0, 4)
    if magic == b"OggS":
        starts = _ogg_streams(file) if local or size <= SCAN_BYTES or _other_end(file, size) else [0]
        return [Extent(start, stop) for start, stop in zip(starts, [*starts[1:], size], strict=True)]
    if magic == b"fLaC":
        fields = _read(file, 8, 18)
        total = int.from_bytes(fields[10:18], "big") & (1 << 36) - 1
        ends = _flac_ends(_read(file, max(0, size - TAIL_BYTES), TAIL_BYTES), int.from_bytes(fields[2:4], "big"))
        if total and (total in ends or not ends):
            return [Extent(0, size)]
        kept = fields[13:14][0] & 0xF0 if len(fields) == 18 else 0
        return [Extent(0, size, ((21, bytes([kept, 0, 0, 0, 0])),), open_ended=True)]
    if magic == b".snd":
        offset, claimed = struct.unpack(">2I", _read(file, 4, 8).ljust(8, b"\0"))
        wrong = claimed != UNSIZED and offset + claimed != size
        if wrong and _read(file, offset + claimed, 4) in (*FAMILIES, b".snd"):
            raise UserError("stored audio: several files joined into one; split it again")
        return [Extent(0, size, ((8, b"\xff" * 4),) if wrong else ())]
    if magic in FAMILIES:
        return [Extent(0, size, tuple(_size_patches(file, size, magic)))]
    return [_mp3(file, size) or Extent(0, size)]


def _read(file: BinaryIO, at: int, count: int) -> bytes:
    file.seek(at)
    return file.read(count)


def _size_patches(file: BinaryIO, size: int, magic: bytes) -> Iterator[tuple[int, bytes]]:
    """The size of the chunk of samples put right, in a WAV, AIFF or CAF where it is wrong."""
    at, form, wanted = FAMILIES[magic]
    width, large_at = struct.calcsize(form), None
    while len(head := _read(file, at, 4 + width)) == 4 + width:
        (claimed,) = struct.unpack(form, head[4:])
        begin = at + 4 + width
        if head[:4] == wanted:
            break
        if claimed < 0:
            return
        large_at = begin + 8 if head[:4] == b"ds64" else large_at
        at = begin + claimed + (claimed % 2 if width == 4 else 0)
    else:
        return
    place, kind = at + 4, form
    if magic == b"RF64" and claimed == UNSIZED and large_at is not None:
        place, kind = large_at, "<Q"
        (claimed,) = struct.unpack(kind, _read(file, place, 8))
    left = size - begin
    if 0 <= claimed <= left and any(
        _chunks_follow(file, begin + claimed + pad, size, form) for pad in (claimed % 2, 0)
    ):
        return
    yield place, struct.pack(kind, min(left, UNSIZED) if width == 4 and kind == form else left)


def _chunks_follow(file: BinaryIO, at: int, size: int, form: str) -> bool:
    """Whether there is nothing but chunks, or zeros, from a byte on; raises ``UserError`` for another whole file."""
    width = struct.calcsize(form)
    while at < size:
        head = _read(file, at, 4 + width)
        if head[:4] in (*FAMILIES, b"fLaC", b"OggS"):
            raise UserError("stored audio: several files joined into one; split it again")
        if len(head) < 4 + width or not all(32 <= byte < 127 for byte in head[:4]):
            return not any(head) and not any(_read(file, at, SCAN_BYTES))
        (claimed,) = struct.unpack(form, head[4:])
        if claimed < 0 or at + 4 + width + claimed > size + 1:
            return False
        at += 4 + width + claimed + claimed % 2
    return True


def _flac_ends(tail: bytes, fixed: int) -> set[int]:
    """Where the frames that begin in these bytes of a FLAC end, in samples; one in 256 only looks like a frame.

    Args:
        fixed: the samples of a frame, where frames are numbered rather than samples.
    """
    ends = set()
    for found in re.finditer(rb"(?=(\xff[\xf8\xf9].{4,14}))", tail, re.DOTALL):
        head, code = found[1], found[1][2] >> 4
        ones = 8 - (head[4] ^ 0xFF).bit_length()  # as in UTF-8: how many bytes the number has
        number, end = head[4] & 0x7F >> ones, 4 + max(1, ones)
        for byte in head[5:end]:
            number = number << 6 | byte & 0x3F
        wide = {6: 1, 7: 2}.get(code, 0)
        samples = 576 << code - 2 if 2 <= code <= 5 else 256 << code - 8 if code >= 8 else 192
        samples = int.from_bytes(head[end : end + wide], "big") + 1 if wide else samples
        end += wide + {12: 1, 13: 2, 14: 2}.get(head[2] & 15, 0)
        if end < len(head) and not _crc8(head[: end + 1]):
            ends.add((number if head[1] & 1 else number * fixed) + samples)
    return ends


def _crc8(data: bytes) -> int:
    """The checksum of a FLAC frame's header, by the polynomial x^8 + x^2 + x + 1; 0 with the checksum in ``data``."""
    value = 0
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value << 1 & 0xFF ^ (7 if value & 128 else 0)
    return value


def _ogg_streams(file: BinaryIO) -> list[int]:
    """Where the streams of a chained Ogg begin: at a first page that follows a page that is none."""
    starts, block, at, end = [], b"", 0, -1
    while piece := _read(file, at, SCAN_BYTES):
        block = block[-26:] + piece
        for found in FIRST_PAGE.finditer(block):
            begin = at + len(piece) - len(block) + found.start()
            if begin != end:
                starts.append(begin)
            end = begin + 27 + found[1][0] + sum(_read(file, begin + 27, found[1][0]))
        at += len(piece)
    return starts if starts and starts[0] == 0 else [0, *starts]


def _other_end(file: BinaryIO, size: int) -> bool:
    """Whether the last page of an Ogg is of another stream than the first."""
    end = _read(file, max(0, size - (1 << 16)), 1 << 16)
    last = end.rfind(b"OggS\0")
    return last >= 0 and end[last + 14 : last + 18] != _read(file, 14, 4)


def _mp3(file: BinaryIO, size: int) -> Extent | None:
    """An MP3, without the frame of its Xing header where that is not about all of the file; None for anything else."""
    at = _after_tags(file, 0)
    head = _read(file, at, 200)
    if not _begins_frame(head):
        return None
    for tag, place in ((b"Xing", 8), (b"Info", 8), (b"VBRI", 10)):
        found = head.find(tag)
        if found < 0:
            continue
        whole = tag == b"VBRI" or head[found + 7] & 3 == 3  # it states frames and bytes
        end = at + int.from_bytes(head[found + place + 4 * (tag != b"VBRI") :][:4], "big")
        if whole and end <= size and not _begins_frame(_read(file, _after_tags(file, end), 4)):
            return Extent(0, size)
        behind = at + found + 100  # within this frame, whose bytes are no sound
        start = behind + max(0, _read(file, behind, 4096).find(head[:2]))
        return Extent(start, size, open_ended=True, beyond=True)
    return Extent(0, size, open_ended=True, beyond=True)


def _after_tags(file: BinaryIO, at: int) -> int:
    """Where the ID3 tags that begin at a byte end."""
    while (head := _read(file, at, 10))[:3] == b"ID3" and len(head) == 10:
        at += 10 + sum((byte & 127) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
        at += 10 if head[5] & 16 else 0
    return at


def _begins_frame(head: bytes) -> bool:
    """Whether a frame of MPEG audio, layer III, begins with these bytes."""
    return len(head) > 2 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2 and head[2] >> 4 not in (0, 15)
