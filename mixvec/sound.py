"""An audio file, opened by libsndfile or, where that does not know it (m4a, webm, wma, …), by FFmpeg through PyAV."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeAlias

import numpy as np

from .errors import UserError
from .extents import BEYOND, Extent, Window, extents

LOWEST_RATE_HZ, HIGHEST_RATE_HZ = 1_000, 1_000_000
FRAMES_PER_BYTE = 2_000  # silence in Opus takes a byte for up to 1,440 samples; no sound comes near
UNKNOWN_FRAMES = 2**36 - 1  # FLAC's largest count; libsndfile gives more where a streamed file states none

INSTALL = "what FFmpeg decodes is read where PyAV is installed: pip install 'mixvec[av]'"
PREROLL_S = 1.0
"""Decoding resumes so long before a place that is sought, as a codec overlaps its frames."""
SOUGHT_FROM_S = 20.0
"""A segment that starts earlier is decoded from the file's beginning."""
INDEXED = {"mov", "matroska", "asf", "avi"}
"""Containers that state the time of each packet. In others a place is only estimated, and all before it is decoded."""
OPTIONS = {"protocol_whitelist": "none"}
"""A playlist may make FFmpeg open other files and addresses; none is opened."""
NO_AUDIO = {"concat", "concatf", "hls", "dash", "image2", "tty"}

Audio: TypeAlias = str | Path | BinaryIO


class Stream(NamedTuple):
    """A stream of audio that libsndfile has opened."""

    file: Any
    """A ``soundfile.SoundFile``."""
    frames: int | None
    """None where only decoding shows it."""
    seeks: bool
    beyond: bool
    """Whether reading ends in an error at the end of the file."""

    def read(self, count: int) -> np.ndarray:
        """Up to ``count`` samples (S, channels); those before an error at the end of a file."""
        import soundfile

        if not self.beyond:
            return self.file.read(count, dtype="float32", always_2d=True)  # type: ignore[no-any-return]
        block = np.full((count, self.file.channels), np.nan, np.float32)
        try:
            return self.file.read(out=block)  # type: ignore[no-any-return]
        except soundfile.LibsndfileError:
            return block[: int(np.argmax(np.isnan(block[:, 0])))]


class SndfileSound:
    """A file that libsndfile reads: one stream, or several of one rate that were joined."""

    def __init__(self, streams: list[Stream], size: int) -> None:
        self.streams, first = streams, streams[0].file
        self.rate_hz, self.channels = int(first.samplerate), int(first.channels)
        if any((one.file.samplerate, one.file.channels) != (self.rate_hz, self.channels) for one in streams):
            raise UserError("stored audio: joined of streams of different rates or channels; split it again")
        known = [one.frames for one in streams if one.frames is not None]
        self.frames = sum(known) if len(known) == len(streams) else None
        """None where only decoding shows it."""
        if self.frames and self.frames > FRAMES_PER_BYTE * size:
            hours = self.frames / self.rate_hz / 3600
            raise UserError(f"stored audio: its header claims {hours:.1f} h of audio, which {size} bytes cannot hold")

    def blocks(self, start: int, count: int | None, block_frames: int) -> Iterator[np.ndarray]:
        """Samples (S, channels) from sample ``start`` on, ``count`` of them or all there are, in blocks."""
        left = sys.maxsize if count is None else count
        for stream in self.streams:
            if stream.frames is not None and start >= stream.frames:
                start -= stream.frames
                continue
            dropped, start = start, 0
            if dropped and stream.seeks:
                stream.file.seek(dropped)
                dropped = 0
            while left > 0:  # what cannot be sought is read and dropped
                block = stream.read(min(left + dropped, block_frames))
                if not len(block):
                    break
                if len(block) > dropped:
                    left -= len(block) - dropped
                    yield block[dropped:]
                dropped = max(0, dropped - len(block))


class FfmpegSound:
    """A file that FFmpeg reads."""

    frames: int | None = None
    """Containers state durations that decoding does not confirm."""

    def __init__(self, container: Any) -> None:
        if not container.streams.audio or {*container.format.name.split(",")} & NO_AUDIO:
            raise UserError("no audio stream")
        self.container, self.stream = container, container.streams.audio[0]
        if self.stream.codec_context is None:
            raise UserError("an audio stream that FFmpeg has no decoder for")
        self.rate_hz, self.channels = int(self.stream.rate or 0), int(self.stream.channels or 0)
        if not self.channels:
            raise UserError("an audio stream without channels")

    def blocks(self, start: int, count: int | None, block_frames: int) -> Iterator[np.ndarray]:
        """Samples (S, channels) from sample ``start`` on, ``count`` of them or all, as FFmpeg's frames are long."""
        import av

        at, first = 0, 0
        if start > SOUGHT_FROM_S * self.rate_hz and INDEXED & {*self.container.format.name.split(",")}:
            first = next(self.container.decode(self.stream)).samples
            begin = (self.stream.start_time or 0) * self.stream.time_base
            self.container.seek(
                int((begin + start / self.rate_hz - PREROLL_S) / self.stream.time_base), stream=self.stream
            )
            at = -1
        resampler = av.AudioResampler(format="fltp", layout=self.stream.layout, rate=self.rate_hz)
        for frame in self.container.decode(self.stream):
            if at < 0:  # times may be in milliseconds, while frames are of whole samples, mostly as many
                about = float((frame.pts or 0) * self.stream.time_base - begin) * self.rate_hz
                at = first + round((about - first) / frame.samples) * frame.samples
                at = at if abs(at - about) <= self.stream.time_base * self.rate_hz else round(about)
            for converted in resampler.resample(frame):
                block = converted.to_ndarray().T  # (S, channels)
                begin = max(0, start - at)
                end = len(block) if count is None else min(len(block), start + count - at)
                at += len(block)
                if begin < end:
                    yield block[begin:end]
            if count is not None and at >= start + count:
                return


@contextmanager
def ffmpeg_sound(file: Any) -> Iterator[FfmpegSound]:
    """A file that FFmpeg can decode.

    Raises:
        UserError: PyAV is not installed, or FFmpeg finds no audio in it or fails.
    """
    try:
        import av
    except ImportError as error:
        raise UserError(INSTALL) from error
    av.logging.set_level(None)
    try:
        with av.open(file, options=OPTIONS, metadata_errors="ignore") as container:
            yield FfmpegSound(container)
    except (av.FFmpegError, ValueError, EOFError) as error:
        raise UserError(f"FFmpeg: {getattr(error, 'strerror', None) or error}") from error


Sound: TypeAlias = SndfileSound | FfmpegSound


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
            sound: Sound
            try:
                sound = _by_libsndfile(path, file, size, stack)
            except soundfile.LibsndfileError as error:
                file.seek(0)
                try:
                    sound = stack.enter_context(ffmpeg_sound(Window(file, 0, size)))  # its name is no evidence
                except UserError as other:
                    raise UserError(_why(path, error, f"; {INSTALL}" if str(other) == INSTALL else "")) from error
            rate_hz = sound.rate_hz  # of which a wrong one would make a filter that could take all memory
            if not LOWEST_RATE_HZ <= rate_hz <= HIGHEST_RATE_HZ:
                which = "low" if rate_hz < LOWEST_RATE_HZ else "high"
                raise UserError(f"{name_of(path)}: {rate_hz} Hz is too {which} a rate for speech; is the header right?")
            yield sound
        except (soundfile.SoundFileError, OSError, TypeError, ValueError) as error:
            raise UserError(_why(path, error)) from error
        except UserError as error:
            raise UserError(str(error).replace("stored audio", name_of(path), 1)) from error


def _by_libsndfile(path: Audio, file: BinaryIO, size: int, stack: ExitStack) -> SndfileSound:
    import soundfile

    opened: Any = path
    if isinstance(path, str | Path):
        found = _extents_of(os.path.abspath(path), size, os.fstat(file.fileno()).st_mtime_ns)
        opened = (
            str(path) if os.name == "nt" else os.fsencode(path)
        )  # as soundfile cannot encode a name that is no text
    else:
        found = extents(file, size, local=False)
        file.seek(0)
    streams = []
    for extent in found:
        length = extent.stop - extent.start
        if extent[:3] != (0, size, ()) or extent.beyond:
            opened = Window(file, extent.start, length, extent.patches, BEYOND * length if extent.beyond else length)
        sound = stack.enter_context(soundfile.SoundFile(opened))
        unknown = extent.open_ended or sound.frames >= UNKNOWN_FRAMES
        seeks = sound.seekable() and not (unknown and sound.format == "FLAC")
        # soundfile seeks around each read of a seekable file: it takes time in Ogg, and gives other samples in MP3
        sound.seekable = lambda: False
        streams.append(Stream(sound, None if unknown else int(sound.frames), seeks, extent.beyond))
    return SndfileSound(streams, size)


@lru_cache(maxsize=4096)
def _extents_of(path: str, size: int, mtime_ns: int) -> list[Extent]:
    """``extents`` of a local file in this state, found once, as a long recording is opened for each of its segments."""
    with open(path, "rb") as file:
        return extents(file, size)


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
    reason = str(error).rpartition(": ")[2].rstrip(".")
    return f"{name_of(path)}: not audio that libsndfile can read ({reason}){remedy}"
