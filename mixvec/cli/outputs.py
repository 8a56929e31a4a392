"""Where answers go and in which form: lines, JSON, subtitles, frames; printed, or in files that are written whole."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic import whole_file, write_whole
from ..errors import UserError
from ..model.frontend import SAMPLE_RATE_HZ
from ..transcript import align_words
from .answers import Answer
from .inputs import Clip
from .predictor import Predictor

CUE_S, CUE_CHARACTERS, CUE_PAUSE_S = 6.0, 84, 1.0
"""A subtitle is at most so long, two lines of 42 characters, and ends in a pause of so many seconds."""
PARQUET = (".parquet", ".pq")


class Output:
    """Answers as lines to print, or the names of the files that hold them."""

    def __init__(self, args: Namespace, alone: bool) -> None:
        """
        Args:
            alone: whether there is one input, whose answer is printed without its name.

        Raises:
            UserError: the options do not fit each other, or the output cannot be written.
        """
        self.args, self.alone = args, alone
        self.form = next((form for form in ("json", "srt", "vtt") if getattr(args, form)), "txt")
        to = args.to or args.text_dir
        self.table = Path(to) if args.to and to.endswith(PARQUET) else None
        self.folder = None if to is None or self.table else Path(to)
        self._taken: dict[Path, str] = {}
        self._writer: Any = None
        if self.table and find_spec("pyarrow") is None:
            raise UserError(f"--to {to}: Parquet needs pyarrow: pip install pyarrow, or name a folder")
        if to is None and args.skip_done:
            raise UserError("--skip-done looks for the files that --text-dir DIR writes; give that too")
        if to is None and self.form in ("srt", "vtt") and not alone:
            raise UserError(f"--{self.form} of several files needs --text-dir DIR, where each has a file of its own")
        if self.folder and self.folder.exists() and not self.folder.is_dir():
            raise UserError(f"{to}: is a file; choose a folder for the output")

    def place(self, clip: Clip) -> Path | None:
        """The file for a clip, if it has one of its own.

        Raises:
            UserError: another clip of this call has the same.
        """
        if self.folder is None:
            return None
        suffix = "npy" if self.args.command == "features" else self.form
        file = self.folder / clip.place.parent / f"{clip.place.name}.{suffix}"
        if (other := self._taken.setdefault(file, clip.name)) != clip.name:
            raise UserError(f"{clip.name}: its output {file} is that of {other}; give them in separate calls")
        return file

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Write the Parquet file of ``features``, if there is one, as answers come."""
        if self.table is None:
            yield
            return
        with whole_file(self.table) as self._new:
            try:
                yield
            finally:
                if self._writer:
                    self._writer.close()
            if not self._writer:
                raise UserError(f"{self.table}: not written, as no input has frames")

    def write(self, answer: Answer, predictor: Predictor) -> str:
        """Write an answer to its file, if it has one; the line to print."""
        clip, args, file = answer.clip, self.args, self.place(answer.clip)
        if args.command == "features":
            return self._frames(answer, predictor, file)
        text = formatted(answer_of(answer, predictor, args, words=self.form != "txt"), clip.name, args)
        if file:
            write_whole(file, text if text.endswith("\n") else f"{text}\n")
            return str(file)
        return text if self.alone or args.json else f"{clip.name}\t{text}"

    def _frames(self, answer: Answer, predictor: Predictor, file: Path | None) -> str:
        """A ``.npy`` of (T, D), or (L + 1, T, D) with ``--layer all``; or rows of a table, one for each layer."""
        every, layer = self.args.layer == "all", self.args.layer
        parts = [one.output.numpy() for one in answer.predictions if one.output is not None]
        frames = np.concatenate(parts, axis=1) if parts else np.zeros((1, 0, 0), np.float32)  # (L, T, D)
        if file:
            with whole_file(file) as new, new.open("wb") as out:
                np.save(out, frames if every else frames[0])
            return str(file)
        import pyarrow.parquet

        layers = list(range(len(frames))) if every else [-1 if layer == "last" else int(layer)]
        rows = pyarrow.table({
            "path": [answer.clip.name] * len(layers),
            "start_s": [answer.clip.span.get("start_s") or 0.0] * len(layers),
            "layer": pyarrow.array(layers, pyarrow.int32()),
            "frame_s": [predictor.encoder.hop_samples / SAMPLE_RATE_HZ] * len(layers),
            "frames": pyarrow.array([list(own) for own in frames], pyarrow.list_(pyarrow.list_(pyarrow.float32()))),
        })  # fmt: skip
        self._writer = self._writer or pyarrow.parquet.ParquetWriter(self._new, rows.schema)
        self._writer.write_table(rows)
        return answer.clip.name


def answer_of(answer: Answer, predictor: Predictor, args: Namespace, *, words: bool) -> dict[str, Any]:
    """The answer to a clip as plain JSON values: the texts of its parts joined, ``top`` probabilities."""
    made: dict[str, Any] = dict(answer.predictions[0].answer) if answer.predictions else {}
    if args.command == "transcribe":
        texts = [one.answer["text"] for one in answer.predictions]
        made = {"text": " ".join(filter(None, texts))}
        if len(texts) > 1:
            made["segments"] = [{"start_s": round(begin, 3), "end_s": round(end, 3), "text": text}
                                for (begin, end), text in zip(answer.spans_s, texts, strict=True)]  # fmt: skip
        if words:
            made["words"] = words_of(answer, predictor)
    if "probabilities" in made:
        made["probabilities"] = dict(list(made["probabilities"].items())[: args.top])
    return {**made, "seconds": round(answer.seconds, 3), "speech": answer.speech, **answer.clip.span}


def words_of(answer: Answer, predictor: Predictor) -> list[dict[str, Any]]:
    """The words of a recogniser's answer, with ``start_s`` and ``end_s`` in the clip, and ``confidence``."""
    hop, words = predictor.encoder.hop_samples, []
    lead_s = (predictor.encoder.min_samples - hop) / 2 / SAMPLE_RATE_HZ
    for (begin, end), made in zip(answer.spans_s, answer.predictions, strict=True):
        assert made.output is not None  # a frame is at the middle of the samples that it sees
        text, start_s, last_s = made.answer["text"], begin + lead_s, round(end, 3)
        found = align_words(made.output, text, predictor.vocabulary, start_s, hop / SAMPLE_RATE_HZ, made.tokens)
        words += [word._replace(start_s=min(word.start_s, last_s), end_s=min(word.end_s, last_s)) for word in found]
    return [word._asdict() for word in words]


def formatted(made: dict[str, Any], name: str, args: Namespace) -> str:
    """An answer in the form that the options ask for; as a line text, label, embedding, or intent and slots parted by
    tabs, with ``--top`` labels and their probabilities."""
    if args.json:
        return json.dumps({"path": name, **made}, ensure_ascii=False)
    if args.srt or args.vtt:
        return subtitles(made["words"], vtt=args.vtt)
    if "embedding" in made:
        return " ".join(map(str, made["embedding"]))
    if "slots" in made:
        slots = [f"{slot['type']}={slot['value']}" for slot in made["slots"]]
        return "\t".join([made["intent"] or "-", *slots])
    if args.top is None or "probabilities" not in made:
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
