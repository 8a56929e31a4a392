"""All readers, in the order in which they are tried. To add one, write its file and name it here."""

from __future__ import annotations

from . import archives, layouts, manifests, parquet, plain, tables

READERS = (
    *(manifests.MANIFEST, archives.TAR, manifests.NAMED_PARQUET, parquet.PARQUET, tables.ARROW, manifests.SCP),
    *(layouts.TRANSCRIPT, layouts.SPEECH_COMMANDS_LIST, plain.LIST, plain.AUDIO_FILE),
    *(tables.DATASET, manifests.KALDI, manifests.AUDIOFOLDER, layouts.SPEECH_COMMANDS, layouts.SPEECH_COMMANDS_NOISE),
    *(layouts.SNIPS, layouts.TEDLIUM, plain.AUDIO_FOLDER, archives.TARS, parquet.PARQUETS, layouts.LIBRISPEECH),
    *(layouts.AISHELL, layouts.VOXCELEB, layouts.IEMOCAP, plain.SIDE_TEXTS, plain.CLASSES, tables.HUB),
)


def table() -> str:
    """The forms of data as a Markdown table, for the documentation."""
    rows = [f"| {reader.name} | {reader.kind} | {reader.form} |" for reader in READERS]
    return "\n".join(["| form | names a | what it is |", "|---|---|---|", *rows])
