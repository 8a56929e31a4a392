"""What cannot be decoded when a model is scored: it counts as an error, is named, and too much of it ends the run."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile

from finetune import evaluate
from finetune.config import FinetuneConfig
from finetune.sections import LabelledData
from finetune.tasks import Scored
from finetune.tasks.asr import Task as AsrTask
from mixvec import UserError
from mixvec.data.sources import Corpus
from mixvec.data.utterances import Utterance, Utterances
from tests.runs import SMALLEST, finetune, rows

KEYS = ("size=tiny", *SMALLEST, "run.updates=2", "run.eval_every=1", "run.save_every=9")
Output = pytest.CaptureFixture[str]


@pytest.fixture
def holed(corpus: Path, tmp_path: Path) -> Path:
    """The test set with one utterance whose header is right and whose samples are none, and one that is no audio."""
    lines = [json.loads(line) for line in (corpus / "asr/test/metadata.jsonl").read_text().splitlines()]
    for number, row in enumerate(lines):
        row["file_name"] = str(corpus / "asr/test" / row["file_name"])
        if number == 1:
            row["file_name"] = str(tmp_path / "odd.wav")
            soundfile.write(row["file_name"], np.full(16_000, np.nan, dtype=np.float32), 16_000, subtype="FLOAT")
    (tmp_path / "none.wav").write_text("no audio")
    lines.append({"file_name": str(tmp_path / "none.wav"), "text": "six words that are not scored"})
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    return tmp_path / "test.jsonl"


def test_it_counts_as_an_error_and_is_named(
    corpus: Path, holed: Path, tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AsrTask, "predict", lambda self, model, encoded: ["six words"] * len(encoded.lengths))
    seen: list[list[Scored]] = []
    monkeypatch.setattr(AsrTask, "report", lambda self, rows, scores: seen.append(rows) or [])
    assert finetune("asr", corpus, tmp_path / "run", *KEYS, f"data.test={holed}") == 0
    references, predictions = [row.reference for row in seen[-1]], [row.prediction for row in seen[-1]]
    assert len(references) == 4 and sorted(predictions) == ["", *["six words"] * 3]
    odd = json.loads(holed.read_text().splitlines()[1])["text"]
    assert references[predictions.index("")] == odd.lower()
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["counts"] == {"valid": {"scored": 3, "undecoded": 0, "left_out": 0},
                                 "test": {"scored": 4, "undecoded": 1, "left_out": 1}}  # fmt: skip
    said = capsys.readouterr().out
    assert "WARNING data.test: 1 of 4 utterances" in said and "data.valid: " not in said
    card = json.loads((tmp_path / "run/hub/config.json").read_text())["training"]
    assert Path(card["test_data"]).name == "test.jsonl, without 1 utterance that could not be used"
    assert str(tmp_path / "odd.wav") in (tmp_path / "run/skipped.jsonl").read_text()


@pytest.mark.parametrize("split", ["valid", "test"])
def test_too_much_of_it_ends_the_run_and_the_same_command_goes_on(
    corpus: Path, holed: Path, tmp_path: Path, split: str
) -> None:
    said = rf"data\.{split}: 1 of 4 .*data\.max_skipped=0\.2"
    with pytest.raises(UserError, match=said):
        finetune("asr", corpus, tmp_path / "run", *KEYS, f"data.{split}={holed}", "data.max_skipped=0.2")
    stopped = 1 if split == "valid" else 2
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == [f"update_{stopped:08d}"]
    assert not (tmp_path / "run/results.json").exists()
    assert finetune("asr", corpus, tmp_path / "run", *KEYS, f"data.{split}={holed}", "data.max_skipped=0.3") == 0
    assert [row["update"] for row in rows(tmp_path / "run") if "loss" in row] == [1, 2]
    assert json.loads((tmp_path / "run/results.json").read_text())["counts"][split]["undecoded"] == 1


def test_nothing_decoded_is_all_wrong(corpus: Path, tmp_path: Path) -> None:
    """At the last evaluation too, where there is no model yet that was better."""
    soundfile.write(tmp_path / "odd.wav", np.full(16_000, np.nan, dtype=np.float32), 16_000, subtype="FLOAT")
    (tmp_path / "valid.csv").write_text("file_name,intent\nodd.wav,alarm\nodd.wav,alarm\n")
    keys = ("size=tiny", *SMALLEST, "run.updates=1", "run.eval_every=1", f"data.valid={tmp_path / 'valid.csv'}")
    assert finetune("intent", corpus, tmp_path / "run", *keys) == 0
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["valid"] == {"accuracy": 0.0, "macro_f1": 0.0}
    assert results["counts"]["valid"] == {"scored": 2, "undecoded": 2, "left_out": 0}
    with pytest.raises(UserError, match=r"data\.valid: 2 of 2 "):
        finetune("intent", corpus, tmp_path / "other", *keys, "data.max_skipped=0.5")


def test_any_number_beats_nan_and_a_tie_keeps_the_earlier() -> None:
    nan = math.nan
    for higher in (True, False):
        assert evaluate.is_better(0.5, None, higher=higher) and not evaluate.is_better(nan, None, higher=higher)
        assert not evaluate.is_better(nan, 0.5, higher=higher) and not evaluate.is_better(0.5, 0.5, higher=higher)
        assert evaluate.is_better(0.6, 0.5, higher=higher) is higher


def kept(folder: Path, capsys: Output) -> tuple[int, str]:
    """The update whose model a run kept, and what the run printed."""
    return json.loads((folder / "results.json").read_text())["best_update"], capsys.readouterr().out


def test_the_character_error_rate_breaks_ties_of_words(
    corpus: Path, tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every word is wrong in each of three evaluations, and the second has the fewest wrong characters."""
    rates = iter([0.9, 0.4, 0.7, *[0.4] * 9])
    monkeypatch.setattr(AsrTask, "score", lambda self, rows: {"wer": 1.0, "cer": next(rates), "empty": 0.0})
    keys = (*KEYS[:-3], "run.updates=3", "run.eval_every=1", "run.save_every=2")
    assert finetune("asr", corpus, tmp_path / "run", *keys) == 0
    assert kept(tmp_path / "run", capsys)[0] == 2


def test_a_first_score_that_is_not_a_number_is_not_the_best(
    corpus: Path, tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([math.nan, 0.8, *[0.8] * 9])
    monkeypatch.setattr(AsrTask, "score", lambda self, rows: {"wer": next(scores), "cer": 0.5, "empty": 0.0})
    assert finetune("asr", corpus, tmp_path / "run", *KEYS) == 0
    assert kept(tmp_path / "run", capsys)[0] == 2
    monkeypatch.setattr(AsrTask, "score", lambda self, rows: {"wer": math.nan, "cer": math.nan, "empty": 0.0})
    assert finetune("asr", corpus, tmp_path / "none", *KEYS) == 0
    update, out = kept(tmp_path / "none", capsys)
    assert update == 2 and "WARNING no wer on data.valid" in out and (tmp_path / "none/hub/model.safetensors").exists()


def test_without_validation_data_a_line_names_the_key(corpus: Path, tmp_path: Path, capsys: Output) -> None:
    assert finetune("asr", corpus, tmp_path / "run", *KEYS, "data.valid=null", "data.test=null") == 0
    update, out = kept(tmp_path / "run", capsys)
    assert update == 2 and "WARNING data.valid is not set" in out and "the scores are in" not in out


@pytest.mark.parametrize(
    ("texts", "name"), [(["天地人", "山水"], "cer"), (["one", "two"], "cer"), (["a b", "c"], "wer")]
)
def test_texts_without_spaces_are_judged_by_characters(texts: list[str], name: str) -> None:
    train = Corpus("some", Utterances(Utterance(f"{i}.wav", 2.0, text=text) for i, text in enumerate(texts)))
    config = FinetuneConfig(data=LabelledData(train="some", valid="other"))
    task = AsrTask(config, train)
    assert (task.score_name, task.tie_name) == (name, "wer" if name == "cer" else "cer")
    assert bool(evaluate.selection(config, task)) == (name == "cer")
