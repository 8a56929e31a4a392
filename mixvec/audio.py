"""Reading audio with libsndfile: any rate, any channels, whole or in part, as 16 kHz mono."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .errors import UserError
from .resample import resample_blocks

if TYPE_CHECKING:
    import soundfile

EXTENSIONS = frozenset(
    {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".w64", ".caf", ".sph"}
)
LOWEST_RATE_HZ, HIGHEST_RATE_HZ = 1_000, 1_000_000
FRAMES_PER_BYTE = 2_000  # silence in Opus takes a byte for up to 1,440 samples; no sound comes near
LOUDEST = 1e10  # sound is within ±1, or ±2^31 where integers were kept as floats; the square of more overflows soon
UNKNOWN_FRAMES = 2**36 - 1  # FLAC's largest count; libsndfile gives more where a streamed file states none
BLOCK_FRAMES = 1 << 20

Samples = np.ndarray[tuple[int], np.dtype[np.float32]]


class AudioHeader(NamedTuple):
    """The header of a file."""

    frames: int
    rate_hz: int
    channels: int


def audio_header(path: str | Path | BinaryIO) -> AudioHeader:
    """A file's header, read without decoding.

    Raises:
        UserError: the file is missing, libsndfile cannot read it, or its header states no length or one that cannot be.
    """
    with _sound(path) as file:
        return _header(file, path)


def read_audio(path: str | Path | BinaryIO, start_s: float = 0.0, duration_s: float | None = None) -> Tensor:
    """A file, or a segment of it found by seeking, as a waveform (S,) at 16 kHz, channels averaged, fp32.

    A segment that reaches beyond the end is cut off there.

    Raises:
        UserError: the file is missing, unreadable, empty (in that segment), or holds values that cannot be sound.
    """
    with _sound(path) as file:
        rate_hz = _header(file, path).rate_hz  # checked first, as a filter for a wrong rate could take all memory
        sound = (_checked(block, path) for block in _mono(file, path, start_s, duration_s, BLOCK_FRAMES))
        blocks = list(resample_blocks(sound, rate_hz))  # so a long file at 48 kHz is held one block at a time
    if not sum(map(len, blocks)):
        raise UserError(f"{_name(path)}: no audio in it")
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks)


def _checked(samples: Samples, path: str | Path | BinaryIO) -> Tensor:
    with np.errstate(all="ignore"):
        quiet = np.dot(samples, samples) <= LOUDEST**2  # in one pass; false where one is NaN
    if not quiet and not -LOUDEST <= samples.min() <= samples.max() <= LOUDEST:
        raise UserError(f"{_name(path)}: holds values that cannot be sound (NaN, infinity or over {LOUDEST:g})")
    return torch.from_numpy(samples)


@contextmanager
def _sound(path: str | Path | BinaryIO) -> Iterator[soundfile.SoundFile]:
    import soundfile  # only now, as what is given waveforms needs no libsndfile

    try:
        with soundfile.SoundFile(_openable(path)) as file:
            # read sequentially: soundfile seeks around each read of a seekable file, which in Ogg means decoding again,
            # a third of the time that a second of Opus takes
            file.seekable = lambda: False
            yield file
    except (soundfile.SoundFileError, OSError, TypeError) as error:
        raise UserError(_why(path, error)) from error


def _header(file: soundfile.SoundFile, path: str | Path | BinaryIO) -> AudioHeader:
    """The header, with length and rate checked."""
    if file.frames >= UNKNOWN_FRAMES:
        raise UserError(f"{_name(path)}: its header does not state its length, as when streamed; convert it again")
    if file.samplerate < LOWEST_RATE_HZ:
        raise UserError(f"{_name(path)}: {file.samplerate} Hz is too low a rate for speech; is the header right?")
    if file.samplerate > HIGHEST_RATE_HZ:
        raise UserError(f"{_name(path)}: {file.samplerate} Hz is too high a rate; is the header right?")
    size = _bytes(path)
    if file.frames > FRAMES_PER_BYTE * size:
        hours = file.frames / file.samplerate / 3600
        raise UserError(f"{_name(path)}: its header claims {hours:.1f} h of audio, which {size} bytes cannot hold")
    return AudioHeader(int(file.frames), int(file.samplerate), int(file.channels))


def _mono(
    file: soundfile.SoundFile, path: str | Path | BinaryIO, start_s: float, duration_s: float | None, block_frames: int
) -> Iterator[Samples]:
    """A segment, channels averaged, in blocks (S,), as the header may state more than there is."""
    frames, rate_hz, channels = _header(file, path)
    weights = np.full(channels, 1 / channels, np.float32)  # numpy's mean over so short an axis takes 28 times as long
    start = min(round(start_s * rate_hz), frames)
    if start:
        file.seek(start)
    left = frames - start if duration_s is None else min(round(duration_s * rate_hz), frames - start)
    while left > 0:
        wanted = min(left, max(1, block_frames // channels))
        block = file.read(wanted, dtype="float32", always_2d=True)  # (frames, channels)
        if not len(block):
            break
        with np.errstate(all="ignore"):  # the caller checks for values that are not finite
            yield block[:, 0] if channels == 1 else block @ weights
        left -= len(block)


def _openable(path: str | Path | BinaryIO) -> str | bytes | BinaryIO:
    if not isinstance(path, str | Path):
        return path
    return str(path) if os.name == "nt" else os.fsencode(path)  # bytes: soundfile cannot encode a name that is no text


def _bytes(path: str | Path | BinaryIO) -> int:
    if isinstance(path, str | Path):
        return os.path.getsize(path)
    at = path.tell()
    size = path.seek(0, os.SEEK_END)
    path.seek(at)
    return size


def _name(path: str | Path | BinaryIO) -> str:
    return str(path) if isinstance(path, str | Path) else "stored audio"


def _why(path: str | Path | BinaryIO, error: Exception) -> str:
    if isinstance(path, str | Path):
        if not Path(path).exists():
            return f"{path}: no such file"
        if Path(path).is_dir():
            return f"{path}: a folder, not an audio file"
        if not os.access(path, os.R_OK):
            return f"{path}: no permission to read it"
    reason = str(error).rpartition(": ")[2].rstrip(".")
    return f"{_name(path)}: not audio that libsndfile can read ({reason})"
