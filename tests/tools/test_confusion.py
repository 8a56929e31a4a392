"""The confusion matrix of a run: what it counts, what it refuses, and a picture whose cells lie where they should."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from matplotlib import image
from sklearn.metrics import confusion_matrix

from tests.commands import Run, in_process
from tools import confusion


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return in_process(confusion.main, monkeypatch, capsys)


def write_rows(folder: Path, name: str, pairs: list[tuple[Any, Any]]) -> Path:
    lines = [json.dumps({"source": "a.wav", "reference": said, "prediction": heard}) for said, heard in pairs]
    (folder / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return folder


PAIRS = [("on", "on")] * 6 + [("off", "on")] * 2 + [("off", "off")] + [("up|light", "down|light")]


def test_counts_equal_scikit_learn_s_and_the_picture_is_drawn(tmp_path: Path, run: Run) -> None:
    write_rows(tmp_path, "valid", [("x", "y")])
    done = run(write_rows(tmp_path, "test", PAIRS))
    assert done.code == 0 and done.lines == [
        f"{tmp_path}/test.jsonl: 7 of 10 right (70.0%)",
        "      2  off taken for on",
        "      1  up|light taken for down|light",
        f"the picture is in {tmp_path}/confusion.png",
    ]
    pairs = confusion.label_pairs(tmp_path / "test.jsonl")
    labels = sorted({label for pair in PAIRS for label in pair})
    expected = confusion_matrix([said for said, _ in PAIRS], [heard for _, heard in PAIRS], labels=labels)
    assert [[pairs[said, heard] for heard in labels] for said in labels] == expected.tolist()
    assert image.imread(tmp_path / "confusion.png").shape[0] > 300


def test_cells_are_the_share_of_their_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    from matplotlib.axes import Axes

    plain = Axes.imshow
    monkeypatch.setattr(Axes, "imshow", lambda self, data, **keys: drawn.append(data) or plain(self, data, **keys))
    confusion.draw(Counter({("a", "a"): 3, ("a", "b"): 1, ("c", "b"): 2}), "some", tmp_path / "m.png")
    assert drawn[0].tolist() == [[0.75, 0.25, 0.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]]


def test_a_slots_run_is_taken_by_its_intent(tmp_path: Path, run: Run) -> None:
    said = {"intent": "order", "text": None, "slots": []}
    write_rows(tmp_path, "valid", [(said, said), (said, said | {"intent": None}), (said, "")])
    assert run(tmp_path, "--split", "valid").lines[:2] == [
        f"{tmp_path}/valid.jsonl: 1 of 3 right (33.3%)", "      2  order taken for -",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (None, "no test.jsonl or valid.jsonl in it; a fine-tuning run leaves one at its end"),
        ([], "test.jsonl: empty"),
        ([(["a"], "b")], "test.jsonl:1: no label in it"),
        ([(f"some text {i}", "b") for i in range(201)], "202 labels, and a picture holds 200; are they texts?"),
    ],
)
def test_what_is_no_labelled_run_is_refused(tmp_path: Path, run: Run, pairs: Any, message: str) -> None:
    if pairs is not None:
        write_rows(tmp_path, "test", pairs)
    done = run(tmp_path)
    assert done.code == 1 and message in done.err and len(done.err.splitlines()) == 1
    assert not (tmp_path / "confusion.png").exists()
