"""Speech synthesis in this process, by espeak-ng through ctypes: about 1000 times real time.

A voice is an accent and a variant, ``en-us+f3``, or an accent alone, ``en-us``. The library and its data come with the
Python package ``espeakng_loader``. espeak keeps the state of its noise and of its pitch flutter from one utterance to
the next, and initialising it again does not clear that, so the library is unloaded and loaded (0.4 ms) before each
utterance: the same arguments give the same samples, whatever came before and in whichever process.
"""

from __future__ import annotations

import _ctypes
import atexit
import ctypes
import functools
import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any, NamedTuple

import espeakng_loader  # type: ignore[import-untyped]
import numpy as np
import torch
import torchaudio

from mixvec.errors import UserError

SAMPLE_RATE_HZ = 16_000

_ESPEAK_RATE_HZ = 22_050
_SYNCHRONOUS = 2  # the output mode in which espeak_Synth returns once all samples have gone to the callback
_PHONEME_EVENTS, _DONT_EXIT = 1, 0x8000  # the latter: on missing data return an error, and do not end the process
_UTF8 = 1
_RATE, _VOLUME, _PITCH, _PITCH_RANGE = 1, 2, 3, 4
_VOLUME_PERCENT = 70  # at 100 many variants clip
_LONGEST_DATA_PATH = 140  # espeak cuts off longer ones, and then loses its variants silently
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


def synthesise(
    text: str, voice: str = "en-us", *, rate_wpm: int = 175, pitch: int = 50, pitch_range: int = 50,
    phones: list[Phone] | None = None,
) -> np.ndarray:  # fmt: skip
    """Speak ``text``: float32 samples (S,) at 16 kHz, mono, all of absolute value below 1.

    ``rate_wpm`` is the speed in words per minute, 80 to 450; ``pitch`` and ``pitch_range`` are between 0 and 99, with
    50 the default of each voice. The result depends on the arguments alone. Safe to call from several threads, which
    take turns. ``phones`` gets the phonemes that are spoken, with their times.

    Raises:
        UserError: an unknown voice, a text that gives no audio, or no library.
    """
    variant = Path(espeakng_loader.get_data_path(), "voices", "!v", voice.partition("+")[2])
    if not variant.exists():
        raise UserError(f"espeak-ng has no variant of the voice {voice!r}")
    settings = {_RATE: rate_wpm, _VOLUME: _VOLUME_PERCENT, _PITCH: pitch, _PITCH_RANGE: pitch_range}
    with _lock:
        pcm, events = _speak(text, voice, settings)
    if not pcm:
        raise UserError(f"espeak-ng gave no audio for the text {text!r}: write it in plain English words")
    if phones is not None:
        ends = [start for _, start in events[1:]] + [len(pcm) // 2]
        phones += [Phone(name.lstrip("',%"), start / _ESPEAK_RATE_HZ, end / _ESPEAK_RATE_HZ)
                   for (name, start), end in zip(events, ends, strict=True)]  # fmt: skip
    waveform = _resampler()(torch.from_numpy(np.frombuffer(pcm, np.int16).astype(np.float32) / 32_768))
    peak = float(waveform.abs().max())
    samples: np.ndarray = (waveform if peak < 0.99 else waveform * (0.99 / peak)).numpy()  # resampling may overshoot
    return samples


def _speak(text: str, voice: str, settings: dict[int, int]) -> tuple[bytes, list[tuple[str, int]]]:
    """The 16-bit samples at 22.05 kHz and each phoneme's name and first sample, from a freshly loaded library."""
    chunks: list[bytes] = []
    phonemes: list[tuple[str, int]] = []

    def collect(samples: int | None, count: int, events: Any) -> int:
        if samples and count > 0:
            chunks.append(ctypes.string_at(samples, 2 * count))
        number = 0
        while events and events[number].type:
            if events[number].type == _PHONEME:
                phonemes.append((events[number].name.decode(), events[number].sample))
            number += 1
        return 0

    callback, spoken, data = _Callback(collect), text.encode() + b"\0", os.fsencode(_data_folder())
    try:
        library = ctypes.CDLL(espeakng_loader.get_library_path())
    except OSError as error:
        raise UserError(f"espeak-ng cannot be loaded ({error}): reinstall the package espeakng_loader") from error
    try:
        if library.espeak_Initialize(_SYNCHRONOUS, 0, data, _DONT_EXIT | _PHONEME_EVENTS) != _ESPEAK_RATE_HZ:
            raise UserError(f"espeak-ng finds no data in {data!r}: reinstall the package espeakng_loader")
        library.espeak_SetSynthCallback(callback)
        if library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise UserError(f"espeak-ng has no voice {voice!r}")
        for parameter, value in settings.items():
            library.espeak_SetParameter(parameter, value, 0)
        library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        status = library.espeak_Synth(spoken, ctypes.c_size_t(len(spoken)), 0, 0, 0, _UTF8, None, None)
        library.espeak_Terminate()
    finally:
        _ctypes.dlclose(library._handle)
    if status != 0:
        raise UserError(f"espeak-ng could not speak {text!r} (status {status})")
    return b"".join(chunks), phonemes


@functools.cache
def _data_folder() -> str:
    """The folder that holds ``espeak-ng-data``; where its path is too long for espeak, a link to it in a short one."""
    folder = Path(espeakng_loader.get_data_path()).parent
    if len(os.fsencode(folder)) <= _LONGEST_DATA_PATH:
        return str(folder)
    short = tempfile.mkdtemp(prefix="espeak-")
    atexit.register(shutil.rmtree, short, ignore_errors=True)
    Path(short, "espeak-ng-data").symlink_to(folder / "espeak-ng-data", target_is_directory=True)
    return short


@functools.cache
def _resampler() -> torchaudio.transforms.Resample:
    return torchaudio.transforms.Resample(_ESPEAK_RATE_HZ, SAMPLE_RATE_HZ)
