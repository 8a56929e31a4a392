"""Reading audio: any format, rate and channels, whole or in part, to its true end, as 16 kHz mono.

``sound.py`` decodes files, with libsndfile or FFmpeg; ``extents.py`` finds the audio where a header is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .errors import UserError
from .resample import resample_blocks
from .sound import Audio, Sound, name_of, open_sound

EXTENSIONS = frozenset(
    ".wav .wave .flac .ogg .oga .opus .spx .mp3 .aif .aiff .aifc .au .snd .w64 .rf64 .caf .sph "
    ".m4a .m4b .mp4 .mov .3gp .aac .webm .mka .mkv .wma .asf .amr .awb .mp2 .mpga .mpeg .ac3 .ape .wv .avi .ts".split()
)
"""Suffixes, in lower case, of the files of a folder that are taken for audio."""
LOUDEST = 1e10  # sound is within ±1, or ±2^31 where integers were kept as floats; the square of more overflows soon
BLOCK_FRAMES = 1 << 20
QUIET_DB = 60.0
"""A channel so far below the loudest is silent."""
CANCELLED = 1e-3
"""The share of the channels' energy under which their mean is what is left of a sound that cancels."""


class AudioHeader(NamedTuple):
    """What a file holds."""

    frames: int
    rate_hz: int
    channels: int


def audio_header(path: Audio) -> AudioHeader:
    """What reading a file gives, whatever its header states.

    A file whose header can be trusted is not decoded; an MP3 without a Xing header, a FLAC of no stated length and what
    FFmpeg reads are, once.

    Raises:
        UserError: the file is missing, cannot be read, or its header states what cannot be.
    """
    with open_sound(path) as sound:
        frames = sound.frames
        if frames is None:
            frames = sum(map(len, _blocks(sound, 0.0, None)))
        return AudioHeader(frames, sound.rate_hz, sound.channels)


def read_audio(path: Audio, start_s: float = 0.0, duration_s: float | None = None, channel: str = "mean") -> Tensor:
    """A file, or a segment of it found by seeking, as a waveform (S,) at 16 kHz, fp32.

    A segment that reaches beyond the end is cut off there.

    Args:
        channel: ``mean`` of all; the number of one, from 0; or ``loudest``, that with the most energy in the segment.

    Raises:
        UserError: the file is missing, unreadable, empty (in that segment), holds values that cannot be sound, has no
            such channel, or its channels cancel when they are averaged.
    """
    if channel == "loudest":
        with open_sound(path) as sound:
            channel = str(int(np.argmax(_powers(sound, start_s, duration_s)))) if sound.channels > 1 else "0"
    with open_sound(path) as sound:
        blocks = _mono(sound, path, start_s, duration_s, channel)
        found = list(resample_blocks(blocks, sound.rate_hz))  # so a long file at 48 kHz is held one block at a time
    if not sum(map(len, found)):
        raise UserError(f"{name_of(path)}: no audio in it")
    return found[0] if len(found) == 1 else torch.cat(found)


def silent_channels(path: Audio, start_s: float = 0.0, duration_s: float | None = None) -> list[int]:
    """The channels of a segment that are silent beside the loudest, by ``QUIET_DB``; none where all are.

    Raises:
        UserError: the file is missing or unreadable.
    """
    with open_sound(path) as sound:
        powers = _powers(sound, start_s, duration_s) if sound.channels > 1 else np.ones(1)
    silent: list[int] = np.flatnonzero(powers < powers.max() * 10 ** (-QUIET_DB / 10)).tolist()
    return silent


def _blocks(sound: Sound, start_s: float, duration_s: float | None) -> Iterator[np.ndarray]:
    """A segment in blocks (S, channels), cut off where the file ends."""
    count = None if duration_s is None else round(duration_s * sound.rate_hz)
    return sound.blocks(round(start_s * sound.rate_hz), count, max(1, BLOCK_FRAMES // sound.channels))


def _mono(sound: Sound, path: Audio, start_s: float, duration_s: float | None, channel: str) -> Iterator[Tensor]:
    """A segment in blocks (S,): the mean of its channels or one of them, checked for values that cannot be sound."""
    channels, averaged = sound.channels, channel == "mean"
    if not averaged and int(channel) >= channels:
        raise UserError(f"{name_of(path)}: has no channel {channel}, only {channels} from 0 on (data.channel)")
    weights = np.full(channels, 1 / channels, np.float32)  # numpy's mean over so short an axis takes 28 times as long
    each, left = 0.0, 0.0
    for block in _blocks(sound, start_s, duration_s):
        with np.errstate(all="ignore"):
            samples = block @ weights if averaged and channels > 1 else block[:, 0 if averaged else int(channel)]
            if averaged and channels > 1:
                each, left = each + float(np.square(block).sum()) / channels, left + float(samples @ samples)
            fine = np.dot(samples, samples) <= LOUDEST**2  # in one pass; false where one is NaN
        if not fine and not -LOUDEST <= samples.min() <= samples.max() <= LOUDEST:
            raise UserError(f"{name_of(path)}: holds values that cannot be sound (NaN, infinity or over {LOUDEST:g})")
        yield torch.from_numpy(np.ascontiguousarray(samples))
    if left < CANCELLED * each:
        raise UserError(
            f"{name_of(path)}: its {channels} channels cancel when averaged; data.channel=0 reads the first"
        )


def _powers(sound: Sound, start_s: float, duration_s: float | None) -> np.ndarray:
    """The energy (channels,) of each channel of a segment, offsets left out."""
    powers = np.zeros(sound.channels)
    for block in _blocks(sound, start_s, duration_s):
        powers += np.nan_to_num(block.var(axis=0, dtype=np.float64)) * len(block)
    return powers
