"""What cannot be decoded when a model is scored: it counts as an error, is named, and too much of it ends the run."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from finetune import evaluate
from finetune.config import FinetuneConfig
from finetune.sections import LabelledData
from finetune.setup import describe
from finetune.tasks import Scored
from finetune.tasks.asr import Task as AsrTask
from finetune.tasks.intent import Task as IntentTask
from mixvec import UserError, cli
from mixvec.data.sources import Corpus
from mixvec.data.utterances import Utterance, Utterances
from mixvec.text import TextStyle, normalise_text
from mixvec.training.checkpoint import RunState
from tests.commands import in_process
from tests.runs import SMALLEST, finetune, rows
from tools import score

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


def test_any_number_beats_nan_and_the_tie_score_decides_between_equal_ones() -> None:
    nan, higher, lower = math.nan, IntentTask, AsrTask

    def better(task: Any, score: float, best: float | None, tie: float = 0.5, best_tie: float | None = 0.5) -> bool:
        state = RunState(best=best, best_tie=best_tie)
        return evaluate.is_better({task.score_name: score, "cer": tie}, task, state)

    for task in (higher, lower):
        assert better(task, 0.5, None) and not better(task, nan, None)
        assert not better(task, nan, 0.5) and not better(task, 0.5, 0.5) and not better(task, 0.5, 0.5, 0.6)
        assert better(task, 0.6, 0.5) is (task is higher) and better(task, 0.4, 0.5) is (task is lower)
        assert better(task, 0.5, 0.5, 0.4) is (task is lower)


def kept(folder: Path, capsys: Output) -> tuple[int, str]:
    """The update whose model a run kept, and what the run printed."""
    return json.loads((folder / "results.json").read_text())["best_update"], capsys.readouterr().out


@pytest.mark.parametrize(
    ("wers", "cers", "best"),
    [([1.0] * 3, [0.9, 0.4, 0.7], 2), ([math.nan, 0.8, 0.9], [0.5] * 3, 2), ([math.nan] * 3, [math.nan] * 3, 3)],
)
def test_ties_of_words_are_broken_by_characters_and_no_score_is_never_the_best(
    wers: list[float], cers: list[float], best: int, corpus: Path, tmp_path: Path, capsys: Output,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    scores = iter([{"wer": w, "cer": c, "empty": 0.0} for w, c in [*zip(wers, cers, strict=True), (0.8, 0.5)]])
    monkeypatch.setattr(AsrTask, "score", lambda self, rows: next(scores))
    assert finetune("asr", corpus, tmp_path / "run", *KEYS, "run.updates=3") == 0
    update, out = kept(tmp_path / "run", capsys)
    assert update == best and ("WARNING no wer on data.valid" in out) == math.isnan(wers[-1])
    assert (tmp_path / "run/hub/model.safetensors").exists()


@pytest.mark.parametrize("style", ["basic", "none"])
def test_without_scores_the_last_model_is_kept_with_the_normalisation_of_its_texts(
    style: str, corpus: Path, tmp_path: Path, capsys: Output
) -> None:
    keys = (*KEYS, "data.valid=null", "data.test=null", *([] if style == "basic" else [f"text.normalise={style}"]))
    assert finetune("asr", corpus, tmp_path / "run", *keys) == 0
    update, out = kept(tmp_path / "run", capsys)
    assert update == 2 and "WARNING data.valid is not set" in out and "the scores are in" not in out
    stored = json.loads((tmp_path / "run/hub/config.json").read_text())["training"]
    assert stored["text.normalise"] == style and stored["text"] in (tmp_path / "run/hub/README.md").read_text()


@pytest.mark.parametrize("style", ["basic", "none"])
def test_what_is_scored_and_transcribed_is_in_the_normalisation_that_the_model_states(
    style: TextStyle, corpus: Path, tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The references of a run, its predictions and what ``mixvec transcribe`` writes, and the rate of tools.score."""
    rows = [json.loads(line) for line in (corpus / "asr/test/metadata.jsonl").read_text().splitlines()]
    texts, files = [f"{row['text'].title()}!" for row in rows], [corpus / "asr/test" / row["file_name"] for row in rows]
    rows = [{"file_name": str(file), "text": text} for file, text in zip(files, texts, strict=True)]
    (tmp_path / "cased.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = [f"data.{split}={tmp_path}/cased.jsonl" for split in ("train", "valid", "test")]
    assert finetune("asr", corpus, tmp_path / "run", *KEYS, *data, "optim.lr=3e-2", f"text.normalise={style}") == 0
    stored = json.loads((tmp_path / "run/hub/config.json").read_text())["training"]["text.normalise"]
    found = [json.loads(line) for line in (tmp_path / "run/test.jsonl").read_text().splitlines()]
    assert stored == style and [row["reference"] for row in found] == [normalise_text(text, style) for text in texts]
    capsys.readouterr()
    words = ("transcribe", "--model", tmp_path / "run", *files, "--json")
    said = in_process(cli.main, monkeypatch, capsys)(*words).lines
    assert [json.loads(line)["text"] for line in said] == [row["prediction"] for row in found]
    table = in_process(score.main, monkeypatch, capsys)(tmp_path / "run").out
    wer = json.loads((tmp_path / "run/results.json").read_text())["test"]["wer"]
    assert re.search(rf"^all +{100 * wer:.2f} ", table, re.MULTILINE)


@pytest.mark.parametrize(
    ("texts", "name"), [(["天地人", "山水"], "cer"), (["one", "two"], "cer"), (["a b", "c"], "wer")]
)
def test_texts_without_spaces_are_judged_by_characters(texts: list[str], name: str) -> None:
    train = Corpus("some", Utterances(Utterance(f"{i}.wav", 2.0, text=text) for i, text in enumerate(texts)))
    config = FinetuneConfig(data=LabelledData(train="some", valid="other"))
    task = AsrTask(config, train)
    assert (task.score_name, task.tie_name) == (name, "wer" if name == "cer" else "cer")
    lines = describe(config, task, torch.nn.Linear(1, 1), {"train": train})
    assert ("no spaces" in lines[-1]) == (name == "cer")
