"""The forms of an answer: a line, JSON, subtitles; printed, or a file for each clip below ``--text-dir``."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from ..atomic import write_whole
from ..errors import UserError
from ..transcript import align_words
from .answers import Answer
from .inputs import Clip
from .predictor import Predictor

CUE_S, CUE_CHARACTERS, CUE_PAUSE_S = 6.0, 84, 1.0
"""A subtitle is at most so long, two lines of 42 characters, and ends in a pause of so many seconds."""


def answer_of(answer: Answer, predictor: Predictor, args: Namespace) -> dict[str, Any]:
    """The answer to a clip as plain JSON values: the texts of its parts joined, ``top`` probabilities."""
    made: dict[str, Any] = dict(answer.predictions[0].answer) if answer.predictions else {}
    if args.command == "transcribe":
        made = {"text": " ".join(filter(None, (one.answer["text"] for one in answer.predictions)))}
        if len(answer.predictions) > 1:
            made["segments"] = [
                {"start_s": round(begin, 3), "end_s": round(end, 3), "text": one.answer["text"]}
                for (begin, end), one in zip(answer.spans_s, answer.predictions, strict=True)
            ]
        if args.json or args.srt or args.vtt:
            made["words"] = words_of(answer, predictor)
    if "probabilities" in made:
        made["probabilities"] = dict(list(made["probabilities"].items())[: args.top])
    return {**made, "seconds": round(answer.seconds, 3), "speech": answer.speech, **answer.clip.span}


def words_of(answer: Answer, predictor: Predictor) -> list[dict[str, Any]]:
    """The words of a recogniser's answer, with ``start_s`` and ``end_s`` in the clip, and ``confidence``."""
    hop_s, words = predictor.hop_samples / predictor.sample_rate_hz, []
    lead_s = (predictor.frame_samples - predictor.hop_samples) / 2 / predictor.sample_rate_hz
    for (begin, end), made in zip(answer.spans_s, answer.predictions, strict=True):
        assert made.output is not None  # a frame is at the middle of the samples that it sees
        found = align_words(made.output, made.answer["text"], predictor.vocabulary, begin + lead_s, hop_s)
        last_s = round(end, 3)
        words += [word._replace(start_s=min(word.start_s, last_s), end_s=min(word.end_s, last_s)) for word in found]
    return [word._asdict() for word in words]


def formatted(made: dict[str, Any], name: str, args: Namespace) -> str:
    """An answer in the form that the options ask for."""
    if args.json:
        return json.dumps({"path": name, **made}, ensure_ascii=False)
    return subtitles(made["words"], vtt=args.vtt) if args.srt or args.vtt else plain(made, args.top)


def plain(made: dict[str, Any], top: int | None) -> str:
    """Text, label, embedding, or intent and slots parted by tabs; with ``top``, labels and their probabilities."""
    if "embedding" in made:
        return " ".join(map(str, made["embedding"]))
    if "slots" in made:
        slots = [f"{slot['type']}={slot['value']}" for slot in made["slots"]]
        return "\t".join([made["intent"] or "-", *slots])
    if top is None or "probabilities" not in made:
        return str(made.get("text", made.get("label", "")))
    return "\t".join(f"{label} {p:.3f}" for label, p in made["probabilities"].items())


def subtitles(words: list[dict[str, Any]], *, vtt: bool) -> str:
    """Words with times as SubRip or WebVTT, several in a cue."""
    cues: list[list[dict[str, Any]]] = []
    for word in words:
        cue = cues[-1] if cues else []
        long = bool(cue) and word["end_s"] - cue[0]["start_s"] > CUE_S
        wide = sum(len(one["word"]) + 1 for one in cue) + len(word["word"]) > CUE_CHARACTERS
        if not cue or long or wide or word["start_s"] - cue[-1]["end_s"] > CUE_PAUSE_S:
            cues.append([])
        cues[-1].append(word)
    lines = ["WEBVTT\n"] if vtt else []
    for number, cue in enumerate(cues, start=1):
        times = " --> ".join(_clock(second, vtt) for second in (cue[0]["start_s"], cue[-1]["end_s"]))
        lines.append("\n".join([*([] if vtt else [str(number)]), times, " ".join(one["word"] for one in cue), ""]))
    return "\n".join(lines)


def _clock(second: float, vtt: bool) -> str:
    minutes, milliseconds = divmod(round(1000 * second), 60_000)
    seconds, milliseconds = divmod(milliseconds, 1000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{seconds:02}{'.' if vtt else ','}{milliseconds:03}"


class Files:
    """The files below ``--text-dir`` or ``--to``, one for each clip, each written whole."""

    def __init__(self, folder: str, suffix: str) -> None:
        """
        Raises:
            UserError: ``folder`` is a file.
        """
        self.folder, self.suffix = Path(folder), suffix
        self._taken: dict[Path, str] = {}
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(f"{folder}: is a file; choose a folder for the output")

    def place(self, clip: Clip) -> Path:
        """The file for a clip.

        Raises:
            UserError: another clip of this call has the same.
        """
        file = self.folder / clip.place.parent / f"{clip.place.name}{self.suffix}"
        if (other := self._taken.setdefault(file, clip.name)) != clip.name:
            raise UserError(f"{clip.name}: its output {file} is that of {other}; give them in separate calls")
        return file

    def write(self, clip: Clip, text: str) -> Path:
        """Write a clip's text; the file."""
        file = self.place(clip)
        write_whole(file, text if text.endswith("\n") else f"{text}\n")
        return file
