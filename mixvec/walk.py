"""What a folder holds: its audio at any depth, what of it cannot be opened, and all other files, by kind."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from .audio import EXTENSIONS

SIDE_SUFFIXES = (".txt", ".lab", ".json", ".cls")
"""Beside audio of the same name, a file of these is its text or label."""
SIDE_NAMES = ("metadata", "readme", "license", "licence", "copying", "dataset_info", "dataset_infos")
"""Files of these names, whatever their suffix, describe the audio of a folder."""


@dataclass(frozen=True, order=True)
class Fault:
    """A file or utterance that is skipped, and the reason."""

    source: str
    reason: str
    counted: bool = True
    """False for a note on files that nobody takes for audio."""


class Found(NamedTuple):
    """The files below a folder, hidden ones left out."""

    audio: list[Any]
    """Whether they can be decoded is not known yet."""
    faults: list[Fault]
    """Broken links, special files with the name of audio, and folders that cannot be listed."""
    others: Counter[str]
    """The number of all other files but side files, by suffix in lower case."""


def audio_files(files: Iterable[Any]) -> Found:
    """The audio among ``files``, in their order, for training and for commands alike; faults come last."""
    audio, faults, others = list[Any](), list[Fault](), list[Any]()
    for path in files:
        if isinstance(path, Fault):
            faults.append(path)
        elif path.suffix.lower() not in EXTENSIONS:
            others.append(path)
        elif path.is_file():
            audio.append(path)
        else:
            faults.append(Fault(str(path), f"{path}: a broken link, or no plain file"))
    read = {str(path).removesuffix(path.suffix) for path in audio}
    kinds = Counter(path.suffix.lower() for path in others if not _is_side_file(path, read))
    return Found(audio, sorted(faults), kinds)


def _is_side_file(path: Any, audio: set[str]) -> bool:
    """Whether a file is about the audio: its labels, which a reader knows, or what data sets come with.

    Args:
        audio: the names of the audio files without their suffixes.
    """
    beside = path.suffix.lower() in SIDE_SUFFIXES and str(path).removesuffix(path.suffix) in audio
    return beside or path.name.lower().endswith(".trans.txt") or path.stem.lower() in SIDE_NAMES


def passed_over(folder: object, others: Counter[str]) -> list[Fault]:
    """A note on each kind of file of a folder that is no audio."""
    kinds = sorted(others.items(), key=lambda item: (-item[1], item[0]))
    return [Fault(str(folder), f"{folder}: no audio: {n} {kind or 'without a suffix'}", False) for kind, n in kinds]


def walk(folder: Path) -> Iterator[Path | Fault]:
    """Every file at any depth, in any order; linked folders too (each once), hidden files and folders left out.

    Folders that may not be listed are yielded as faults.
    """
    seen: set[str] = set()
    faults: list[Fault] = []

    def note(error: OSError) -> None:
        faults.append(Fault(error.filename, f"{error.filename}: cannot be listed ({error.strerror})"))

    for at, folders, names in os.walk(folder, onerror=note, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        real = os.path.realpath(at)
        if real in seen:  # a link in a loop, or a second link to the same folder
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(at, name) for name in names if not name.startswith("."))
    yield from faults
