"""A fine-tuning run as a whole, both tasks, from a pretrained encoder and from scratch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune.config import FinetuneConfig
from finetune.sections import FinetuneRun, LabelledData
from finetune.setup import find_corpora
from mixvec import Classifier, CtcRecognizer, HybridRecognizer, UserError
from mixvec.hub import load_encoder
from mixvec.training.checkpoint import RunState
from mixvec.training.run import Run
from tests.runs import FINETUNE, ROOT, SMALLEST, command, finetune, identical, largest_difference, rows, weights

SHORT = ("run.updates=4", "run.eval_every=2", "run.save_every=2")
SCRATCH = ("size=tiny", *SMALLEST)


@pytest.mark.parametrize(("task", "model"), [("asr", CtcRecognizer), ("intent", Classifier)])
def test_a_run_leaves_the_best_model_and_its_scores(
    corpus: Path, source: Path, tmp_path: Path, task: str, model: type[CtcRecognizer] | type[Classifier]
) -> None:
    keys = (f"pretrained={source}", f"data.test={corpus}/{task}/test", "head.layers=weighted")
    assert finetune(task, corpus, tmp_path / "run", *keys, *SHORT) == 0
    results = json.loads((tmp_path / "run/results.json").read_text())
    metric = {"asr": "wer", "intent": "accuracy"}[task]
    valid = {row["update"]: row[f"valid_{metric}"] for row in rows(tmp_path / "run") if f"valid_{metric}" in row}
    assert set(valid) == {2, 4}
    pick = min if task == "asr" else max
    assert results["valid"][metric] == pytest.approx(pick(valid.values()))
    assert results["test"][metric] >= 0
    card = json.loads((tmp_path / "run/hub/config.json").read_text())["training"]
    if task == "asr":
        details = results["details"]["test"]
        assert details["wer_95"][0] <= results["test"]["wer"] <= details["wer_95"][1]
        assert card["text"] == details["text"] and details["text"].startswith("basic: lower case")
    assert card["metrics"] == results["test"]
    assert isinstance(model.from_pretrained(tmp_path / "run"), model)


def test_fine_tuning_starts_from_the_pretrained_weights(corpus: Path, source: Path, tmp_path: Path) -> None:
    keys = (f"pretrained={source}", "freeze=1", "run.updates=2", "data.valid=null")
    assert finetune("asr", corpus, tmp_path / "frozen", *keys) == 0
    kept, before = load_encoder(tmp_path / "frozen").state_dict(), load_encoder(source).state_dict()
    assert identical(kept, before), "a frozen encoder does not move"
    assert finetune("asr", corpus, tmp_path / "whole", *keys[:1], *keys[2:], "freeze=0") == 0
    assert not identical(load_encoder(tmp_path / "whole").state_dict(), before)


def test_minutes_draw_utterances_by_the_seed_and_more_contain_fewer(corpus: Path) -> None:
    found = find_corpora(FinetuneConfig(data=LabelledData(train=str(corpus / "asr/train"))))["train"].utterances

    def drawn(minutes: float, seed: int) -> set[str]:
        data = LabelledData(train=str(corpus / "asr/train"), minutes=minutes)
        utterances = find_corpora(FinetuneConfig(data=data, run=FinetuneRun(seed=seed)))["train"].utterances
        assert utterances.durations_s.sum() <= 60 * minutes
        return {utterance.source for utterance in utterances}

    half = found.durations_s.sum() / 120
    assert drawn(half / 2, 0) < drawn(half, 0) and drawn(half, 0) != drawn(half, 1)
    assert drawn(4 * half, 0) == {utterance.source for utterance in found}
    with pytest.raises(UserError, match=r"data\.minutes=0\.001"):
        drawn(0.001, 0)


@pytest.mark.parametrize(("label", "change"), [("alert", "'alert'"), ("extra", "'extra'")])
def test_a_run_does_not_resume_with_other_labels(corpus: Path, tmp_path: Path, label: str, change: str) -> None:
    """A renamed label, for which the weights still fit, and one more; run.accept_new_data is for data alone."""
    source = corpus / "intent/train"
    rows = [json.loads(line) for line in (source / "metadata.jsonl").read_text().splitlines()]
    rows = [row | {"file_name": str(source / row["file_name"])} for row in rows]
    train, first = tmp_path / "train.jsonl", rows[0]["intent"]
    keys = (*SCRATCH, *SHORT, f"data.train={train}", "run.max_hours=1e-9")
    train.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert finetune("intent", corpus, tmp_path / "run", *keys) == 75
    renamed = [row | {"intent": label} if row["intent"] == first and (label == "alert" or row is rows[0]) else row
               for row in rows]  # fmt: skip
    train.write_text("".join(json.dumps(row) + "\n" for row in renamed))
    for accepted in ("false", "true"):
        with pytest.raises(UserError, match=rf"run\.dir=.*task: classes: .*{change}"):
            finetune("intent", corpus, tmp_path / "run", *keys, f"run.accept_new_data={accepted}")


PIECES = (
    "asr.units=bpe",
    "asr.vocabulary_size=40",
    "asr.decoder=attention",
    "asr.beam=1",
    "data.augment.speed=[0.9,1.1]",
)


@pytest.mark.parametrize(
    ("task", "own"), [("asr", ()), ("intent", ()), ("asr", PIECES)], ids=["asr", "intent", "pieces"]
)
def test_resumed_equals_uninterrupted_bitwise(
    corpus: Path, tmp_path: Path, task: str, own: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = (*SCRATCH, "encoder.dropout=0.1", "run.updates=4", "run.eval_every=2", "run.save_every=2", *own)
    assert finetune(task, corpus, tmp_path / "whole", *keys) == 0
    save = Run.save

    def then_stop(self: Run, state: RunState, model: Any, optimizer: Any) -> None:
        save(self, state, model, optimizer)
        self.writes.wait()
        if state.update == 2:
            self._lock.pop().close()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Run, "save", then_stop)
        finetune(task, corpus, tmp_path / "parts", *keys)
    assert finetune(task, corpus, tmp_path / "parts", *keys) == 0
    assert identical(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    whole, parts = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("whole", "parts"))
    assert whole == parts
    if own:
        stored = json.loads((tmp_path / "parts/hub/vocab.json").read_text())
        assert len(stored) == 40 and any(token.startswith("▁") and len(token) > 2 for token in stored)
        assert isinstance(HybridRecognizer.from_pretrained(tmp_path / "whole"), HybridRecognizer)


def test_accumulated_equals_whole_and_two_ranks_equal_one(corpus: Path, tmp_path: Path) -> None:
    keys = [*SCRATCH, "encoder.dropout=0", "encoder.layer_drop=0", "head.dropout=0", "run.updates=3",
            "run.eval_every=3", "batch.update_s=30", "optim.lr=1e-2"]  # fmt: skip
    data = [f"data.train={corpus}/asr/train", f"data.valid={corpus}/asr/validation"]
    for name, ranks, max_s in (("whole", 1, 60), ("parts", 1, 10), ("ranks", 2, 60)):
        own = [f"run.dir={tmp_path / name}", f"batch.max_s={max_s}", "data.max_s=10"]
        done = command("finetune", str(ROOT / "configs/asr.yaml"), *data, *FINETUNE, *keys, *own, ranks=ranks)
        assert done.returncode == 0, done.stderr
        facts = json.loads((tmp_path / name / "hub/config.json").read_text())["training"]
        assert facts["devices"] == f"{ranks} x cpu"
    for other in ("parts", "ranks"):
        assert largest_difference(weights(tmp_path / "whole"), weights(tmp_path / other)) < 1e-4
        a, b = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("whole", other))
        assert a["valid"] == pytest.approx(b["valid"])


def test_recognition_from_fairseq2(corpus: Path, tmp_path: Path) -> None:
    keys = ("size=wav2vec2-base", *SMALLEST, "encoder.mixer=summary", "run.updates=1", "run.eval_every=1",
            "data.max_s=10")  # fmt: skip
    assert finetune("asr", corpus, tmp_path / "run", *keys) == 0
    assert isinstance(CtcRecognizer.from_pretrained(tmp_path / "run"), CtcRecognizer)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ((), "pretrained=.*size="),
        (("size=tiny", "data.train=/nowhere"), r"data\.train=/nowhere"),
        (("pretrained=/nowhere",), "/nowhere: "),
        (("size=tiny", "pretrained=x"), "pretrained .*size"),
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_line(corpus: Path, tmp_path: Path, keys: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        finetune("asr", corpus, tmp_path / "run", *keys)


def test_data_without_labels_or_known_characters_is_named(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"metadata\.jsonl"):
        finetune("asr", corpus, tmp_path / "run", "size=tiny", f"data.train={corpus}/unlabelled")
    with pytest.raises(UserError, match=r"data\.train=.*/asr/train"):
        finetune("asr", corpus, tmp_path / "other", "size=tiny", f"data.train={corpus}/asr")
    odd = tmp_path / "odd.csv"
    odd.write_text(f"file_name,text\n{next((corpus / 'asr/test/audio').iterdir())},Ωμέγα\n")
    with pytest.raises(UserError, match=r"data\.valid: .*text\.normalise=none"):
        finetune("asr", corpus, tmp_path / "third", *SCRATCH, *SHORT, f"data.valid={odd}")
