"""Plain audio: a file, or all audio files below a folder, without labels."""

from __future__ import annotations

from itertools import chain

from ...audio import EXTENSIONS
from .files import audio_below, walk
from .remote import AnyPath
from .rows import Fault, Reader, Row, Rows, Wanted


def _holds_audio(folder: AnyPath, labels: bool) -> bool:
    """Whether plain audio is wanted, and there is some or a folder that cannot be listed."""
    return not labels and any(isinstance(f, Fault) or f.suffix.lower() in EXTENSIONS for f in walk(folder))


def _rows(folder: AnyPath, wanted: Wanted) -> Rows:
    files, faults = audio_below(folder)
    return chain(faults, (Row(str(file)) for file in files))


AUDIO_FILE = Reader(
    "audio",
    "a file that libsndfile reads",
    "file",
    lambda path, labels: True,
    lambda path, wanted: iter([Row(str(path))]),
)
AUDIO_FOLDER = Reader("folder of audio", "audio files at any depth", "folder", _holds_audio, _rows)
