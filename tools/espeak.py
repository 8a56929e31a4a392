"""Speech synthesis in this process, by espeak-ng through ctypes: about 1000 times real time.

    from tools.espeak import synthesise
    waveform = synthesise("turn on the kitchen lights", "en-us+f3")  # (S,) float32 at 16 kHz

A voice is an accent and a variant, ``en-us+f3``, or an accent alone, ``en-us``. The library and its data come with the
Python package ``espeakng_loader``. espeak keeps the state of its noise and of its pitch flutter from one utterance to
the next, and initialising it again does not clear that, so the library is unloaded and loaded (0.4 ms) before each
utterance: the same arguments give the same samples, whatever came before and in whichever process.
"""

from __future__ import annotations

import _ctypes
import contextlib
import ctypes
import functools
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import espeakng_loader  # type: ignore[import-untyped]
import numpy as np
import torch
import torchaudio

from mixvec.errors import UserError

SAMPLE_RATE_HZ = 16_000
ACCENTS = ("en-029", "en", "en-gb-scotland", "en-gb-x-rp", "en-us", "en-us-nyc")

_ESPEAK_RATE_HZ = 22_050
_SYNCHRONOUS = 2  # the output mode in which espeak_Synth returns once all samples have gone to the callback
_DONT_EXIT = 0x8000  # on missing data return an error; without it espeak ends the process
_UTF8 = 1
_RATE, _VOLUME, _PITCH, _PITCH_RANGE = 1, 2, 3, 4
_VOLUME_PERCENT = 70  # at 100 many variants clip
_LONGEST_DATA_PATH = 140  # espeak cuts off longer ones, and then loses its variants silently
_SEED = 1

_PHONEME_EVENTS = 1
_PHONEME = 7  # the type of an event that starts a phoneme; 0 ends a list of events


class _Event(ctypes.Structure):
    """espeak's ``espeak_EVENT``, of which only the type, the sample and the phoneme's name are read."""

    _fields_ = (
        ("type", ctypes.c_int), ("identifier", ctypes.c_uint), ("text_position", ctypes.c_int),
        ("length", ctypes.c_int), ("audio_position", ctypes.c_int), ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p), ("name", ctypes.c_char * 8),
    )  # fmt: skip


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(_Event))
_lock = threading.Lock()  # the library has one state for the whole process


class Phone(NamedTuple):
    """A phoneme of espeak's, without its stress mark; ``_`` and ``_:`` are pauses."""

    name: str
    start_s: float
    end_s: float


def _after_fork() -> None:
    """Free the child's lock, and keep torch to one thread there: more would wait for ever for the parent's threads."""
    _lock.release()
    torch.set_num_threads(1)


os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_after_fork)


@functools.cache
def voices() -> frozenset[str]:
    """Every English voice that ``synthesise`` takes: each accent alone and with each variant of the installed data."""
    folder = Path(espeakng_loader.get_data_path(), "voices", "!v")
    variants = [path.name for path in folder.iterdir() if path.is_file()]
    return frozenset(ACCENTS) | {f"{accent}+{variant}" for accent in ACCENTS for variant in variants}


def synthesise(
    text: str, voice: str = "en-us", *, rate_wpm: int = 175, pitch: int = 50, pitch_range: int = 50,
    phones: list[Phone] | None = None,
) -> np.ndarray:  # fmt: skip
    """Speak ``text``: float32 samples (S,) at 16 kHz, mono, all of absolute value below 1.

    ``rate_wpm`` is the speed in words per minute, 80 to 450; ``pitch`` and ``pitch_range`` are between 0 and 99, with
    50 the default of each voice. The result depends on the arguments alone. Safe to call from several threads (they
    take turns) and in forked or spawned processes. ``phones`` gets the phonemes that are spoken, with their times.

    Raises:
        UserError: an unknown voice, a number out of its range, a text without words, or no library.
    """
    if voice not in voices():
        raise UserError(f"unknown voice {voice!r}: use one of {', '.join(ACCENTS)}, or one with a variant: en-us+f3")
    for name, value, bounds in (("rate_wpm", rate_wpm, (80, 450)), ("pitch", pitch, (0, 99)),
                                ("pitch_range", pitch_range, (0, 99))):  # fmt: skip
        if not bounds[0] <= value <= bounds[1]:
            raise UserError(f"{name} is {value}: choose a whole number from {bounds[0]} to {bounds[1]}")
    if not any(character.isalnum() for character in text):
        raise UserError(f"no word in the text {text!r}")
    settings = {_RATE: rate_wpm, _VOLUME: _VOLUME_PERCENT, _PITCH: pitch, _PITCH_RANGE: pitch_range}
    with _lock, _data_folder() as data:
        pcm, events = _speak(text, voice, settings, data)
    if not pcm:
        raise UserError(f"espeak-ng gave no audio for the text {text!r}: write it in plain English words")
    if phones is not None:
        ends = [start for _, start in events[1:]] + [len(pcm) // 2]
        phones += [Phone(name.lstrip("',%"), start / _ESPEAK_RATE_HZ, end / _ESPEAK_RATE_HZ)
                   for (name, start), end in zip(events, ends, strict=True)]  # fmt: skip
    waveform = torch.from_numpy(np.frombuffer(pcm, np.int16).astype(np.float32) / 32_768)
    waveform = _resampler()(waveform)
    peak = float(waveform.abs().max())
    samples: np.ndarray = (waveform if peak < 0.99 else waveform * (0.99 / peak)).numpy()  # resampling may overshoot
    return samples


def _speak(text: str, voice: str, settings: dict[int, int], data: str) -> tuple[bytes, list[tuple[str, int]]]:
    """The 16-bit samples at 22.05 kHz and each phoneme's name and first sample, from a freshly loaded library."""
    pieces: list[bytes] = []
    phonemes: list[tuple[str, int]] = []

    def collect(samples: int | None, count: int, events: Any) -> int:
        if samples and count > 0:
            pieces.append(ctypes.string_at(samples, 2 * count))
        number = 0
        while events and events[number].type:
            if events[number].type == _PHONEME:
                phonemes.append((events[number].name.decode(), events[number].sample))
            number += 1
        return 0

    callback = _Callback(collect)
    try:
        library = ctypes.CDLL(espeakng_loader.get_library_path())
    except OSError as error:
        raise UserError(f"espeak-ng cannot be loaded ({error}): reinstall the package espeakng_loader") from error
    try:
        if (
            library.espeak_Initialize(_SYNCHRONOUS, 0, os.fsencode(data), _DONT_EXIT | _PHONEME_EVENTS)
            != _ESPEAK_RATE_HZ
        ):
            raise UserError(f"espeak-ng finds no data in {data}: reinstall the package espeakng_loader")
        library.espeak_SetSynthCallback(callback)
        if library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise UserError(f"espeak-ng has no voice {voice!r}: reinstall the package espeakng_loader")
        for parameter, value in settings.items():
            library.espeak_SetParameter(parameter, value, 0)
        library.espeak_ng_SetRandSeed(ctypes.c_long(_SEED))
        spoken = text.encode() + b"\0"
        status = library.espeak_Synth(spoken, ctypes.c_size_t(len(spoken)), 0, 0, 0, _UTF8, None, None)
        library.espeak_Terminate()
    finally:
        _ctypes.dlclose(library._handle)
    if status != 0:
        raise UserError(f"espeak-ng could not speak {text!r} (status {status}): shorten or simplify the text")
    return b"".join(pieces), phonemes


@contextlib.contextmanager
def _data_folder() -> Iterator[str]:
    """The folder that holds ``espeak-ng-data``; where its path is too long for espeak, a short-lived link to it."""
    folder = Path(espeakng_loader.get_data_path()).parent
    if len(os.fsencode(folder)) <= _LONGEST_DATA_PATH:
        yield str(folder)
        return
    with tempfile.TemporaryDirectory(prefix="espeak-") as short:
        Path(short, "espeak-ng-data").symlink_to(folder / "espeak-ng-data", target_is_directory=True)
        yield short


@functools.cache
def _resampler() -> torchaudio.transforms.Resample:
    return torchaudio.transforms.Resample(_ESPEAK_RATE_HZ, SAMPLE_RATE_HZ)
