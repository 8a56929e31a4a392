"""Audio with its labels in the names of things: lists of files, a text beside each file, a folder for each class."""

from __future__ import annotations

import re

from ...audio import EXTENSIONS
from ...errors import UserError
from .files import audio_below, existing, one_split_below, text_lines
from .remote import AnyPath
from .rows import Fault, Reader, Row, Rows, Wanted, named

SIDE_SUFFIXES = (".txt", ".lab")
FOLDERS = ("", "wavs", "wav", "clips", "audio")
"""Where a list's audio may be, below its folder."""
MANIFESTS = (".tsv", ".csv", ".jsonl", ".jsonl.gz", ".json", ".parquet")
"""Beside these, folders are parts of a corpus and no classes."""
TIMED_LABEL = re.compile(r"\d+\s+\d+\s+\S")


def list_rows(path: AnyPath, keyed: bool = False) -> Rows:
    """A path on each line, or ``path|text``, ``id|text|normalised text`` (LJSpeech), ``path|speaker|text``, also with
    tabs; an id is a file of that name in ``wavs`` beside the list. Of several texts the last is taken.

    Args:
        keyed: whether each line begins with a key, as in Kaldi's ``.scp``.
    """
    for where, line in text_lines(path):
        line = line.partition(" ")[2] if keyed else line
        if not line.strip():
            continue
        parts = re.split(r"\t|\|", line.strip())
        try:
            yield Row(existing(line.strip(), where, path.parent), where, text=_side_text(path.parent / line.strip()))
            continue
        except UserError:
            if len(parts) < 2:
                raise
        text = next((part.strip() for part in reversed(parts[1:]) if part.strip()), None)
        fields = {"speaker": parts[1].strip()} if len(parts) == 3 and _is_path(parts[0]) else None
        yield Row(_by_name(parts[0].strip(), where, path.parent), where, text=text, fields=fields)


def _is_path(name: str) -> bool:
    return name.strip().lower().endswith(tuple(EXTENSIONS))


def _by_name(name: str, where: str, folder: AnyPath) -> str:
    """The path of the audio that a list names, with or without its suffix."""
    places = [folder / at for at in FOLDERS]
    if not _is_path(name):
        for suffix in (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a"):
            if found := next((at / f"{name}{suffix}" for at in places if (at / f"{name}{suffix}").is_file()), None):
                return str(found)
    return existing(name, where, *places)


def _side_text(audio: AnyPath) -> str | None:
    """The text in the file beside a file of audio; None where there is none.

    Raises:
        UserError: it is no text, but labels with times.
    """
    for suffix in SIDE_SUFFIXES:
        side = audio.with_suffix(suffix)
        if side.is_file():
            lines = [line.strip() for _, line in text_lines(side) if line.strip()]
            if lines and all(TIMED_LABEL.match(line) for line in lines):
                raise UserError(f"{side}: labels with times, where a text is needed")
            return " ".join(lines)
    return None


def _has_side_texts(folder: AnyPath, labels: bool) -> bool:
    return labels and any(p.with_suffix(s).is_file() for p in audio_below(folder)[0] for s in SIDE_SUFFIXES)


def side_rows(folder: AnyPath, wanted: Wanted) -> Rows:
    """The audio of a folder, at any depth, each with the text beside it."""
    files, faults = audio_below(folder)
    one_split_below(wanted.key, folder, files)
    yield from (fault for fault in faults if fault.counted)
    for file in files:
        try:
            text = _side_text(file)
        except UserError as error:
            yield Fault(str(file), str(error))
            continue
        yield Row(str(file), text=text) if text is not None else Fault(str(file), f"{file}: no .txt or .lab beside it")


def _has_manifest(folder: AnyPath) -> bool:
    return any(path.name.lower().endswith(MANIFESTS) for path in folder.iterdir())


def _classes(folder: AnyPath) -> set[str]:
    return {p.relative_to(folder).parts[0] for p in audio_below(folder)[0] if len(p.relative_to(folder).parts) > 1}


def class_rows(folder: AnyPath, wanted: Wanted) -> Rows:
    """The audio below the folders of a folder; the label is the name of the topmost."""
    files, faults = audio_below(folder)
    one_split_below(wanted.key, folder, files)
    yield from faults
    for file in files:
        label, *below = file.relative_to(folder).parts
        fault = Fault(str(file), f"{file}: in no folder of a class")
        yield Row(str(file), label=label, fields={"label": label}) if below else fault


LIST = Reader(
    "list of files", "`.txt`, `.lst`: a path on each line; also with a bar and its text; LJSpeech's", "file",
    named(".txt", ".lst", ".list"), lambda path, wanted: list_rows(path),
)  # fmt: skip
SIDE_TEXTS = Reader(
    "texts beside the audio", "for labels: a folder with a `.txt` or `.lab` beside each file", "folder",
    _has_side_texts, side_rows,
)  # fmt: skip
CLASSES = Reader(
    "a folder for each class", "for labels: `DIR/yes/…`, `DIR/no/…`; the label is the topmost folder's name", "folder",
    lambda folder, labels: labels and not _has_manifest(folder) and len(_classes(folder)) > 1, class_rows,
)  # fmt: skip
