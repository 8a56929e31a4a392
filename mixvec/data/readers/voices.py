"""Official archives of speakers and emotions, read as unpacked.

- VoxCeleb1: ``DIR`` or ``DIR/wav`` holds a folder for each speaker, ``id10001/1zcIwhmdeo4/00001.wav``.
- IEMOCAP: ``DIR`` holds ``Session1`` to ``Session5``, or is one of them; the emotion is that of
  ``dialog/EmoEvaluation/*.txt`` for a sentence, under the names there (``neu``, ``ang``, ``hap``, ``exc``, ...).
"""

from __future__ import annotations

import re
from pathlib import Path

from .files import audio_below, text_lines
from .remote import AnyPath
from .rows import Fault, Reader, Row, Rows

SPEAKER = re.compile(r"id\d{5}")
SESSION = re.compile(r"Session(\d)")
EVALUATED = re.compile(r"\[[\d.]+ - [\d.]+\]\s+(\S+)_([FM])(\d+)\s+(\w+)\s+\[")


def _speakers(folder: AnyPath) -> AnyPath | None:
    """The folder of VoxCeleb's speakers: ``folder`` itself or ``wav`` in it; None where there is none."""
    places = [at for at in (folder, folder / "wav") if isinstance(at, Path) and at.is_dir()]
    return next((at for at in places if any(SPEAKER.fullmatch(path.name) for path in at.iterdir())), None)


def _sessions(folder: AnyPath) -> list[AnyPath]:
    """The sessions of IEMOCAP: ``folder`` itself or those in it."""
    if not isinstance(folder, Path):
        return []
    named = [path for path in (folder, *sorted(folder.glob("Session?"))) if SESSION.fullmatch(path.name)]
    return [path for path in named if (path / "dialog" / "EmoEvaluation").is_dir()]


def voxceleb_rows(folder: AnyPath) -> Rows:
    """All audio below the speakers' folders."""
    files, faults = audio_below(folder)
    yield from faults
    for file in files:
        if SPEAKER.fullmatch(speaker := file.relative_to(folder).parts[0]):
            yield Row(str(file), fields={"speaker": speaker})
        else:
            yield Fault(str(file), f"{file}: in no speaker's folder, such as id10001")


def iemocap_rows(sessions: list[AnyPath]) -> Rows:
    """The sentences of these sessions, with ``emotion``, ``session`` and ``speaker`` (``Ses01F``)."""
    for session in sessions:
        number = session.name[-1]
        for file in sorted((session / "dialog" / "EmoEvaluation").glob("[!.]*.txt")):
            for where, line in text_lines(file):
                if not (found := EVALUATED.match(line)):
                    continue
                dialog, voice, turn, emotion = found.groups()
                audio = session / "sentences" / "wav" / dialog / f"{dialog}_{voice}{turn}.wav"
                fields = {"emotion": emotion, "session": number, "speaker": f"Ses0{number}{voice}"}
                if audio.is_file():
                    yield Row(str(audio), where, label=emotion, fields=fields)
                else:
                    yield Fault(str(audio), f"{where}: {audio} does not exist")


VOXCELEB = Reader(
    "VoxCeleb1", "for labels: `DIR` or `DIR/wav`, a folder for each speaker (`id10001`)", "folder",
    lambda folder, labels: labels and _speakers(folder) is not None,
    lambda folder, wanted: voxceleb_rows(_speakers(folder) or folder),
)  # fmt: skip
IEMOCAP = Reader(
    "IEMOCAP", "for labels: `DIR` with `Session1` to `Session5`, or one of them", "folder",
    lambda folder, labels: labels and bool(_sessions(folder)), lambda folder, wanted: iemocap_rows(_sessions(folder)),
)  # fmt: skip
