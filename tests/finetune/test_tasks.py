"""What each task adds: targets, losses, scores against independent ones, warnings."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

from finetune.batch import collate_labelled
from finetune.config import TASKS, FinetuneConfig
from finetune.sections import AugmentConfig, LabelledData
from finetune.tasks import Scored, task_class
from finetune.tasks.asr import AsrConfig, frames_needed
from finetune.tasks.asr import Task as AsrTask
from finetune.tasks.intent import IntentConfig
from finetune.tasks.intent import Task as IntentTask
from finetune.tasks.language import Task as LanguageTask
from mixvec import UserError, build_encoder
from mixvec.data.batches import Clip
from mixvec.data.fingerprint import fingerprint_changes
from mixvec.data.sources import Corpus
from mixvec.data.utterances import Utterance, Utterances
from tests.runs import ROOT
from tests.tiny_models import MEL


def corpus(*texts: str | None) -> Corpus:
    return Corpus("some", Utterances(Utterance(f"{i}.wav", 2.0, text=t, label=t) for i, t in enumerate(texts)))


def scored(references: list[str], predictions: list[str]) -> list[Scored]:
    return [Scored(Utterance("a.wav", 1.0), *pair) for pair in zip(references, predictions, strict=True)]


def test_unknown_characters_and_long_texts_are_named_and_counted() -> None:
    task = AsrTask(FinetuneConfig(), corpus("abc", "de"))
    (found,) = task.check(corpus("abx", "x", None), lambda u: 50, "data.valid", training=False)
    assert found.endswith("'x' x2")
    train = corpus("abc", "aabb")
    (found,) = task.check(train, lambda u: 3, "data.train", training=True)
    assert [u.text for u in train.utterances] == ["abc"]
    assert "1 texts" in found and train.skipped[0]["source"] == "1.wav"


@given(st.lists(st.integers(1, 4), min_size=1, max_size=12))
@settings(deadline=None, max_examples=50)
def test_frames_needed_is_where_ctc_becomes_possible(target: list[int]) -> None:
    for frames, possible in ((frames_needed(target), True), (max(frames_needed(target) - 1, 1), len(target) == 1)):
        log_probs = torch.zeros(frames, 1, 5).log_softmax(-1)
        loss = torch.nn.functional.ctc_loss(log_probs, torch.tensor([target]), [frames], [len(target)])
        assert bool(loss.isfinite()) == possible


def test_blank_only_output_is_named() -> None:
    task = AsrTask(FinetuneConfig(), corpus("abc"))
    scores = task.score(scored(["a", "b"], ["", ""]))
    assert scores == {"wer": 1.0, "cer": 1.0, "empty": 1.0}
    assert any("blank-only" in line for line in task.report(scored(["a", "b"], ["", ""]), scores))
    assert not any("blank-only" in line for line in task.report(scored(["a"], ["a"]), {"empty": 0.5}))


def test_accuracy_and_macro_f1_are_scikit_learns() -> None:
    """On small cases, where labels are missing on one side, and on large ones."""
    task, draw = IntentTask(FinetuneConfig(task="intent"), corpus("a", "b", "c")), random.Random(0)
    for rows in (1, 2, 3, 5, 9, 50, 2000) * 20:
        references, predictions = ([draw.choice("abcdef"[: draw.randint(1, 6)]) for _ in range(rows)] for _ in range(2))
        scores = task.score(scored(references, predictions))
        assert scores["macro_f1"] == pytest.approx(f1_score(references, predictions, average="macro"))
        assert scores["accuracy"] == pytest.approx(accuracy_score(references, predictions))


def test_several_labels_at_once_are_scored_alone_and_together() -> None:
    rows = [("on", "lamp"), ("off", "lamp"), ("on", "heat"), ("up", "heat")]
    spoken = [Utterance(f"{i}.wav", 2.0, fields={"action": a, "object": o}) for i, (a, o) in enumerate(rows)]
    config = FinetuneConfig(task="intent", data=LabelledData(label=["action", "object"]))
    train = Corpus("some", Utterances([*spoken[:3], Utterance("3.wav", 2.0, fields={"action": "off"})]))
    task = IntentTask(config, train)
    assert task.labels == ["off|lamp", "on|heat", "on|lamp"]
    assert task.check(train, lambda u: 9, "data.train", training=True) == [] and len(train.utterances) == 3
    assert task.score([Scored(spoken[0], "on|lamp", "")])["action_accuracy"] == 0.0, "audio that was not decoded"
    predictions = ["on|lamp", "on|lamp", "on|lamp", "on|heat"]
    scores = task.score([Scored(u, task.reference(u), p) for u, p in zip(spoken, predictions, strict=True)])
    assert (scores["accuracy"], scores["action_accuracy"], scores["object_accuracy"]) == (0.25, 0.5, 0.75)


def test_labels_beside_those_to_keep_are_the_rest() -> None:
    """The twelve classes of Speech Commands: ten words, silence, and whatever else is said."""
    config = FinetuneConfig(task="intent", intent=IntentConfig(keep=("yes", "_silence_")))
    data = corpus("yes", "bed", "_silence_", "cat")
    task = IntentTask(config, data)
    assert task.labels == ["_silence_", "_unknown_", "yes"]
    assert [task.target(u) for u in data.utterances] == [[2], [1], [0], [1]]
    assert task.check(corpus("_unknown_", "new"), lambda u: 9, "data.test", training=False) == []
    with pytest.raises(UserError, match=r"intent\.keep=_silence_.*data\.train"):
        IntentTask(config, corpus("yes", "bed"))


def test_the_language_is_a_field_of_the_row_scored_by_recall_of_each() -> None:
    fields = [{"locale": "cy"}, {"language": "eu", "locale": "x"}, {"lang": "eu"}, {}]
    rows = [Utterance(f"{i}.wav", 2.0, label="an intent", fields=row) for i, row in enumerate(fields)]
    task = LanguageTask(FinetuneConfig(task="language"), Corpus("some", Utterances(rows)))
    assert task.labels == ["cy", "eu"] and task.reference(rows[3]) == ""
    scores = task.score([Scored(u, task.reference(u), "eu") for u in rows[:3]])
    assert scores == {
        "accuracy": pytest.approx(2 / 3), "macro_f1": pytest.approx(0.4), "recall_cy": 0.0, "recall_eu": 1.0,
    }  # fmt: skip
    named = FinetuneConfig(task="language", data=LabelledData(label="accent"))
    with pytest.raises(UserError, match=r"data\.train.*no languages.*language"):
        LanguageTask(named, Corpus("some", Utterances(rows)))


def test_labels_training_never_saw() -> None:
    task = IntentTask(FinetuneConfig(task="intent"), corpus("a", "b"))
    (found,) = task.check(corpus("a", "z", "z"), lambda u: 9, "data.valid", training=False)
    assert found.endswith("'z' x2")
    with pytest.raises(UserError, match=r"data\.valid: .*'y'"):
        task.check(corpus("y", "z"), lambda u: 9, "data.valid", training=False)
    with pytest.raises(UserError, match=r"data\.train.*'a'"):
        IntentTask(FinetuneConfig(task="intent"), corpus("a", "a"))


def batch(augment: AugmentConfig | None, *seconds: float, epoch: int = 0) -> Any:
    clips = [Clip(Utterance("a", s), torch.randn(round(16_000 * s)), np.random.default_rng([epoch, i]), (0, epoch, i))
             for i, s in enumerate(seconds)]  # fmt: skip
    return collate_labelled(clips, lambda u: [1, 2], augment, lambda n: n // 640, 1000, 64)


def test_augmentation_hides_frames_and_channels_within_each_utterance() -> None:
    drawn = batch(AugmentConfig(time_prob=0.5, channel_prob=0.5), 4.0, 1.0)
    assert drawn.time_mask[0].any() and not drawn.time_mask[1, 25:].any()
    assert 0 < (drawn.channels == 0).float().mean() < 1
    assert not torch.equal(drawn.channels[0], drawn.channels[1])
    assert not torch.equal(drawn.time_mask, batch(AugmentConfig(), 4.0, 1.0, epoch=1).time_mask), "anew each epoch"
    for plain in (batch(None, 4.0, 1.0), batch(AugmentConfig(time_prob=0, channel_prob=0), 4.0)):
        assert not plain.time_mask.any() and (plain.channels == 1).all()


def test_a_clip_shorter_than_a_frame_is_filled_up_and_nothing_readable_still_makes_a_batch() -> None:
    assert batch(None, 0.01).lengths.tolist() == [1000]
    empty = batch(AugmentConfig())
    assert empty.target_lengths.tolist() == [0] and empty.numbers.shape == (0,) and empty.waveforms.shape == (1, 16_000)


@pytest.mark.parametrize("decoder", ["none", "attention"])
@torch.no_grad()
def test_a_batch_costs_what_its_utterances_cost_alone(decoder: Any) -> None:
    """Texts of two lengths, and the silence that stands in where nothing could be read."""
    config = FinetuneConfig(asr=AsrConfig(decoder=decoder, label_smoothing=0.0), augment=AugmentConfig(0.0, 10, 0.0))
    task = AsrTask(config, corpus("abc a", "b"))
    model = task.build(build_encoder(MEL)).eval()
    clips = [Clip(Utterance(f"{i}.wav", s, text=t), torch.randn(round(16_000 * s)), np.random.default_rng(i), (0, i))
             for i, (s, t) in enumerate([(1.5, "abc a"), (0.8, "b")])]  # fmt: skip

    def cost(chosen: list[Clip]) -> tuple[float, float]:
        batch = collate_labelled(chosen, task.target, None, model.encoder.frame_lengths, 1000, 16)
        encoded = model.encoder(batch.waveforms, batch.lengths)
        return float(task.loss_sum(model, encoded, batch)), float(batch.target_lengths.sum())

    both, alone = cost(clips), [cost([clip]) for clip in clips]
    assert both == pytest.approx(tuple(map(sum, zip(*alone, strict=True))), rel=1e-4)
    assert cost([]) == (0.0, 0.0)
    if decoder == "attention":
        batch = collate_labelled(clips[:1], task.target, None, model.encoder.frame_lengths, 1000, 16)
        encoded = model.encoder(batch.waveforms, batch.lengths)
        (row,) = model.attend(encoded, batch.targets).log_softmax(-1)
        entropy = -sum(float(row[u, entry]) for u, entry in enumerate([*batch.targets[0].tolist(), 0]))
        ctc = torch.nn.functional.ctc_loss(
            model.head(encoded).transpose(0, 1), batch.targets, encoded.lengths, batch.target_lengths, reduction="sum"
        )
        assert alone[0][0] == pytest.approx(0.3 * float(ctc) + 0.7 * entropy, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "key", "row"),
    [
        ("asr", "vocabulary", {"text": "ab*"}), ("slots", "vocabulary", {"fields": {"slots": '{"x": "a*"}'}}),
        ("intent", "classes", {"label": "on*"}), ("speaker", "speakers", {"fields": {"speaker": "s*"}}),
    ],
)  # fmt: skip
def test_a_fingerprint_is_plain_json_that_changes_with_a_label(name: str, key: str, row: dict[str, Any]) -> None:
    def fingerprint(*marks: str) -> dict[str, Any]:
        rows = [json.loads(json.dumps(row).replace("*", mark)) for mark in marks]
        train = Corpus("some", Utterances(Utterance(f"{i}.wav", 2.0, **own) for i, own in enumerate(rows)))
        found = task_class(name)(FinetuneConfig(task=name), train).fingerprint()
        assert json.loads(json.dumps(found)) == found
        return found

    assert fingerprint("x", "y") == fingerprint("y", "x")
    (change,) = fingerprint_changes(fingerprint("x", "y"), fingerprint("x", "z"))
    assert re.fullmatch(rf"{key}: missing '\w*y'; new '\w*z'", change)


def test_every_task_states_what_the_probes_need() -> None:
    tasks = {name: task_class(name) for name in TASKS}
    assert [task.score_name for task in tasks.values()] == ["wer", "accuracy", "accuracy", "accuracy", "slu_f1", "eer"]
    assert AsrTask(FinetuneConfig(best_by="cer"), corpus("a b")).score_name == "cer"
    assert [name for name, task in tasks.items() if not task.higher_is_better] == ["asr", "speaker"]
    for name, task in tasks.items():
        assert task.label_keys and (ROOT / f"configs/probe/{name}.yaml").is_file()
        assert task.tuned_config is None or (ROOT / "configs" / task.tuned_config).is_file()
