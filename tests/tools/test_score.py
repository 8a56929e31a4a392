"""python -m tools.score: one table a run, a paired bootstrap for two, and one line for what cannot be scored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mixvec.errors import run_cli
from tests.commands import Run, in_process
from tools import score


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return in_process(lambda: run_cli(score.main), monkeypatch, capsys)


def written(path: Path, *rows: dict[str, Any]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def row(number: int, reference: str, prediction: str, **others: Any) -> dict[str, Any]:
    return {"source": f"{number}.wav", "start_s": 0.0, "duration_s": 1.0 + number, "reference": reference,
            "prediction": prediction, "speaker": f"s{number % 2}", **others}  # fmt: skip


ROWS = [row(0, "the cat", "the mat"), row(1, "a b c", "a c"), row(2, "the cat sat", "the mat sat"), row(3, "", "oh")]


def test_one_run_is_one_table(tmp_path: Path, scored: Run) -> None:
    written(tmp_path / "run/valid.jsonl", row(0, "x", "y"))
    written(tmp_path / "run/test.jsonl", *ROWS)
    done = scored(tmp_path / "run")
    assert done.code == 0 and "test.jsonl: 4 utterances, 2 speakers; intervals resample speakers" in done.lines[0]
    (all_line,) = [line for line in done.lines if line.startswith("all ")]
    assert (
        all_line.split()[:1] == ["all"] and " 50.00 " in all_line and all_line.split("]")[1].split()[:4] == list("8211")
    )
    assert "confused: cat → mat x2" in done.out and "deleted: b x1" in done.out and "inserted: oh x1" in done.out
    assert "1 of 4 references are empty (3.wav)" in done.out
    assert "speaker s0" in done.out and "4 to 8 s" in done.out
    assert "100.00" in scored(tmp_path / "run", "--split", "valid").out


def test_two_runs_are_compared_in_pairs_whatever_their_order(tmp_path: Path, scored: Run) -> None:
    better = [{**r, "prediction": r["reference"]} for r in ROWS]
    one = written(tmp_path / "a.jsonl", *ROWS)
    two = written(tmp_path / "b.jsonl", *reversed(better))
    done = scored(one, two)
    assert done.code == 0 and "WER of 2 minus that of 1: -50.00 points" in done.out
    assert "2 is better with probability 1.000" in done.out
    assert "probability 0.500" in scored(one, one).out


def test_text_may_be_normalised(tmp_path: Path, scored: Run) -> None:
    file = written(tmp_path / "a.jsonl", row(0, "The cat.", "the cat"))
    (raw,), (plain,) = (
        [line for line in scored(file, *text).lines if line.startswith("all")] for text in ((), ("--text", "basic"))
    )
    assert raw.split()[1] == "100.00" and plain.split()[1] == "0.00"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "a.jsonl:1: "),
        ('{"reference": "a"}', "a.jsonl:1: no reference"),
        ('{"reference": " ", "prediction": "x"}', "a.jsonl: every reference"),
        ("", "a.jsonl: every reference"),
        ('{"reference": "other", "prediction": "x", "source": "0.wav"}', "data.test and text.normalise"),
    ],
)
def test_what_cannot_be_scored_is_one_line(tmp_path: Path, scored: Run, content: str, message: str) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    done = scored(written(tmp_path / "b.jsonl", row(0, "some", "some")), tmp_path / "a.jsonl")
    assert done.code == 1 and message in done.err and len(done.err.splitlines()) == 1


def test_a_run_without_predictions(tmp_path: Path, scored: Run) -> None:
    done = scored(tmp_path)
    assert done.code == 1 and "no test.jsonl or valid.jsonl" in done.err
    assert "3 runs" in scored(tmp_path, tmp_path, tmp_path).err
