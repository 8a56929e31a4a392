"""What `python -m tools.inspect` says of a corpus whose every number is known."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mixvec.data.config import DataConfig
from mixvec.errors import run_cli
from mixvec.training.config import BatchConfig
from pretrain.config import PretrainConfig, PretrainRun
from tests.commands import Run, in_process
from tests.readers import write, write_text
from tools import inspect as tool

DURATIONS_S = (0.4, 1.0, 1.5, 2.0, 2.0, 2.5, 4.0, 6.0)
KEYS = ("data.min_s=1", "data.max_s=4", "batch.update_s=100", "batch.max_s=100", "run.updates=30")


@pytest.fixture
def inspect(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return in_process(lambda: run_cli(tool.main), monkeypatch, capsys)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight utterances, one of them at 8 kHz; three files that cannot be read, for two reasons."""
    for number, seconds in enumerate(DURATIONS_S):
        write(tmp_path / "audio" / f"{number}.wav", seconds, 8_000 if number == 3 else 16_000)
    for name in ("noise 1.wav", "noise 2.flac"):
        (tmp_path / "audio" / name).write_bytes(b"this is no audio " * 20)
    write(tmp_path / "audio" / "zero.wav", 0.0)
    return tmp_path / "audio"


@pytest.fixture
def labelled(folder: Path) -> Path:
    write_text(folder / "metadata.csv", "file_name,text,intent", "0.wav,ab c,on", "1.wav,c,off", "2.wav,,on", "3.wav,,")
    return folder


def test_every_number_is_the_one_that_was_put_in(folder: Path, tmp_path: Path, inspect: Run) -> None:
    done = inspect(folder, *KEYS, "--json", tmp_path / "facts.json")
    assert (done.code, done.err) == (0, "")
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["source"] == str(folder) and facts["config"] == "configs/small.yaml"
    assert facts["utterances"] == 8 and facts["hours"] * 3600 == pytest.approx(19.4)
    assert facts["formats"] == [
        {"rate_hz": 16_000, "channels": 1, "utterances": 7}, {"rate_hz": 8_000, "channels": 1, "utterances": 1},
    ]  # fmt: skip
    quantiles = facts["quantiles_s"]
    assert (quantiles["0%"], quantiles["50%"], quantiles["100%"]) == (0.4, 2.0, 6.0)
    assert list(quantiles) == ["0%", "5%", "25%", "50%", "75%", "95%", "100%"]
    counts = {row["from_s"]: row["utterances"] for row in facts["histogram"] if row["utterances"]}
    assert counts == {0.0: 1, 1.0: 2, 2.0: 3, 3.0: 1, 5.0: 1}
    assert {row["from_s"]: row["hours"] for row in facts["histogram"]}[2.0] == pytest.approx(6.5 / 3600)
    assert facts["skipped"] == 3 and facts["skipped_share"] == pytest.approx(3 / 11)
    assert [(row["count"], row["reason"]) for row in facts["reasons"]] == [
        (2, "not audio that libsndfile can read (Format not recognised)"), (1, "no audio in it"),
    ]  # fmt: skip
    assert facts["reasons"][0]["examples"] == [str(folder / "noise 1.wav"), str(folder / "noise 2.flac")]
    plan = facts["plan"]
    assert (plan["left_out"], plan["cut"], plan["updates_an_epoch"], plan["batches_an_epoch"]) == (1, 1, 1, 1)
    assert (plan["segments"], plan["cut_left_out_hours"], plan["unreadable"]) == (2, 0, [])
    assert plan["left_out_hours"] == pytest.approx(0.4 / 3600)
    assert plan["hours_an_epoch"] == pytest.approx(19 / 3600)
    assert plan["padding_share"] == pytest.approx(1 - 19 / (8 * 4))  # 8 of them, 6 s cut in two, each padded to 4 s
    assert plan["padding_by_update"] == [plan["padding_share"]] and plan["epochs_a_run"] == 30
    assert "labels" not in facts
    for line in (
        "0.01 h in 8 utterances, 2.42 s on average",
        "as recorded: 16,000 Hz, 1 ch: 7; 8,000 Hz, 1 ch: 1",
        "unreadable: 3 (27.27 %)",
        f"      {folder}/noise 1.wav",
        "the plan under configs/small.yaml: batch.update_s=100 batch.max_s=100 data.min_s=1 data.max_s=4, one rank",
        "  1 utterances (0.00 h) are shorter and left out",
        "  an epoch: 0.01 h in 1 updates, 1 batches",
        f"  {plan['cut_as']}",
        "  run.updates=30 are 30.00 epochs",
    ):
        assert line in done.lines
    assert "padding: 40.62 %" in done.out


def test_the_longest_alone_are_planned(folder: Path) -> None:
    """Half of 19 s: 4, then three of 3 or less."""
    config = PretrainConfig(data=DataConfig(str(folder), min_s=1, max_s=4, longest_share=0.5))
    plan = tool.inspect(config, labels=False)["plan"]
    assert plan["hours_an_epoch"] == pytest.approx(10 / 3600)
    assert plan["not_among_the_longest"] == 5
    lines = tool._plan_lines("c", plan)
    assert "  5 are not among the longest and left out (data.longest_share=0.5)" in lines


def test_padding_is_what_batches_by_hand_give(folder: Path) -> None:
    """Batches of at most 4.5 s, in any order of updates; the utterance of 6 s is cut in two."""
    config = PretrainConfig(
        data=DataConfig(str(folder), min_s=1, max_s=4), batch=BatchConfig(100, 4.5), run=PretrainRun(updates=1)
    )
    plan = tool.inspect(config, labels=False)["plan"]
    assert plan["batches_an_epoch"] == 6  # 4 | 3 | 3 | 2.5 | 2 2 | 1.5 1
    assert plan["padding_share"] == pytest.approx(1 - 19 / (4 + 3 + 3 + 2.5 + 4 + 3))


def test_texts_and_labels_are_counted(labelled: Path, tmp_path: Path, inspect: Run) -> None:
    done = inspect(labelled, "--labels", "--json", tmp_path / "facts.json")
    facts = json.loads((tmp_path / "facts.json").read_text())["labels"]
    assert facts == {
        "with_text": 2, "without_text": 2, "words": 3, "different_words": 2, "characters": 5,
        "characters_a_second": pytest.approx(5 / 1.4), "different_characters": " abc",
        "with_label": 4, "without_label": 0, "label_counts": {"on": 2, "off": 1, "": 1},
    }  # fmt: skip
    assert "  3 words, 2 different; 5 characters, 3.6 a second, of 4 kinds:  abc" in done.lines
    assert "           2  on" in done.lines


def test_the_configuration_is_the_one_that_is_named(folder: Path, tmp_path: Path, inspect: Run) -> None:
    config = write_text(tmp_path / "mine.yaml", "data: {min_s: 3}", "batch: {update_s: 7, max_s: 30}")
    done = inspect("--config", config, f"[{folder},{folder}]", "data.max_s=5")
    assert f"the plan under {config}: batch.update_s=7 batch.max_s=30 data.min_s=3 data.max_s=5, one rank" in done.lines
    assert "0.01 h in 16 utterances, 2.42 s on average" in done.lines
    done = inspect(folder, "data.min_s=9", "--plot", tmp_path / "none.png")
    assert done.lines[-1] == "  nothing is left to train on" and (tmp_path / "none.png").is_file()


def test_the_plan_takes_a_weight_into_account(folder: Path, tmp_path: Path, inspect: Run) -> None:
    """Seven utterances of 19 s in all, one of them cut in two, each twice."""
    inspect(f"[{{source: {folder}, weight: 2}}]", *KEYS, "--json", tmp_path / "facts.json")
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["hours"] * 3600 == pytest.approx(19.4) and facts["plan"]["left_out"] == 1
    assert facts["plan"]["hours_an_epoch"] == pytest.approx(2 * 19 / 3600)
    assert facts["plan"]["padding_share"] == pytest.approx(1 - 38 / (16 * 4))


def test_the_picture_is_written_whole(folder: Path, tmp_path: Path, inspect: Run) -> None:
    done = inspect(folder, "--plot", tmp_path / "deep" / "plan.png")
    assert done.code == 0
    assert (tmp_path / "deep" / "plan.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["plan.png"]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["AUDIO/gone"], "data.train=AUDIO/gone"),
        (["AUDIO", "--labels"], "data.train=AUDIO"),
        (["AUDIO", "--config", "gone.yaml"], "gone.yaml"),
        (["AUDIO", "data.maxs=3"], "'max_s'"),
        (["AUDIO", "plenty"], "'plenty'"),
        (["AUDIO", "--plot", "plan.jpg"], "--plot plan.jpg"),
        (["AUDIO", "--plot", "AUDIO/0.wav/plan.png"], "AUDIO/0.wav: "),
        (["AUDIO", "--json", "AUDIO"], "AUDIO: "),
    ],
)
def test_what_will_not_do_is_one_line(folder: Path, words: list[str], named: str, inspect: Run) -> None:
    done = inspect(*(word.replace("AUDIO", str(folder)) for word in words))
    assert done.code == 1 and done.err.startswith("error: ") and done.err.count("\n") == 1
    assert named.replace("AUDIO", str(folder)) in done.err


def test_without_matplotlib_the_extra_is_named(folder: Path, inspect: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = inspect(folder, "--plot", "plan.png")
    assert (done.code, done.out) == (1, "") and "--plot" in done.err and "[dev]" in done.err


def test_names_that_are_no_text_are_shown(folder: Path, tmp_path: Path, inspect: Run) -> None:
    (folder / "0.wav").rename(bytes(folder / "x").decode() + "\udcff\n.wav")
    (folder / "bad\udcfe\n.wav").write_bytes(b"nothing")
    done = inspect(folder, "--json", tmp_path / "facts.json")
    assert done.code == 0 and r"bad\udcfe\n.wav" in done.out
    assert "bad\udcfe\n.wav" in str(json.loads((tmp_path / "facts.json").read_text())["reasons"][0]["examples"][0])


@pytest.mark.parametrize(
    ("reason", "source", "general"),
    [
        ("/a/no.wav: no permission to read it", "/a/no.wav", "no permission to read it"),
        ("t.txt:12: no audio of 1-2-3 beside it", "/a/1-2-3", "t.txt:N: no audio of … beside it"),
        ("/a/1.wav: 600 Hz is too low", "/a/1.wav", "N Hz is too low"),
        ("/a/b.wav: not UTF-8\nat all", "/a/b.wav", "not UTF-8 at all"),
    ],
)
def test_reasons_are_without_names_and_numbers(reason: str, source: str, general: str) -> None:
    corpus = SimpleNamespace(skipped=[{"source": source, "reason": reason}])
    assert tool.reasons(corpus) == [{"reason": general, "count": 1, "examples": [source]}]  # type: ignore[arg-type]
