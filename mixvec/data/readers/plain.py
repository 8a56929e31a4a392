"""Audio with its labels, if any, in the names of things: a file or folder of audio, lists of files, a text beside each
file, a folder for each class."""

from __future__ import annotations

import re

from ...audio import EXTENSIONS
from ...errors import UserError
from .files import audio_below, existing, files_below, rows_below, text_lines, walk
from .remote import AnyPath
from .rows import Fault, Reader, Row, Rows, named

SIDE_SUFFIXES = (".txt", ".lab", ".TXT", ".LAB")
FOLDERS = ("", "wavs", "wav", "clips", "audio")
"""Where a list's audio may be, below its folder."""
MANIFESTS = (".tsv", ".csv", ".jsonl", ".jsonl.gz", ".json", ".parquet")
"""Beside these, folders are parts of a corpus and no classes."""
TIMED_LABEL = re.compile(r"\d+\s+\d+\s+\S")


def list_rows(path: AnyPath, keyed: bool = False) -> Rows:
    """A path on each line, or ``path|text``, ``id|text|normalised text`` (LJSpeech), ``path|speaker|text``, also with
    tabs; an id is a file of that name in ``wavs`` beside the list. Of several texts the last is taken. Where the lines
    are ``keyed``, as in Kaldi's ``.scp``, each begins with a key."""
    for where, line in text_lines(path):
        line = (line.partition(" ")[2] if keyed else line).strip()
        if not line:
            continue
        name, *texts = (part.strip() for part in re.split(r"\t|\|", line))
        try:
            yield Row(existing(line, where, path.parent), where, text=_side_text(path.parent / line))
        except UserError:
            if not texts:
                raise
            text = next((text for text in reversed(texts) if text), None)
            fields = {"speaker": texts[0]} if len(texts) == 2 and _is_path(name) else None
            yield Row(_by_name(name, where, path.parent), where, text=text, fields=fields)


def _is_path(name: str) -> bool:
    return name.lower().endswith(tuple(EXTENSIONS))


def _by_name(name: str, where: str, folder: AnyPath) -> str:
    """The path of the audio that a list names, with or without its suffix."""
    places = [folder / at for at in FOLDERS]
    suffixes = () if _is_path(name) else (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a")
    named = (at / f"{name}{suffix}" for suffix in suffixes for at in places)
    return next((str(path) for path in named if path.is_file()), None) or existing(name, where, *places)


def _side_text(audio: AnyPath) -> str | None:
    """The text in the file beside a file of audio; None where there is none. Raises ``UserError`` where it is no text,
    but labels with times."""
    for suffix in SIDE_SUFFIXES:
        side = audio.with_suffix(suffix)
        if side.is_file():
            lines = [line.strip() for _, line in text_lines(side) if line.strip()]
            if lines and all(TIMED_LABEL.match(line) for line in lines):
                raise UserError(f"{side}: labels with times, where a text is needed")
            return " ".join(lines)
    return None


def _with_side_text(file: AnyPath) -> Row | Fault:
    text = _side_text(file)
    return Row(str(file), text=text) if text is not None else Fault(str(file), f"{file}: no .txt or .lab beside it")


def _has_side_texts(folder: AnyPath, labels: bool) -> bool:
    files = set(files_below(folder)) if labels else set()
    beside = (file.with_suffix(suffix) for file in files if _is_path(file.name) for suffix in SIDE_SUFFIXES)
    return any(side in files and side.is_file() for side in beside)


def _are_classes(folder: AnyPath, labels: bool) -> bool:
    if not labels or any(path.name.lower().endswith(MANIFESTS) for path in folder.iterdir()):
        return False
    parts = [path.relative_to(folder).parts for path in audio_below(folder)[0]]
    return len({first for first, *below in parts if below}) > 1


def _of_class(folder: AnyPath, file: AnyPath) -> Row | Fault:
    label, *below = file.relative_to(folder).parts
    known = Row(str(file), label=label, fields={"label": label})
    return known if below else Fault(str(file), f"{file}: in no folder of a class")


AUDIO_FILE = Reader(
    "audio", "a file that libsndfile reads", "file",
    lambda path, labels: True, lambda path, wanted: iter([Row(str(path))]),
)  # fmt: skip
AUDIO_FOLDER = Reader(
    "folder of audio", "audio files at any depth", "folder",  # and folders that cannot be listed, as faults
    lambda folder, labels: not labels and any(isinstance(f, Fault) or _is_path(f.name) for f in walk(folder)),
    lambda folder, wanted: rows_below(folder, lambda file: Row(str(file))),
)  # fmt: skip
LIST = Reader(
    "list of files", "`.txt`, `.lst`: a path on each line; also with a bar and its text; LJSpeech's", "file",
    named(".txt", ".lst", ".list"), lambda path, wanted: list_rows(path),
)  # fmt: skip
SIDE_TEXTS = Reader(
    "texts beside the audio", "for labels: a folder with a `.txt` or `.lab` beside each file", "folder",
    _has_side_texts, lambda folder, wanted: rows_below(folder, _with_side_text, wanted.key),
)  # fmt: skip
CLASSES = Reader(
    "a folder for each class", "for labels: `DIR/yes/…`, `DIR/no/…`; the label is the topmost folder's name", "folder",
    _are_classes, lambda folder, wanted: rows_below(folder, lambda file: _of_class(folder, file), wanted.key),
)  # fmt: skip
