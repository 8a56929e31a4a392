"""Official archives of speech, read as unpacked, with the labels and splits that they define themselves.

Archives have gaps of their own, so missing audio skips one utterance and does not end the run.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from ...audio import EXTENSIONS, audio_header
from ...errors import UserError
from .files import files_below, keyed_lines, one_split, one_split_below, rows_below, text_lines, walk
from .remote import AnyPath
from .rows import Fault, Reader, Row, Rows, Wanted, labels_of, named, span_of

SPLIT_LISTS = ("validation_list.txt", "testing_list.txt")
BACKGROUND_NOISE, SILENCE = "_background_noise_", "_silence_"
SNIPS_LABELS = "all.iob.snips.txt"
STM_LABELS = re.compile(r"<[^<>]*,[^<>]*>\s*")
NOT_SCORED = "ignore_time_segment_in_scoring"
SPEAKER = re.compile(r"id\d{5}")
EVALUATED = re.compile(r"\[[\d.]+ - [\d.]+\]\s+(\S+)_([FM])(\d+)\s+(\w+)\s+\[")


def librispeech_rows(path: AnyPath, wanted: Wanted) -> Rows:
    """Below a folder, or in one ``*.trans.txt``: lines of an id and its text, the audio beside them."""
    transcripts = [path]
    if path.is_dir():
        transcripts = [file for file in files_below(path) if file.name.endswith(".trans.txt")]
        one_split_below(wanted.key, path, transcripts)
    for transcript in transcripts:
        beside = {p.stem: p for p in sorted(transcript.parent.iterdir()) if p.suffix.lower() in EXTENSIONS}
        for where, name, text in keyed_lines(transcript):
            if name in beside:
                yield Row(str(beside[name]), where, text=text, fields={"speaker": name.split("-")[0]})
            else:
                yield Fault(f"{transcript.parent / name}", f"{where}: no audio of {name} beside it")


def common_voice_row(row: dict[str, Any], where: str, folder: AnyPath) -> Row:
    """A row of a split's tsv, the audio in ``clips`` beside it."""
    name = row["path"] or ""
    clip = folder / "clips" / (name if Path(name).suffix.lower() in EXTENSIONS else f"{name}.mp3")
    return Row(str(clip), where, text=row["sentence"], fields=row)


def voxpopuli_row(row: dict[str, Any], where: str, files: dict[str, AnyPath]) -> Row | Fault:
    """A row of a split's tsv, the audio in the folders beside it, by its id."""
    name = row["id"] or ""
    if name not in files:
        return Fault(name, f"{where}: no audio of {name} in the folders of the manifest")
    return Row(str(files[name]), where, text=row["normalized_text"], fields=row)


def aishell_transcripts(folder: AnyPath) -> list[AnyPath]:
    """The transcripts that belong to ``folder``, in it or up to three folders above; none where it is no AISHELL."""
    found = (sorted(above.glob("transcript/*.txt")) for above in (folder, *folder.resolve().parents[:3]))
    return next(filter(None, found), [])


def aishell_rows(folder: AnyPath, wanted: Wanted) -> Rows:
    """The audio below a split's folder, each with its line of the one transcript."""
    lines = [line for transcript in aishell_transcripts(folder) for line in keyed_lines(transcript)]
    texts = {name: (where, text) for where, name, text in lines}

    def row_of(file: AnyPath) -> Row:
        if file.stem not in texts:
            raise UserError(f"{file}: no line of the transcript is about it")
        where, text = texts[file.stem]
        return Row(str(file), where, text=text)

    return rows_below(folder, row_of, wanted.key)


def tedlium_rows(folder: AnyPath, wanted: Wanted) -> Rows:
    """The segments of ``stm/*.stm`` over the talks in ``sph``, but for those that are left out of scoring. ``<unk>``
    stands for a word that nobody could write down and is dropped; ``it 's`` becomes ``it's``."""
    for transcript in sorted((folder / "stm").glob("*.stm")):
        for where, line in text_lines(transcript):
            if not line.strip() or line.startswith(";;"):
                continue
            parts = line.split(maxsplit=5)
            if len(parts) < 5:
                raise UserError(f"{where}: a segment is a talk, channel, speaker, start, end, labels and text")
            text = STM_LABELS.sub("", parts[5], count=1) if len(parts) > 5 else ""
            if text.strip() == NOT_SCORED:
                continue
            start_s, duration_s = span_of(parts[3], parts[4], where)
            text = " ".join(text.replace("<unk>", " ").split()).replace(" '", "'")
            yield Row(str(folder / "sph" / f"{parts[0]}.sph"), where, start_s, duration_s, text=text)


def speech_commands_rows(folder: AnyPath, wanted: Wanted) -> Rows:
    """The training split: every file that is in neither list. The label is the folder's name."""
    held_out = {line.strip() for name in SPLIT_LISTS for _, line in text_lines(folder / name)}

    def row_of(file: AnyPath) -> Row | list[Row]:
        known = file.parent.name == BACKGROUND_NOISE or file.relative_to(folder).as_posix() in held_out
        return [] if known else Row(str(file), label=file.parent.name)

    return rows_below(folder, row_of)


def speech_commands_list_rows(path: AnyPath, wanted: Wanted) -> Rows:
    """The split that a list names."""
    for where, line in text_lines(path):
        if line.strip():
            file = path.parent / line.strip()
            yield Row(str(file), where, label=file.parent.name)


def _seconds_of(file: AnyPath) -> list[Row]:
    """Each second of a file of noise, as ``_silence_``; a rest of less than a second is left out."""
    with file.open("rb") as audio:
        frames, rate_hz, _ = audio_header(audio)
    return [Row(str(file), f"{file}: second {n}", float(n), 1.0, label=SILENCE) for n in range(frames // rate_hz)]


def slurp_rows(row: dict[str, Any], where: str, folder: AnyPath) -> Rows:
    """Every recording of one sentence. The label is the row's intent. ``tokens``, which the spans of ``entities``
    count, become their surfaces in lower case, as SLURP's scorer has them."""
    text, label = labels_of(row)
    if label is None and row.get("scenario") and row.get("action"):
        label = f"{row['scenario']}_{row['action']}"
    if isinstance(row.get("tokens"), list):
        surfaces = [token.get("surface") if isinstance(token, dict) else token for token in row["tokens"]]
        row = row | {"tokens": [str(surface).lower() for surface in surfaces]}
    for recording in row["recordings"]:
        name = recording.get("file") if isinstance(recording, dict) else None
        if not isinstance(name, str):
            raise UserError(f"{where}: a recording without a file")
        found = next((at / name for at in _slurp_audio(folder) if (at / name).is_file()), None)
        if found is None:
            yield Fault(name, f"{where}: {name} is in no folder slurp_real or slurp_synth near {folder}")
        else:
            yield Row(str(found), where, text=text, label=label, fields=row | recording)


@lru_cache(maxsize=8)
def _slurp_audio(folder: AnyPath) -> list[AnyPath]:
    """The folders of SLURP's audio: beside its manifests, or as its own scripts leave them, up to two folders above."""
    above = (folder, *folder.resolve().parents[:2])
    names = [f"{audio}slurp_{kind}" for audio in ("", "audio/") for kind in ("real", "synth")]
    return [at / name for name in names for at in above if (at / name).is_dir()]


def fluent_row(row: dict[str, Any], where: str, folder: AnyPath) -> Row:
    """A row of ``data/train_data.csv``; its path begins at the folder above ``data``."""
    root = folder.parent if (folder.parent / "wavs").is_dir() else folder
    label = "|".join(str(row[key]) for key in ("action", "object", "location"))
    return Row(str(root / str(row["path"])), where, text=row.get("transcription"), label=label, fields=row)


def snips_rows(folder: AnyPath, wanted: Wanted) -> Rows:
    """The audio of a split's folder, each with its line of ``all.iob.snips.txt`` beside the folder. A line is a name,
    the words from BOS to EOS, a tab, their tags (``O B-artist I-artist``) and the intent."""
    if (folder / SNIPS_LABELS).is_file():
        one_split(wanted.key, folder, [(path.name, path.name) for path in folder.iterdir()])
        raise UserError(f"{wanted.key}={folder}: holds {SNIPS_LABELS}; name the folder of one split in it")
    lines = {name: (where, rest) for where, name, rest in keyed_lines(folder.parent / SNIPS_LABELS)}

    def row_of(file: AnyPath) -> Row:
        where, rest = lines.get(file.stem, (str(file), ""))
        spoken, _, labels = rest.partition("\t")
        words, tags = spoken.split()[1:-1], labels.split()[1:-1]
        if not words or len(words) != len(tags):
            why = f"{len(words)} words and {len(tags)} tags" if rest else f"no line of {SNIPS_LABELS} is about it"
            raise UserError(f"{where}: {why}")
        fields = {"speaker": file.stem.split("-")[0], "tokens": words, "entities": _tagged_spans(tags)}
        return Row(str(file), where, text=" ".join(words), label=labels.split()[-1], fields=fields)

    return rows_below(folder, row_of)


def _tagged_spans(tags: list[str]) -> list[dict[str, Any]]:
    """``B-type`` and each ``I-type`` after it, as the numbers of their words."""
    spans: list[dict[str, Any]] = []
    for number, tag in enumerate(tags):
        mark, _, kind = tag.partition("-")
        if mark == "I" and spans and spans[-1]["type"] == kind and spans[-1]["span"][-1] == number - 1:
            spans[-1]["span"].append(number)
        elif mark in ("B", "I"):
            spans.append({"type": kind, "span": [number]})
    return spans


def _speakers(folder: AnyPath) -> AnyPath | None:
    """The folder of VoxCeleb's speakers: ``folder`` itself or ``wav`` in it; None where there is none."""
    places = [at for at in (folder, folder / "wav") if isinstance(at, Path) and at.is_dir()]
    return next((at for at in places if any(SPEAKER.fullmatch(path.name) for path in at.iterdir())), None)


def voxceleb_rows(folder: AnyPath, wanted: Wanted) -> Rows:
    """All audio below the speakers' folders, ``id10001/1zcIwhmdeo4/00001.wav``."""

    def row_of(file: AnyPath) -> Row:
        if not SPEAKER.fullmatch(speaker := file.relative_to(folder).parts[0]):
            raise UserError(f"{file}: in no speaker's folder, such as id10001")
        return Row(str(file), fields={"speaker": speaker})

    return rows_below(folder, row_of)


def _sessions(folder: AnyPath) -> list[AnyPath]:
    """The sessions of IEMOCAP: ``folder`` itself or those in it."""
    found = [folder, *sorted(folder.glob("Session?"))] if isinstance(folder, Path) else []
    return [at for at in found if re.fullmatch(r"Session\d", at.name) and (at / "dialog/EmoEvaluation").is_dir()]


def iemocap_rows(sessions: list[AnyPath]) -> Rows:
    """The sentences of these sessions, with ``session``, ``speaker`` (``Ses01F``) and ``emotion``: that of
    ``dialog/EmoEvaluation/*.txt`` for a sentence, under the names there (``neu``, ``ang``, ``hap``, ``exc``, …)."""
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


LIBRISPEECH = Reader(
    "LibriSpeech, Libri-Light", "for labels: a split's folder (`DIR/dev-clean`), with `*.trans.txt` at any depth",
    "folder", lambda folder, labels: labels and any(str(path).endswith(".trans.txt") for path in walk(folder)),
    librispeech_rows,
)  # fmt: skip
TRANSCRIPT = Reader(
    "a LibriSpeech transcript", "`DIR/1-2.trans.txt`", "file", named(".trans.txt"), librispeech_rows
)  # fmt: skip
AISHELL = Reader(
    "AISHELL-1", "for labels: `DIR/wav/train`, with `DIR/transcript/*.txt` above; the speakers' archives unpacked",
    "folder", lambda folder, labels: labels and bool(aishell_transcripts(folder)), aishell_rows,
    splits=("wav/*/S*",),
)  # fmt: skip
TEDLIUM = Reader(
    "TED-LIUM", "for labels: `DIR/legacy/train`, a folder that holds `stm` and `sph`", "folder",
    lambda folder, labels: labels and (folder / "stm").is_dir() and (folder / "sph").is_dir(), tedlium_rows,
    splits=("*/stm", "legacy/*/stm"),
)  # fmt: skip
SPEECH_COMMANDS = Reader(
    "Speech Commands", "its folder is the training split: all that is in neither list, without `_background_noise_`",
    "folder", lambda folder, labels: all((folder / name).is_file() for name in SPLIT_LISTS), speech_commands_rows,
)  # fmt: skip
SPEECH_COMMANDS_LIST = Reader(
    "Speech Commands, a list", "the other splits: `DIR/validation_list.txt`, `DIR/testing_list.txt`", "file",
    lambda path, labels: path.name.lower() in SPLIT_LISTS, speech_commands_list_rows,
)  # fmt: skip
SPEECH_COMMANDS_NOISE = Reader(
    "Speech Commands, silence", "for labels: `DIR/_background_noise_`, second by second as `_silence_`", "folder",
    lambda folder, labels: labels and folder.name == BACKGROUND_NOISE,
    lambda folder, wanted: rows_below(folder, _seconds_of),
)  # fmt: skip
SNIPS = Reader(
    "Audio SNIPS", "for labels: a split's folder beside `all.iob.snips.txt`; the label is the intent", "folder",
    lambda folder, labels: labels and any((at / SNIPS_LABELS).is_file() for at in (folder, folder.parent)), snips_rows,
)  # fmt: skip
VOXCELEB = Reader(
    "VoxCeleb1", "for labels: `DIR` or `DIR/wav`, a folder for each speaker (`id10001`)", "folder",
    lambda folder, labels: labels and _speakers(folder) is not None,
    lambda folder, wanted: voxceleb_rows(_speakers(folder) or folder, wanted),
)  # fmt: skip
IEMOCAP = Reader(
    "IEMOCAP", "for labels: `DIR` with `Session1` to `Session5`, or one of them", "folder",
    lambda folder, labels: labels and bool(_sessions(folder)), lambda folder, wanted: iemocap_rows(_sessions(folder)),
)  # fmt: skip
