"""The figures of `python -m tools.inspect` for a corpus whose every number is known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

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


def test_every_number_is_the_one_that_was_put_in(folder: Path, tmp_path: Path, inspect: Run) -> None:
    done = inspect(folder, *KEYS, "--json", tmp_path / "facts.json")
    assert (done.code, done.err) == (0, "")
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert yaml.safe_load(done.out) == tool.rounded(facts)
    assert facts["source"] == str(folder) and facts["utterances"] == 8 and "labels" not in facts
    assert facts["hours"] * 3600 == pytest.approx(19.4) and facts["mean_s"] == pytest.approx(2.425)
    assert facts["formats"] == {"16000 Hz, 1 ch": 7, "8000 Hz, 1 ch": 1}
    quantiles = facts["quantiles_s"]
    assert (quantiles["0%"], quantiles["50%"], quantiles["100%"]) == (0.4, 2.0, 6.0) and len(quantiles) == 7
    assert facts["histogram"] == {"0 to 0.5 s": 1, "1 to 2 s": 2, "2 to 3 s": 3, "3 to 5 s": 1, "5 to 8 s": 1}
    assert facts["unreadable"] == 3 and facts["unreadable_share"] == pytest.approx(3 / 11)
    assert [(row["count"], row["reason"]) for row in facts["reasons"]] == [
        (2, "not audio that libsndfile can read (Format not recognised)"), (1, "no audio in it"),
    ]  # fmt: skip
    assert facts["reasons"][0]["examples"] == [str(folder / "noise 1.wav"), str(folder / "noise 2.flac")]
    plan = facts["plan"]
    assert (plan["shorter"], plan["updates_an_epoch"], plan["batches_an_epoch"], plan["epochs_a_run"]) == (1, 1, 1, 30)
    assert plan["shorter_hours"] == pytest.approx(0.4 / 3600) and plan["hours_an_epoch"] == pytest.approx(19 / 3600)
    assert plan["cut"].startswith("1 long recordings are cut into 2 segments") and plan["unusable"] == []
    assert plan["padding_share"] == pytest.approx(1 - 19 / (8 * 4))  # 8 of them, 6 s cut in two, each padded to 4 s
    assert plan["padding_share_worst_update"] == plan["padding_share"]


def test_the_longest_alone_are_planned(folder: Path) -> None:
    """Half of 19 s: 4, then three of 3 or less."""
    config = PretrainConfig(data=DataConfig(str(folder), min_s=1, max_s=4, longest_share=0.5))
    plan = tool.inspect(config, labels=False)["plan"]
    assert plan["hours_an_epoch"] == pytest.approx(10 / 3600) and plan["not_among_the_longest"] == 5


def test_padding_is_what_batches_by_hand_give(folder: Path) -> None:
    """Batches of at most 4.5 s, in any order of updates; the utterance of 6 s is cut in two."""
    config = PretrainConfig(
        data=DataConfig(str(folder), min_s=1, max_s=4), batch=BatchConfig(100, 4.5), run=PretrainRun(updates=1)
    )
    plan = tool.inspect(config, labels=False)["plan"]
    assert plan["batches_an_epoch"] == 6  # 4 | 3 | 3 | 2.5 | 2 2 | 1.5 1
    assert plan["padding_share"] == pytest.approx(1 - 19 / (4 + 3 + 3 + 2.5 + 4 + 3))


def test_texts_and_labels_are_counted(folder: Path, inspect: Run) -> None:
    write_text(folder / "metadata.csv", "file_name,text,intent", "0.wav,ab c,on", "1.wav,c,off", "2.wav,,on", "3.wav,,")
    assert yaml.safe_load(inspect(folder, "--labels").out)["labels"] == {
        "text.normalise": {text: dict.fromkeys(["none", "basic", "turkish"], text) for text in ("ab c", "c")},
        "with_text": 2, "without_text": 2, "words": 3, "different_words": 2, "characters": " abc",
        "characters_a_second": pytest.approx(5 / 1.4, rel=1e-3), "with_label": 3, "without_label": 1,
        "different_labels": 2, "most_frequent_labels": {"on": 2, "off": 1},
    }  # fmt: skip


def test_the_configuration_and_weights(folder: Path, tmp_path: Path, inspect: Run) -> None:
    config = write_text(tmp_path / "mine.yaml", "data: {min_s: 3}", "batch: {update_s: 7, max_s: 30}")
    facts = yaml.safe_load(inspect("--config", config, f"[{folder},{folder}]", "data.max_s=5").out)
    keys = {"data.min_s": 3, "data.max_s": 5, "batch.update_s": 7, "batch.max_s": 30}
    assert facts["utterances"] == 16 and facts["plan"].items() >= keys.items()
    done = inspect(folder, "data.min_s=9")
    plan = yaml.safe_load(done.out)["plan"]
    assert (plan["updates_an_epoch"], plan["padding_share"], plan["epochs_a_run"]) == (0, None, None)
    plan = yaml.safe_load(inspect(f"[{{source: {folder}, weight: 2}}]", *KEYS).out)["plan"]
    assert plan["hours_an_epoch"] == pytest.approx(2 * 19 / 3600, rel=1e-3)
    assert plan["padding_share"] == pytest.approx(1 - 38 / (16 * 4), rel=1e-3)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["AUDIO/gone"], "data.train=AUDIO/gone"),
        (["AUDIO", "--labels"], "data.train=AUDIO"),
        (["AUDIO", "--config", "gone.yaml"], "gone.yaml"),
        (["AUDIO", "data.maxs=3"], "'max_s'"),
        (["AUDIO", "plenty"], "'plenty'"),
        (["AUDIO", "--json", "AUDIO"], "AUDIO"),
    ],
)
def test_what_will_not_do_is_one_line(folder: Path, words: list[str], named: str, inspect: Run) -> None:
    done = inspect(*(word.replace("AUDIO", str(folder)) for word in words))
    assert done.code == 1 and done.err.startswith("error: ") and done.err.count("\n") == 1
    assert named.replace("AUDIO", str(folder)) in done.err
