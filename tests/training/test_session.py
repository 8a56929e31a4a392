"""What a run keeps for its report: warnings at their updates, and each session's machine, commit and data."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from mixvec.training import rundir
from mixvec.training.log import Log
from tests.runs import ROOT, pretrain


def read(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_warnings_are_kept_with_their_update_and_cut_back_on_resume(tmp_path: Path) -> None:
    log = Log(tmp_path, main=True)
    log.print("WARNING data.train: https://user:secret@host/x is odd\nand a line")
    log.start(0)
    for update in (1, 2, 3):
        log.warn({"update": update}, "line", {"stuck": "WARNING stuck: at chance"} if update > 1 else {})
    log.print("  test: 1\n    WARNING blank-only output: all empty")
    log.close()
    kept = read(tmp_path / "warnings.jsonl")
    assert [(row["update"], row["name"]) for row in kept] == [(0, ""), (2, "stuck"), (3, "")]
    assert kept[1]["text"] == "at chance" and "secret" not in str(kept)
    resumed = Log(tmp_path, main=True)
    resumed.print("WARNING again")
    resumed.start(2)
    resumed.close()
    assert [(row["update"], row["text"]) for row in read(tmp_path / "warnings.jsonl")][1:] == [
        (2, "at chance"),
        (2, "again"),
    ]


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    log = Log(tmp_path, ["tensorboard"], main=False)
    log.print("WARNING x")
    log.start(0)
    log.warn({"update": 1}, "line", {"stuck": "WARNING stuck: y"})
    log.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_each_session_is_noted(corpus: Path, tmp_path: Path) -> None:
    for _ in range(2):
        assert pretrain(corpus, tmp_path / "run", "run.updates=2") == 0
    first, second = read(tmp_path / "run/sessions.jsonl")
    assert (first["update"], second["update"]) == (0, 2) and first["ranks"] == 1
    assert first["data"]["data.train"]["seconds"] > 1  # type: ignore[index]
    assert "cores" in str(first["machine"]) or first["machine"]


def test_the_commit_is_that_of_mixvec_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that of another project in whose folder mixvec happens to be installed."""
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    assert (rundir.commit() or "").removesuffix("-dirty") == head[:12]
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    monkeypatch.setattr(rundir, "PACKAGE", tmp_path / "lib" / "mixvec")
    (tmp_path / "lib/mixvec").mkdir(parents=True)
    assert rundir.commit() is None
