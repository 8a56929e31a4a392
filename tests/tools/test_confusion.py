"""The confusion matrix of a run: its counts, the cells of its picture, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib import image
from matplotlib.axes import Axes

from mixvec.errors import run_cli
from tests.commands import Run, in_process
from tools import confusion


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return in_process(lambda: run_cli(confusion.main), monkeypatch, capsys)


def write_rows(folder: Path, name: str, pairs: list[tuple[Any, Any]]) -> Path:
    lines = [json.dumps({"source": "a.wav", "reference": said, "prediction": heard}) for said, heard in pairs]
    (folder / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return folder


PAIRS = [("on", "on")] * 6 + [("off", "on")] * 2 + [("off", "off")] + [("up|light", "down|light")]


def test_counts_and_picture(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, plain = [], Axes.imshow
    monkeypatch.setattr(Axes, "imshow", lambda self, data, **keys: drawn.append(data) or plain(self, data, **keys))
    write_rows(tmp_path, "valid", [("x", "y")])
    done = run(write_rows(tmp_path, "test", PAIRS))
    assert done.code == 0 and done.lines == [
        f"{tmp_path}/test.jsonl: 7 of 10 correct (70.0%)",
        "      2  off predicted as on",
        "      1  up|light predicted as down|light",
        f"the picture is in {tmp_path}/confusion.png",
    ]
    assert image.imread(tmp_path / "confusion.png").shape[0] > 300
    labels = ["down|light", "off", "on", "up|light"]
    cells = dict(zip(labels, drawn[0].tolist(), strict=True))
    assert cells == {"down|light": [0, 0, 0, 0], "off": [0, pytest.approx(1 / 3), pytest.approx(2 / 3), 0],
                     "on": [0, 0, 1, 0], "up|light": [1, 0, 0, 0]}  # fmt: skip


def test_a_slots_run_is_taken_by_its_intent(tmp_path: Path, run: Run) -> None:
    said = {"intent": "order", "text": None, "slots": []}
    write_rows(tmp_path, "valid", [(said, said), (said, said | {"intent": None}), (said, "")])
    done = run(tmp_path, "--split", "valid")
    assert "1 of 3 correct" in done.lines[0] and done.lines[1].split() == ["2", "order", "predicted", "as", "-"]


@pytest.mark.parametrize(
    ("pairs", "named"),
    [
        (None, "no test.jsonl or valid.jsonl"),
        ([], "test.jsonl: 0 labels"),
        ([(["a"], "b")], "test.jsonl:1: "),
        ([(f"some text {i}", "b") for i in range(201)], "202 labels"),
    ],
)
def test_what_is_no_labelled_run_is_refused(tmp_path: Path, run: Run, pairs: Any, named: str) -> None:
    if pairs is not None:
        write_rows(tmp_path, "test", pairs)
    done = run(tmp_path)
    assert done.code == 1 and named in done.err and len(done.err.splitlines()) == 1
    assert not (tmp_path / "confusion.png").exists()
