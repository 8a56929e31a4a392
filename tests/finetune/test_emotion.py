"""Emotion: IEMOCAP as it unpacks, its four classes, its folds by session, both accuracies."""

from __future__ import annotations

from pathlib import Path

import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from finetune.config import FinetuneConfig
from finetune.sections import LabelledData
from finetune.tasks import Scored
from finetune.tasks.emotion import EmotionConfig, Task
from mixvec.data.sources import Corpus, find_utterances
from mixvec.data.utterances import Utterance, Utterances
from tests.voice_corpora import iemocap


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return iemocap(tmp_path_factory.mktemp("iemocap") / "IEMOCAP_full_release")


def found(path: Path, key: str = "data.train") -> Corpus:
    return find_utterances(str(path), key, labels=True)


def test_folds_hold_out_a_session_and_keep_validation_apart(archive: Path) -> None:
    names = {}
    for fold in (1, 5):
        data = LabelledData(train=str(archive), valid=str(archive), test=str(archive))
        config = FinetuneConfig(task="emotion", data=data, emotion=EmotionConfig(fold=fold))
        corpora = {split: found(archive) for split in ("train", "valid", "test")}
        task = Task(config, corpora["train"])
        assert task.labels == ["ang", "hap", "neu", "sad"]
        for split, corpus in corpora.items():
            task.check(corpus, lambda u: 9, f"data.{split}", training=split == "train")
        assert {u.fields["session"] for u in corpora["test"].utterances} == {str(fold)}
        assert len(corpora["test"].utterances) == 10, "two of six emotions are one class, one is none"
        rest = [u.source for split in ("train", "valid") for u in corpora[split].utterances]
        assert len(rest) == len(set(rest)) == 40 and not set(rest) & {u.source for u in corpora["test"].utterances}
        assert 0 < len(corpora["valid"].utterances) < 16
        names[fold] = {task.reference(u) for u in corpora["test"].utterances}
    assert names[1] == names[5] == {"ang", "hap", "neu", "sad"}


def test_accuracy_over_utterances_and_over_classes() -> None:
    train = Corpus("t", Utterances(Utterance(f"{e}", 1.0, fields={"emotion": e}) for e in "abc"))
    task = Task(FinetuneConfig(task="emotion"), train)
    references, predictions = list("aaaaaabbc"), list("aaaaabbab")
    rows = [Scored(Utterance(f"{i}", 1.0), *pair) for i, pair in enumerate(zip(references, predictions, strict=True))]
    scores = task.score(rows)
    assert scores["accuracy"] == pytest.approx(accuracy_score(references, predictions))
    assert scores["unweighted_accuracy"] == pytest.approx(balanced_accuracy_score(references, predictions))
    assert scores["accuracy"] != pytest.approx(scores["unweighted_accuracy"])
