"""A fine-tuning run as a whole, both tasks, from a pretrained encoder and from scratch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune.config import FinetuneConfig
from finetune.sections import FinetuneRun, LabelledData
from finetune.setup import find_corpora
from mixvec import Classifier, CtcRecognizer, UserError
from mixvec.hub import load_encoder
from tests.runs import (
    FINETUNE,
    ROOT,
    SMALLEST,
    command,
    finetune,
    identical,
    largest_difference,
    pretrain,
    rows,
    weights,
)

SHORT = ("run.updates=4", "run.eval_every=2", "run.save_every=2")
SCRATCH = ("size=tiny", *SMALLEST)


@pytest.fixture(scope="module")
def pretrained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("pretrained")
    assert pretrain(corpus, run, "run.updates=2") == 0
    return run


@pytest.mark.parametrize(("task", "model"), [("asr", CtcRecognizer), ("intent", Classifier)])
def test_a_run_leaves_the_best_model_and_its_scores(
    corpus: Path, pretrained: Path, tmp_path: Path, task: str, model: type[CtcRecognizer] | type[Classifier]
) -> None:
    keys = (f"pretrained={pretrained}", f"data.test={corpus}/{task}/test", "head.layers=weighted")
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
        assert details["text"] in (tmp_path / "run/hub/README.md").read_text()
    assert card["metrics"] == results["test"]
    assert isinstance(model.from_pretrained(tmp_path / "run"), model)


def test_fine_tuning_starts_from_the_pretrained_weights(corpus: Path, pretrained: Path, tmp_path: Path) -> None:
    keys = (f"pretrained={pretrained}", "freeze=1", "run.updates=3", "run.eval_every=3")
    assert finetune("asr", corpus, tmp_path / "frozen", *keys) == 0
    kept, source = load_encoder(tmp_path / "frozen").state_dict(), load_encoder(pretrained).state_dict()
    assert identical(kept, source), "a frozen encoder does not move"
    assert finetune("asr", corpus, tmp_path / "whole", *keys[:1], *keys[2:], "freeze=0") == 0
    assert not identical(load_encoder(tmp_path / "whole").state_dict(), source)


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


@pytest.mark.parametrize("task", ["asr", "intent"])
def test_resumed_equals_uninterrupted_bitwise(
    corpus: Path, tmp_path: Path, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = (*SCRATCH, "encoder.dropout=0.1", "run.updates=6", "run.eval_every=2", "run.save_every=3")
    assert finetune(task, corpus, tmp_path / "whole", *keys) == 0
    from mixvec.training.run import Run

    save = Run.save

    def then_stop(self: Run, state, model, optimizer) -> None:  # type: ignore[no-untyped-def]
        save(self, state, model, optimizer)
        self.writes.wait()
        if state.update == 3:
            self._lock.close()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "save", then_stop)
        with pytest.raises(KeyboardInterrupt):
            finetune(task, corpus, tmp_path / "parts", *keys)
    assert finetune(task, corpus, tmp_path / "parts", *keys) == 0
    assert identical(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    whole, parts = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("whole", "parts"))
    assert whole == parts


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


def test_the_command_ends_in_one_line() -> None:
    done = command("finetune", "nothing.yaml")
    assert done.returncode == 1 and done.stderr.startswith("error: nothing.yaml") and done.stderr.count("\n") == 1


def test_data_without_labels_or_known_characters_is_named(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"metadata\.jsonl"):
        finetune("asr", corpus, tmp_path / "run", "size=tiny", f"data.train={corpus}/unlabelled")
    with pytest.raises(UserError, match=r"data\.train=.*/asr/train"):
        finetune("asr", corpus, tmp_path / "other", "size=tiny", f"data.train={corpus}/asr")
    odd = tmp_path / "odd.csv"
    odd.write_text(f"file_name,text\n{next((corpus / 'asr/test/audio').iterdir())},Ωμέγα\n")
    with pytest.raises(UserError, match=r"data\.valid: .*text\.normalise=none"):
        finetune("asr", corpus, tmp_path / "third", *SCRATCH, *SHORT, f"data.valid={odd}")
