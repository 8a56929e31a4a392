"""What a user names on the command line, as clips of audio: files, folders, lists, manifests, URLs, standard input."""

from __future__ import annotations

import glob
import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePath, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from torch import Tensor

from ..audio import read_audio
from ..errors import UserError

KEY = "FILES"
"""The name under which the readers of data report a source, which is cut off their messages."""


@dataclass(frozen=True)
class Clip:
    """Audio to answer for."""

    name: str
    """The file, the URL, or the audio's name inside something larger: ``shard.tar/a.flac``, ``table[3]``."""
    place: PurePath
    """Where its output belongs below ``--text-dir``, without a suffix."""
    read: Callable[[], Tensor]
    """The waveform (S,) at 16 kHz; raises ``UserError`` where it cannot be decoded."""
    span: dict[str, float] = field(default_factory=dict)
    """``start_s`` and ``duration_s`` where a manifest names a segment of the file."""


def clips_of(names: list[str], channel: str = "mean") -> Iterator[Clip | UserError]:
    """The clips that the names on a command line stand for, in order; an error in place of each that cannot be used.

    Args:
        channel: of a file with several, as ``read_audio`` takes it.
    """
    for name in names:
        piped = name == "-" or Path(name).is_fifo() or Path(name).is_char_device()
        try:
            yield from [_piped(name, channel)] if piped else _listed(name, channel)
        except UserError as error:
            yield UserError(str(error).replace(f"{KEY}=", ""))


def _piped(name: str, channel: str) -> Clip:
    """Audio from standard input or a named pipe, read to its end when its turn comes."""

    def read() -> Tensor:
        if name == "-" and sys.stdin.isatty():
            raise UserError("-: standard input is a terminal; pipe audio into it, as in: mixvec … - < speech.wav")
        try:
            content = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        except OSError as error:
            raise UserError(f"{name}: cannot be read ({error.strerror})") from error
        if not content:
            raise UserError(f"{name}: empty")
        with _reported(name):
            return read_audio(io.BytesIO(content), channel=channel)

    return Clip(name, PurePath("stdin" if name == "-" else PurePath(name).name), read)


@contextmanager
def _reported(name: str) -> Iterator[None]:
    """Errors of reading, in the words of the command line."""
    try:
        yield
    except UserError as error:
        message = str(error).replace("stored audio", name, 1)
        raise UserError(message.replace("data.channel=", "--channel ").replace("data.channel", "--channel")) from error


def _listed(name: str, channel: str) -> Iterator[Clip | UserError]:
    """The clips of a file, folder, glob, manifest or URL, by the readers of ``mixvec.data``."""
    from ..data.readers.ranges import is_url
    from ..data.readers.rows import Fault
    from ..data.sources import shards_of

    if not is_url(name) and not Path(name).exists() and not glob.has_magic(name):
        raise UserError(f"{name}: no such file")
    found, notes = False, list[str]()
    for shard in shards_of(name, KEY, labels=False):
        for row in shard.rows:
            if isinstance(row, Fault) and not row.counted:  # files that are no audio
                notes.append(row.reason)
                continue
            found = True
            yield UserError(row.reason) if isinstance(row, Fault) else _clip(row, name, channel)
    if not found:
        raise UserError("; ".join([f"{name}: no audio in this folder", *notes]).replace(f"{name}: no audio: ", ""))
    if notes:
        print("note: " + "; ".join(notes), file=sys.stderr)


def _clip(row: Any, name: str, channel: str) -> Clip:
    from ..audio import audio_header
    from ..data.headers import opened
    from ..data.readers.rows import Fault
    from ..data.sources import utterance_of

    segment = bool(row.start_s) or row.duration_s is not None or row.span_samples is not None

    def read() -> Tensor:
        with _reported(row.source), opened(row.source, row.stored) as file:
            if not segment:
                return read_audio(file, channel=channel)
            found = utterance_of(row, audio_header(file), 0)
            if isinstance(found, Fault):
                raise UserError(found.reason)
            return read_audio(file, found.start_s, found.duration_s, channel)

    span = {"start_s": row.start_s, "duration_s": row.duration_s} if segment and row.span_samples is None else {}
    first = row.span_samples[0] if row.span_samples else row.start_s
    place = _place(row.source, name)
    place = place.with_name(f"{place.name}-{first:g}") if segment else place
    return Clip(row.source, place, read, span)


def _place(source: str, name: str) -> PurePath:
    """The path of a source below the folder that was named, or its last part; never one that leads out of a folder."""
    path = PurePosixPath(unquote(urlsplit(source).path)) if "://" in source else PurePath(source)
    above = PurePosixPath(unquote(urlsplit(name).path)) if "://" in name else PurePath(name)
    below = path.relative_to(above) if path.is_relative_to(above) and path != above else PurePath(path.name)
    parts = [part for part in below.parts if part not in ("..", "/", "\\")]
    return PurePath(*parts).with_suffix("") if parts else PurePath("audio")
