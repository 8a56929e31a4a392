"""An audio file, opened by libsndfile or, where that does not know it, by FFmpeg."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, TypeAlias

import numpy as np

from .errors import UserError
from .extents import BEYOND, Extent, Window, extents
from .ffmpeg import INSTALL, ffmpeg_sound

if TYPE_CHECKING:
    import soundfile

LOWEST_RATE_HZ, HIGHEST_RATE_HZ = 1_000, 1_000_000
FRAMES_PER_BYTE = 2_000  # silence in Opus takes a byte for up to 1,440 samples; no sound comes near
UNKNOWN_FRAMES = 2**36 - 1  # FLAC's largest count; libsndfile gives more where a streamed file states none

Audio: TypeAlias = str | Path | BinaryIO


class Sound(Protocol):
    """An open file, by whatever decodes it."""

    rate_hz: int
    channels: int
    frames: int | None
    """None where only decoding shows it."""

    def blocks(self, start: int, count: int | None, block_frames: int) -> Iterator[np.ndarray]:
        """Samples (S, channels) from sample ``start`` on, ``count`` of them or all there are, in blocks."""


class _Streams:
    """A file that libsndfile reads: one stream, or several of one rate that were joined."""

    def __init__(self, streams: list[tuple[soundfile.SoundFile, Extent]], size: int) -> None:
        self.streams, first = streams, streams[0][0]
        self.rate_hz, self.channels = int(first.samplerate), int(first.channels)
        self.frames: int | None = 0
        for file, extent in streams:
            if (file.samplerate, file.channels) != (self.rate_hz, self.channels):
                raise UserError("stored audio: joined of streams of different rates or channels; split it again")
            known = not extent.open_ended and self.frames is not None
            self.frames = self.frames + int(file.frames) if known and self.frames is not None else None
        if self.frames is not None and self.frames > FRAMES_PER_BYTE * size:
            hours = self.frames / self.rate_hz / 3600
            raise UserError(f"stored audio: its header claims {hours:.1f} h of audio, which {size} bytes cannot hold")

    def blocks(self, start: int, count: int | None, block_frames: int) -> Iterator[np.ndarray]:
        left = sys.maxsize if count is None else count
        for file, extent in self.streams:
            frames = sys.maxsize if extent.open_ended else int(file.frames)
            if start >= frames:
                start -= frames
                continue
            dropped, start = start, 0
            if dropped and file.may_seek and not (extent.open_ended and file.format == "FLAC"):
                file.seek(dropped)
                dropped = 0
            while left > 0:  # what cannot be sought is read and dropped
                block = _read(file, min(left + dropped, block_frames), extent.beyond)
                if not len(block):
                    break
                if len(block) > dropped:
                    left -= len(block) - dropped
                    yield block[dropped:]
                dropped = max(0, dropped - len(block))


def _read(file: soundfile.SoundFile, count: int, beyond: bool) -> np.ndarray:
    """Up to ``count`` samples (S, channels); those before an error at what is ``beyond`` the end of a file."""
    import soundfile

    if not beyond:
        return file.read(count, dtype="float32", always_2d=True)  # type: ignore[no-any-return]
    block = np.full((count, file.channels), np.nan, np.float32)
    try:
        return file.read(out=block)  # type: ignore[no-any-return]
    except soundfile.LibsndfileError:
        return block[: int(np.argmax(np.isnan(block[:, 0])))]


@contextmanager
def open_sound(path: Audio) -> Iterator[Sound]:
    """A file, opened by libsndfile or, where that does not know it, by FFmpeg.

    Raises:
        UserError: neither can read it, now or later.
    """
    if isinstance(path, bytes | bytearray):
        raise TypeError("bytes are neither the name of a file nor a file: wrap them in io.BytesIO")
    import soundfile  # only now, as what is given waveforms needs no libsndfile

    with ExitStack() as stack:
        try:
            file = stack.enter_context(open(path, "rb")) if isinstance(path, str | Path) else path
            size = file.seek(0, os.SEEK_END)
            sound: Any
            try:
                sound = _by_libsndfile(path, file, size, stack)
            except soundfile.LibsndfileError as error:
                file.seek(0)
                try:
                    sound = stack.enter_context(ffmpeg_sound(Window(file, 0, size)))  # its name is no evidence
                except UserError as other:
                    raise UserError(_why(path, error, f"; {INSTALL}" if str(other) == INSTALL else "")) from error
            _check_rate(sound.rate_hz, path)
            yield sound
        except (soundfile.SoundFileError, OSError, TypeError, ValueError) as error:
            raise UserError(_why(path, error)) from error
        except UserError as error:
            raise UserError(str(error).replace("stored audio", name_of(path), 1)) from error


def _by_libsndfile(path: Audio, file: BinaryIO, size: int, stack: ExitStack) -> _Streams:
    import soundfile

    class Sequential(soundfile.SoundFile):  # type: ignore[misc]
        """Read without seeking: soundfile seeks around each read of a seekable file, which costs time in Ogg and, in
        MP3, gives other samples than reading on."""

        @property
        def may_seek(self) -> bool:
            return bool(super().seekable())

        def seekable(self) -> bool:
            return False

    local = isinstance(path, str | Path)
    if local:
        state = os.fstat(file.fileno())
        found = _extents_of(os.path.abspath(path), state.st_size, state.st_mtime_ns)  # type: ignore[arg-type]
    else:
        found = extents(file, size, local=False)
        file.seek(0)
    streams = []
    for extent in found:
        whole = extent[:3] == (0, size, ()) and not extent.beyond
        opened: Any = _openable(path) if whole else _window(file, extent)
        streams.append((stack.enter_context(Sequential(opened)), extent))
        if streams[-1][0].frames >= UNKNOWN_FRAMES:
            streams[-1] = streams[-1][0], extent._replace(open_ended=True)
    return _Streams(streams, size)


def _window(file: BinaryIO, extent: Extent) -> Window:
    size = extent.stop - extent.start
    claimed = BEYOND * size if extent.beyond else size
    return Window(file, extent.start, size, extent.patches, claimed)


@lru_cache(maxsize=4096)
def _extents_of(path: str, size: int, mtime_ns: int) -> list[Extent]:
    """``extents`` of a local file in this state, found once, as a long recording is opened for each of its segments."""
    with open(path, "rb") as file:
        return extents(file, size, local=True)


def _check_rate(rate_hz: int, path: Audio) -> None:
    """Before anything is read, as a filter for a wrong rate could take all memory."""
    if rate_hz < LOWEST_RATE_HZ:
        raise UserError(f"{name_of(path)}: {rate_hz} Hz is too low a rate for speech; is the header right?")
    if rate_hz > HIGHEST_RATE_HZ:
        raise UserError(f"{name_of(path)}: {rate_hz} Hz is too high a rate; is the header right?")


def _openable(path: Audio) -> str | bytes | BinaryIO:
    if not isinstance(path, str | Path):
        return path
    return str(path) if os.name == "nt" else os.fsencode(path)  # bytes: soundfile cannot encode a name that is no text


def name_of(path: Audio) -> str:
    return str(path) if isinstance(path, str | Path) else "stored audio"


def _why(path: Audio, error: Exception, remedy: str = "") -> str:
    if isinstance(path, str | Path):
        if not Path(path).exists():
            return f"{path}: no such file"
        if Path(path).is_dir():
            return f"{path}: a folder, not an audio file"
        if not os.access(path, os.R_OK):
            return f"{path}: no permission to read it"
    return f"{name_of(path)}: not audio that libsndfile can read ({_reason(error)}){remedy}"


def _reason(error: Exception) -> str:
    return str(error).rpartition(": ")[2].rstrip(".")
