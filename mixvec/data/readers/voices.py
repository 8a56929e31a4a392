"""Official archives about the voice rather than the words, read as they unpack.

- VoxCeleb1: ``DIR`` or ``DIR/wav`` holds a folder for each speaker, ``id10001/1zcIwhmdeo4/00001.wav``.
- IEMOCAP: ``DIR`` holds ``Session1`` to ``Session5``, or is one of them; the emotion is the one that
  ``dialog/EmoEvaluation/*.txt`` states for a sentence, in their own words (``neu``, ``ang``, ``hap``, ``exc``, ...).
"""

from __future__ import annotations

import re
from pathlib import Path

from .rows import Fault, Row, Rows, audio_below, numbered_lines

SPEAKER = re.compile(r"id\d{5}")
SESSION = re.compile(r"Session(\d)")
EVALUATED = re.compile(r"\[[\d.]+ - [\d.]+\]\s+(\S+)_([FM])(\d+)\s+(\w+)\s+\[")


def voice_rows(folder: Path) -> Rows | None:
    """The rows of a folder on disk that is laid out as one of these; None where it is none."""
    if not isinstance(folder, Path):
        return None
    for at in (folder, folder / "wav"):
        if at.is_dir() and any(SPEAKER.fullmatch(path.name) for path in at.iterdir()):
            return voxceleb_rows(at)
    sessions = [path for path in (folder, *sorted(folder.glob("Session?"))) if SESSION.fullmatch(path.name)]
    sessions = [path for path in sessions if (path / "dialog" / "EmoEvaluation").is_dir()]
    return iemocap_rows(sessions) if sessions else None


def voxceleb_rows(folder: Path) -> Rows:
    """All audio below the speakers' folders."""
    for file in audio_below(folder):
        if SPEAKER.fullmatch(speaker := file.relative_to(folder).parts[0]):
            yield Row(str(file), fields={"speaker": speaker})
        else:
            yield Fault(str(file), f"{file}: in no speaker's folder, such as id10001")


def iemocap_rows(sessions: list[Path]) -> Rows:
    """The sentences of these sessions, with ``emotion``, ``session`` and ``speaker`` (``Ses01F``)."""
    for session in sessions:
        number = session.name[-1]
        for file in sorted((session / "dialog" / "EmoEvaluation").glob("[!.]*.txt")):
            for line_number, line in numbered_lines(file):
                if not (found := EVALUATED.match(line)):
                    continue
                dialog, voice, turn, emotion = found.groups()
                audio = session / "sentences" / "wav" / dialog / f"{dialog}_{voice}{turn}.wav"
                where = f"{file}:{line_number}"
                fields = {"emotion": emotion, "session": number, "speaker": f"Ses0{number}{voice}"}
                if audio.is_file():
                    yield Row(str(audio), where, label=emotion, fields=fields)
                else:
                    yield Fault(str(audio), f"{where}: {audio} is not there")
