"""Manifests: files of text that name the audio, row by row.

These are jsonl and csv (Hugging Face audiofolder, NeMo, SpeechBrain), SpeechBrain JSON, lhotse cuts, fairseq ``.tsv``
and Kaldi folders. A file that a manifest names must exist; if not, the manifest is wrong, or in the wrong folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from ...errors import UserError
from .files import (
    audio_below,
    existing,
    files_below,
    json_lines,
    keyed_lines,
    one_split_below,
    shown,
    table_lines,
    text_lines,
)
from .layouts import common_voice_row, fluent_row, slurp_rows, voxpopuli_row
from .parquet import names_audio, parquet_values
from .plain import list_rows
from .remote import AnyPath
from .rows import AUDIO_KEYS, TEXT_KEYS, Reader, Row, Rows, Shard, Wanted, labels_of, named, number_of, span_of

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
DATA_ROOT = re.compile(r"\$\{data_root\}|\{data_root\}|\$data_root\b")


def manifest_rows(path: AnyPath) -> Rows:
    """The rows of a manifest in any form, each by its keys a lhotse cut, of an official corpus, or any other."""
    kind = path.suffix.lower()
    if kind in (".tsv", ".csv"):
        first = next((line for _, line in text_lines(path)), "").strip("\n")
        if kind == ".tsv" and "\t" not in first:
            yield from fairseq_rows(path)
            return
        if "|" in first and not {*AUDIO_KEYS, *TEXT_KEYS} & {*first.strip().lower().split("|")}:
            yield from list_rows(path)  # LJSpeech's, which has no header
            return

    @cache
    def beside() -> dict[str, AnyPath]:
        return {file.stem: file for file in audio_below(path.parent)[0]}

    for where, row in _table(path):
        keys = row.keys()
        if isinstance(row.get("recording"), dict) or str(row.get("type")).endswith("Cut"):
            yield _cut(row, where, path.parent)
        elif isinstance(row.get("recordings"), list):
            yield from slurp_rows(row, where, path.parent)
        elif kind == ".tsv" and {"path", "sentence"} <= keys:
            yield common_voice_row(row, where, path.parent)
        elif kind == ".tsv" and {"id", "normalized_text"} <= keys:
            yield voxpopuli_row(row, where, beside())
        elif kind == ".csv" and {"path", "action", "object", "location"} <= keys:
            yield fluent_row(row, where, path.parent)
        else:
            yield _row(row, where, path.parent)


def _table(path: AnyPath) -> Iterable[tuple[str, dict[str, Any]]]:
    """The rows of a manifest and where each is."""
    if path.suffix.lower() == ".parquet":
        return parquet_values(path)
    return table_lines(path) if path.suffix.lower() in (".tsv", ".csv") else _by_id(path) or json_lines(path)


def _row(row: dict[str, Any], where: str, folder: AnyPath) -> Row:
    """A row of a manifest: its audio relative to the manifest's folder, ``offset`` and ``duration`` in seconds. A
    duration without an offset is ignored, as the file's own header is more precise."""
    name, span = _audio(row, where)
    at_root = DATA_ROOT.sub(lambda _: str(folder), name)
    try:
        source = existing(at_root, where, folder)
    except UserError as error:
        hint = f"; data_root was taken to be {folder}: put the manifest there" if at_root != name else ""
        raise UserError(f"{error}{hint}") from error
    start_s = number_of(row.get("offset"), "offset", where)
    duration_s = None if start_s is None else number_of(row.get("duration"), "duration", where)
    return Row(source, where, start_s or 0.0, duration_s or None, span, fields=row).labelled()


def _audio(row: dict[str, Any], where: str) -> tuple[str, tuple[int, int | None] | None]:
    """The name of the row's audio, and its start and stop in samples where SpeechBrain's keys give them."""
    wav = row.get("wav")
    at = wav if isinstance(wav, dict) else row
    named = [wav.get("file")] if isinstance(wav, dict) else [row.get(key) for key in AUDIO_KEYS]
    name = next((value for value in named if isinstance(value, str) and value), None)
    if name is None:
        raise UserError(f"{where}: the row names no audio; it needs one of {', '.join(AUDIO_KEYS)}")
    if not wav:
        return name, None
    start, stop = (number_of(at.get(key), key, where, "samples") for key in ("start", "stop"))
    if stop is not None and stop <= (start or 0):
        raise UserError(f"{where}: a segment from sample {start or 0:g} to {stop:g} has no length")
    if start is None and stop is None:
        return name, None
    return name, (int(start or 0), None if stop is None else int(stop))


def _by_id(path: AnyPath) -> list[tuple[str, dict[str, Any]]] | None:
    """A JSON array of objects, or SpeechBrain's object of objects by ID, as rows; None for JSON by lines, which may be
    endless. An object that holds nothing but such an array is read as the array."""
    if not path.name.lower().endswith((".json", ".json.gz")):
        return None
    first = next((line for _, line in text_lines(path) if line.strip()), "")
    whole = _parsed(first)
    if whole is None and first.lstrip().startswith(("{", "[")):
        whole = _parsed("\n".join(line for _, line in text_lines(path)))
    if isinstance(whole, dict) and len(whole) == 1 and isinstance(only := next(iter(whole.values())), list):
        whole = only
    if isinstance(whole, list):
        rows = [(f"{path}[{number}]", row) for number, row in enumerate(whole)]
        for where, row in rows:
            if not isinstance(row, dict):
                raise UserError(f"{where}: a row must be an object with keys such as file_name")
        return rows or None
    if not isinstance(whole, dict) or not whole or not all(isinstance(row, dict) for row in whole.values()):
        return None
    return [(f"{path}: {name}", row) for name, row in whole.items()]


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _cut(row: dict[str, Any], where: str, folder: AnyPath) -> Row:
    """A lhotse MonoCut over a recording that is one file; the text of its supervisions."""
    recording = row.get("recording")
    if not isinstance(recording, dict):
        raise UserError(f"{where}: a {row.get('type')} has no recording of its own; only MonoCuts can be read")
    sources = recording.get("sources")
    source = sources[0] if isinstance(sources, list) and sources and isinstance(sources[0], dict) else {}
    if source.get("type") not in ("file", "url") or not isinstance(source.get("source"), str) or len(sources or []) > 1:
        raise UserError(f"{where}: its recording is not one file (type {source.get('type')!r}); save it as one")
    if len(source.get("channels") or [0]) > 1:
        raise UserError(f"{where}: a recording of several channels; save the channel of each cut as a file of its own")
    start_s, duration_s = (number_of(row.get(key), key, where) for key in ("start", "duration"))
    supervisions = row.get("supervisions")
    supervised = [s for s in supervisions if isinstance(s, dict)] if isinstance(supervisions, list) else []
    texts = [str(s["text"]) for s in supervised if s.get("text") is not None]
    customs = [part["custom"] for part in (row, *supervised) if isinstance(part.get("custom"), dict)]
    label = next((found for found in (labels_of(custom)[1] for custom in customs) if found is not None), None)
    fields = {key: value for part in (*reversed(supervised), *reversed(customs)) for key, value in part.items()}
    path = existing(source["source"], where, folder, Path())
    text = " ".join(texts) if texts else None
    return Row(path, where, start_s or 0.0, duration_s, text=text, label=label, fields=fields)


def fairseq_rows(path: AnyPath) -> Rows:
    """fairseq's tsv: the first line is the root, then ``path<tab>frames``; text from ``.wrd`` or ``.ltr`` beside it."""
    lines = [(where, line) for where, line in text_lines(path) if line.strip()]
    if not lines:
        return
    root, known = path.parent / lines[0][1].strip(), False
    with suppress(OSError):  # the name is too long for any
        known = root.is_dir()
    if not known:
        raise UserError(f"{path}:1: {shown(lines[0][1].strip())} is no folder; a fairseq manifest's first line names "
                        "the root of its files")  # fmt: skip
    for (where, line), text in zip(lines[1:], _fairseq_texts(path, len(lines) - 1), strict=True):
        name, tab, frames = line.rpartition("\t")
        if not tab or not frames.strip().isdecimal():
            raise UserError(f"{where}: a row is a path, a tab and a number of frames, not {line[:200]!r}")
        yield Row(existing(name, where, root), where, text=text)


def _fairseq_texts(path: AnyPath, rows: int) -> list[str | None]:
    beside = next((at for suffix in (".wrd", ".ltr") if (at := path.with_suffix(suffix)).is_file()), None)
    if beside is None:
        return [None] * rows
    lines = [line.strip() for _, line in text_lines(beside)]
    while len(lines) > rows and not lines[-1]:
        lines.pop()
    if len(lines) != rows:
        raise UserError(f"{beside}: {len(lines)} lines for the {rows} rows of {path.name}; they must be as many")
    letters = beside.suffix == ".ltr"
    return [line.replace(" ", "").replace("|", " ").strip() if letters else line for line in lines]


def kaldi_rows(folder: AnyPath) -> Rows:
    """A Kaldi folder: ``wav.scp``, with ``segments``, ``text`` and ``utt2spk`` where present. Paths are relative to the
    folder or, as in Kaldi, to the working directory. No command in ``wav.scp`` is ever run."""
    recordings = {}
    for where, name, path in _kaldi_table(folder / "wav.scp"):
        if path.endswith("|") or path.startswith("|"):
            raise UserError(f"{where}: a command with a pipe is refused: run it, and name the audio that it writes")
        recordings[name] = existing(path, where, folder, Path())
    texts, speakers = (
        {key: rest for _, key, rest in _kaldi_table(folder / name)} if (folder / name).is_file() else {}
        for name in ("text", "utt2spk")
    )
    fields = {name: {"speaker": speaker} for name, speaker in speakers.items()}
    if not (folder / "segments").is_file():
        for name, path in recordings.items():
            yield Row(path, f"{folder / 'wav.scp'}: {name}", text=texts.get(name), fields=fields.get(name))
        return
    for where, name, rest in _kaldi_table(folder / "segments"):
        parts = rest.split()
        if len(parts) < 3:
            raise UserError(f"{where}: a segment is an utterance, a recording, a start and an end in seconds")
        if parts[0] not in recordings:
            raise UserError(f"{where}: recording {shown(parts[0])} is not in wav.scp")
        if parts[2] == "-1":  # to the end
            start_s, duration_s = number_of(parts[1], "start", where) or 0.0, None
        else:
            start_s, duration_s = span_of(parts[1], parts[2], where)
        yield Row(recordings[parts[0]], where, start_s, duration_s, text=texts.get(name), fields=fields.get(name))


def _kaldi_table(path: AnyPath) -> list[tuple[str, str, str]]:
    """The file and line of each row, its key, and the rest of it."""
    rows, seen = list(keyed_lines(path)), set()
    for where, key, rest in rows:
        if key in seen:
            raise UserError(f"{where}: {shown(key)} is there twice; each line needs a key of its own")
        if not rest and path.name != "text":
            raise UserError(f"{where}: nothing follows {shown(key)}")
        seen.add(key)
    return rows


def _metadata(folder: AnyPath) -> list[AnyPath]:
    """The metadata of an audiofolder: the folder's own, or those of the folders below."""
    own = [folder / name for name in METADATA if (folder / name).is_file()]
    return own[:1] or [path for path in files_below(folder) if path.name in METADATA]


def _metadata_rows(folder: AnyPath, wanted: Wanted) -> list[Shard]:
    """The rows of all metadata, of one split."""
    files = _metadata(folder)
    one_split_below(wanted.key, folder, files)
    return [Shard(str(file), manifest_rows(file)) for file in files]


MANIFEST = Reader(
    "manifest",
    "`.jsonl`, `.json` (`.gz` too), `.csv`, `.tsv`: NeMo, audiofolder, SpeechBrain, lhotse cuts, fairseq (no header), "
    "any with keys or a header; Common Voice, VoxPopuli (`DIR/train.tsv`), SLURP (`DIR/slurp/train.jsonl`), "
    "Fluent Speech Commands (`DIR/data/train_data.csv`)", "file",
    named(".tsv", ".csv", ".jsonl", ".json", ".jsonl.gz", ".json.gz"), lambda path, wanted: manifest_rows(path),
    splits=("*.tsv", "*.jsonl", "*.jsonl.gz", "slurp/*.jsonl", "dataset/slurp/*.jsonl", "*.csv", "data/*_data.csv")
)  # fmt: skip
KALDI = Reader(
    "Kaldi", "a folder with `wav.scp`, and `segments`, `text` and `utt2spk` where present", "folder",
    lambda folder, labels: (folder / "wav.scp").is_file(), lambda folder, wanted: kaldi_rows(folder),
)  # fmt: skip
NAMED_PARQUET = Reader(
    "Parquet, of names", "a file whose rows name their audio, as a manifest's do", "file",
    lambda path, labels: path.name.lower().endswith(".parquet") and names_audio(path),
    lambda path, wanted: manifest_rows(path),
)  # fmt: skip
SCP = Reader(
    "Kaldi, `wav.scp`", "the file in such a folder", "file", named(".scp"),
    lambda path, wanted: kaldi_rows(path.parent) if path.name == "wav.scp" else list_rows(path, keyed=True),
)  # fmt: skip
AUDIOFOLDER = Reader(
    "audiofolder", "for labels: a folder with `metadata.jsonl`, `.csv` or `.parquet` in it or at any depth; LJSpeech's",
    "folder", lambda folder, labels: labels and bool(_metadata(folder)), _metadata_rows,
    splits=("*/metadata.*",),
)  # fmt: skip
