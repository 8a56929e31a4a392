"""Reading audio with libsndfile: any rate, any channels, whole or in part, as 16 kHz mono."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import torch
from torch import Tensor
from torchaudio.functional import resample

from .errors import UserError
from .frontend import SAMPLE_RATE_HZ

EXTENSIONS = frozenset({".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".w64", ".caf"})


def audio_length(path: str | Path | BinaryIO) -> tuple[int, int]:
    """Frames and rate in Hz that a file's header states, without decoding.

    Raises:
        UserError: the file is missing or libsndfile cannot read it.
    """
    try:
        info = soundfile.info(_openable(path))
    except (soundfile.SoundFileError, OSError, TypeError) as error:
        raise UserError(_why(path, error)) from error
    return int(info.frames), int(info.samplerate)


def read_audio(path: str | Path | BinaryIO, start_s: float = 0.0, duration_s: float | None = None) -> Tensor:
    """A file, or a part of it found by seeking, as a waveform (S,) at 16 kHz, channels averaged, fp32.

    Raises:
        UserError: the file is missing, unreadable, empty, or holds values that are not finite.
    """
    try:
        with soundfile.SoundFile(_openable(path)) as file:
            rate = file.samplerate
            if start_s:
                file.seek(min(round(start_s * rate), file.frames))
            frames = -1 if duration_s is None else round(duration_s * rate)
            samples = file.read(frames, dtype="float32", always_2d=True)  # (S, channels)
    except (soundfile.SoundFileError, OSError, TypeError) as error:
        raise UserError(_why(path, error)) from error
    if samples.shape[0] == 0:
        raise UserError(f"{path}: no audio in it")
    if not np.isfinite(samples).all():
        raise UserError(f"{path}: holds values that are not finite (NaN or infinity)")
    waveform = torch.from_numpy(samples).mean(dim=1)
    return waveform if rate == SAMPLE_RATE_HZ else resample(waveform, rate, SAMPLE_RATE_HZ)


def _openable(path: str | Path | BinaryIO) -> str | BinaryIO:
    return str(path) if isinstance(path, str | Path) else path


def _why(path: str | Path | BinaryIO, error: Exception) -> str:
    if isinstance(path, str | Path) and not Path(path).exists():
        return f"{path}: no such file"
    name = path if isinstance(path, str | Path) else "stored audio"
    reason = str(error).rpartition(": ")[2].rstrip(".")
    return f"{name}: not audio that libsndfile can read ({reason})"
