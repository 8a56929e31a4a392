"""docs/extending.md: its toy mixer, objective, head, task and reader are added to a copy of the repository, and run.

A ``python`` block begins with the path of a file, which it is appended to where it exists. A ``diff`` block holds hunks
``@@ PATH`` of lines to find and to replace. ``bash`` blocks are commands, run at a tiny size.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.runs import ROOT
from tests.test_readme import DOCS, fault_of, tiny

PACKAGES = ("mixvec", "pretrain", "finetune", "tools", "configs")
BLOCK = re.compile(r"^```(python|diff|bash)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def added(block: str, root: Path) -> None:
    """Write or append the code of a block to the file that its first line names."""
    path = root / block.splitlines()[0].removeprefix("# ")
    before = path.read_text() + "\n\n" if path.exists() else ""
    path.write_text(before + block.partition("\n")[2])


def patched(block: str, root: Path) -> None:
    """Replace the text of each hunk, which has to be in the file exactly once."""
    for hunk in block.split("@@ ")[1:]:
        name, _, body = hunk.partition("\n")
        lines = body.splitlines()
        old = "\n".join(line[1:] for line in lines if line[0] in " -")
        new = "\n".join(line[1:] for line in lines if line[0] in " +")
        text = (root / name).read_text()
        assert text.count(old) == 1, f"docs/extending.md changes lines that {name} does not have once:\n{old}"
        (root / name).write_text(text.replace(old, new))


def labelled(corpus: Path, folder: Path) -> Path:
    """Utterances with the field ``gender`` and no other label."""
    folder.mkdir()
    rows = [json.loads(line) for line in (corpus / "intent/train/metadata.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows):
        audio = str(corpus / "intent/train" / row["file_name"])
        rows[number] = {"audio": audio, "gender": ("female", "male")[number % 2]}
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.slow
def test_each_addition_takes_one_file_and_its_name(corpus: Path, tmp_path: Path) -> None:
    root, ran = tmp_path / "copy", []
    for name in PACKAGES:
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(next((corpus / "asr/test/audio").iterdir()), root / "speech.flac")
    files = sorted((corpus / "unlabelled").rglob("*.flac"))
    (root / "files.paths").write_text("".join(f"{file}\n" for file in files))
    genders = labelled(corpus, tmp_path / "genders")
    for language, block in BLOCK.findall((DOCS / "extending.md").read_text()):
        if language == "python":
            added(block, root)
        elif language == "diff":
            patched(block, root)
        else:
            for command in block.splitlines():
                words = tiny(command.replace("LABELLED", str(genders)), corpus)
                assert fault_of(words, root, root) == ""
                ran.append(command)
    assert len(ran) >= 5
