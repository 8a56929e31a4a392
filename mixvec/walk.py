"""What a folder holds: its audio at any depth, what of it cannot be opened, and all other files, by kind."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from .audio import EXTENSIONS


@dataclass(frozen=True, order=True)
class Fault:
    """A file or utterance that is skipped, and the reason."""

    source: str
    reason: str
    counted: bool = True
    """False for a note on files that nobody takes for audio."""


class Found(NamedTuple):
    """The files below a folder, hidden ones left out."""

    audio: list[Path]
    """In order. Whether they can be decoded is not known yet."""
    faults: list[Fault]
    """Broken links, special files with the name of audio, and folders that cannot be listed."""
    others: Counter[str]
    """The number of all other files, by suffix in lower case."""


def audio_files(folder: Path) -> Found:
    """The audio below a folder, for training and for commands alike."""
    audio, faults, others = list[Path](), list[Fault](), Counter[str]()
    for path in walk(folder):
        if isinstance(path, Fault):
            faults.append(path)
        elif path.suffix.lower() not in EXTENSIONS:
            others[path.suffix.lower()] += 1
        elif path.is_file():
            audio.append(path)
        else:
            faults.append(Fault(str(path), f"{path}: a broken link, or no plain file"))
    return Found(sorted(audio, key=lambda path: path.parts), sorted(faults), others)


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
