"""The soak in its short form, and that it would see a run that did not end as it should."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.runs import ROOT, pretrain
from tools.soak.disk import enter
from tools.soak.plan import FULL, KINDS, SAVE_EVERY, Fault, draw, split
from tools.soak.strike import Record, harm_newest
from tools.soak.verdict import compare, table


def test_five_faults_lose_nothing(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "corpus").symlink_to(corpus)
    words = ["--faults", "5", "--seed", "870", "--ranks", "1", "--out", str(tmp_path)]
    done = subprocess.run([sys.executable, "-m", "tools.soak", *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert (results["faults_injected"], results["updates_lost"], results["final_difference"]) == (5, 0, 0)
    kinds = {record["kind"] for record in results["records"]}
    assert len(kinds) == 5 and all(KINDS[kind] in done.stdout for kind in kinds)
    assert set(results["left_out"]) == (set() if kinds & set(FULL) else set(FULL)), "never left out silently"
    assert done.stdout.endswith("largest difference from the runs left alone: 0 (bit for bit the same)\n")


def test_nobodys_files_are_removed(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    words = [sys.executable, "-m", "tools.soak", "--out", str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1) and "holds thesis.tex" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.fixture
def runs(corpus: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A short run, and a copy of it."""
    keys = (f"run.save_every={SAVE_EVERY}", f"run.updates={2 * SAVE_EVERY}")
    assert pretrain(corpus, tmp_path / "alone", *keys) == 0
    shutil.copytree(tmp_path / "alone", tmp_path / "struck")
    return tmp_path / "alone", tmp_path / "struck"


def test_what_differs_is_found(runs: tuple[Path, Path]) -> None:
    alone, struck = runs
    assert compare(alone, struck, 2 * SAVE_EVERY) == (0.0, [])
    weights = load_file(struck / "hub/model.safetensors")
    weights["norm.bias"][3] += 0.25
    save_file(weights, struck / "hub/model.safetensors", metadata={"format": "pt"})
    rng = load_file(struck / "checkpoints/update_00000006/rng.safetensors")
    del rng["0.numpy"]
    save_file(rng, struck / "checkpoints/update_00000006/rng.safetensors")
    log = (struck / "metrics.jsonl").read_text().splitlines()
    (struck / "metrics.jsonl").write_text("\n".join([*log[:4], log[4].replace('"update": 5', '"update": 6')]) + "\n")
    (struck / ".hub.new-7").mkdir()
    largest, wrong = compare(alone, struck, 2 * SAVE_EVERY)
    assert largest == float("inf") and [line.split(":")[0] for line in wrong] == [
        "checkpoints/update_00000006/rng.safetensors", "hub/model.safetensors", "metrics.jsonl", "metrics.jsonl",
        "left half-written at the end",
    ]  # fmt: skip
    assert "norm.bias differ by up to 0.25" in wrong[1] and "5 rows instead of 6" in wrong[2]


@pytest.mark.parametrize("kind", ["flipped-byte", "cut-file", "lost-file"])
def test_a_checkpoint_is_harmed_only_where_another_is_whole(runs: tuple[Path, Path], kind: str) -> None:
    record = harm_newest("pretrain", runs[1], Fault(kind, 1, 0.5))
    assert record is not None and (record.newest, record.redone, record.wrong) == (SAVE_EVERY, SAVE_EVERY, [])
    assert harm_newest("pretrain", runs[1], Fault(kind, 1, 0.5)) is None


def test_every_kind_is_drawn_and_what_cannot_be_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert {fault.kind for fault in draw(len(KINDS), 1, disk=True)} == set(KINDS)
    assert draw(50, 1, disk=True) == draw(50, 1, disk=True) != draw(50, 2, disk=True)
    assert not {fault.kind for fault in draw(50, 1, disk=False)} & set(FULL)
    pretraining, tuning = split(draw(50, 0, disk=True))
    assert (len(pretraining), len(tuning)) == (30, 20)
    assert (pretraining[-1].kind, tuning[-1].kind) == ("kill-at-end", "kill-in-model-folder")
    monkeypatch.setenv("PATH", str(tmp_path))
    why = enter(tmp_path / "disk")
    assert why == "unshare(1) cannot be run (No such file or directory)"
    shown = table([vars(Record("asr", "kill-all", "", redone=2, restarts=1))], dict.fromkeys(FULL, why))
    assert shown.count(f"left out: {why}") == 2
    assert "SIGKILL to all processes                                  1        1           2.0    2" in shown
