"""All readers, in the order in which they are tried. To add one, write its file and name it here."""

from __future__ import annotations

from .archives import TAR, TARS
from .audio_files import AUDIO_FILE, AUDIO_FOLDER
from .layouts import (
    AISHELL,
    LIBRISPEECH,
    SNIPS,
    SPEECH_COMMANDS,
    SPEECH_COMMANDS_LIST,
    SPEECH_COMMANDS_NOISE,
    SPEECH_COMMANDS_TEST,
    TEDLIUM,
    TRANSCRIPT,
)
from .manifests import AUDIOFOLDER, CSV, JSON, KALDI, NAMED_PARQUET, SCP, TSV
from .parquet import PARQUET, PARQUETS
from .plain import CLASSES, LIST, SIDE_TEXTS
from .tables import ARROW, DATASET, HUB
from .voices import IEMOCAP, VOXCELEB

READERS = (
    *(TSV, JSON, CSV, TAR, NAMED_PARQUET, PARQUET, ARROW, SCP, TRANSCRIPT, SPEECH_COMMANDS_LIST, LIST, AUDIO_FILE),
    *(DATASET, KALDI, AUDIOFOLDER, SPEECH_COMMANDS, SPEECH_COMMANDS_NOISE, SNIPS, SPEECH_COMMANDS_TEST, TEDLIUM),
    *(AUDIO_FOLDER, TARS, PARQUETS, LIBRISPEECH, AISHELL, VOXCELEB, IEMOCAP, SIDE_TEXTS, CLASSES),
    HUB,
)


def table() -> str:
    """The forms of data as a Markdown table, for the documentation."""
    rows = [f"| {reader.name} | {reader.kind} | {reader.form} |" for reader in READERS]
    return "\n".join(["| form | names a | what it is |", "|---|---|---|", *rows])
