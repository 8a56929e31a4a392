"""Slots: rows of every form to tagged text and back, what cannot be learned, the scores, a run and its model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import pytest
import soundfile
import torch

from finetune.annotation import annotation_of
from finetune.config import FinetuneConfig
from finetune.tasks import Scored
from finetune.tasks.slots import SlotConfig, Task, slot_scores
from mixvec import HybridTagger, SlotTagger, UserError, cli
from mixvec.data.sources import Corpus
from mixvec.data.utterances import Utterance, Utterances
from mixvec.hub import load_model
from mixvec.model.vocabulary import is_tag, read_tags
from tests.commands import in_process
from tests.runs import SMALLEST, finetune


def row(text: str | None = None, label: str | None = None, **fields: Any) -> Utterance:
    """An utterance as the readers make it: nested values as JSON."""
    said = {key: value if isinstance(value, str) else json.dumps(value) for key, value in fields.items()}
    return Utterance("a.wav", 2.0, text=text, label=label, fields=said)


def task_of(*rows: Utterance, order: tuple[str, ...] = ()) -> Task:
    return Task(FinetuneConfig(task="slots", slots=SlotConfig(order)), Corpus("some", Utterances(rows)))


SLURP = row(
    "put john's meeting on friday", "calendar_set",
    tokens=["put", "john", "'s", "meeting", "on", "friday"],
    entities=[{"type": "event_name", "span": [1, 2, 3]}, {"type": "date", "span": [5]}],
)  # fmt: skip
ORDER = row(None, "orderDrink", slots={"coffeeDrink": "Mocha", "size": "twelve ounce"})


@pytest.mark.parametrize(
    ("utterance", "segments"),
    [
        (SLURP, [(None, "put"), ("event_name", "john s meeting"), (None, "on"), ("date", "friday")]),
        (ORDER, [("coffeeDrink", "mocha"), ("size", "twelve ounce")]),
        (row("a b", entities=[{"type": "x", "span": [1]}]), [(None, "a"), ("x", "b")]),
        (row("Six, or six!", slots=[{"type": "x", "value": "six"}, {"name": "y", "filler": "six"}]),
         [("x", "six"), (None, "or"), ("y", "six")]),
        (row(None, slots={"type": ["x", "y"], "value": ["a", "b"]}), [("x", "a"), ("y", "b")]),
        (row(None, slots={"x": ["a", "b"], "y": None}), [("x", "a"), ("x", "b")]),
        (row("only text", entities=[]), [(None, "only text")]),
        (row(None, entities=[{"type": "date", "filler": "friday"}]), [("date", "friday")]),
    ],
)  # fmt: skip
def test_rows_of_every_form(utterance: Utterance, segments: list[tuple[str | None, str]]) -> None:
    said = annotation_of(utterance, "basic")
    assert (said.segments, said.unlearned, said.fault) == (segments, [], "")
    assert sorted(said.slots) == sorted((kind, text) for kind, text in segments if kind)


def test_raw_text_has_the_official_gold_values_and_a_text_alone_says_nothing_of_slots() -> None:
    said = annotation_of(SLURP, "none")
    assert said.slots == [("event_name", "john 's meeting"), ("date", "friday")]
    assert annotation_of(row("a text"), "basic").fault == "a.wav: no slots in it"
    absent = annotation_of(row("ten in the morning", slots={"time": "10 am"}), "basic")
    assert absent == ([("time", "10 am")], [(None, "ten in the morning")], [("time", "10 am")], "")


def test_an_order_that_nobody_states_is_told_and_one_of_other_types_refused() -> None:
    def told(order: tuple[str, ...], *rows: Utterance) -> list[str]:
        return task_of(*rows, order=order).check(
            Corpus("", Utterances(rows)), lambda u: 90, "data.train", training=True
        )

    (line,) = told((), ORDER, ORDER, row(None, slots={"size": "small"}))
    assert line.startswith("2 rows") and "slots.order=[coffeeDrink,size]" in line
    assert told(("size", "coffeeDrink"), ORDER) == told((), SLURP) == told((), row("a b", slots={"x": "a"})) == []
    spans = [{"type": "x", "span": [0]}, {"type": "y", "span": [1]}]
    assert told((), row(None, tokens=["a", "b"], entities=spans)) == [], "tokens are in the order of speech"
    with pytest.raises(UserError, match=r"slots\.order: 'sise'.*coffeeDrink, size"):
        told(("sise", "coffeeDrink"), ORDER)


@pytest.mark.parametrize(
    ("entities", "segments", "unlearned"),
    [
        ([("x", [0, 1]), ("y", [1, 2])], [("x", "a b"), (None, "c d")], [("y", "b c")]),  # overlapping
        ([("y", [1]), ("x", [0, 1, 2])], [("x", "a b c"), (None, "d")], [("y", "b")]),  # nested: the longest
        ([("x", [0, 2])], [(None, "a b c d")], [("x", "a c")]),  # with a gap
    ],
)
def test_slots_that_share_words_are_scored_and_the_first_and_longest_is_learned(
    entities: list[tuple[str, list[int]]], segments: list[Any], unlearned: list[Any]
) -> None:
    listed = [{"type": kind, "span": span} for kind, span in entities]
    utterance = row("a b c d", tokens=list("abcd"), entities=listed)
    said = annotation_of(utterance, "basic")
    assert (said.segments, said.unlearned) == (segments, unlearned)
    assert len(said.slots) == len(entities)
    task = task_of(utterance)
    (warning,) = task.check(Corpus("", Utterances([utterance])), lambda u: 50, "data.valid", training=False)
    assert f"not learned: {unlearned[0][0]!r} x1" in warning


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tokens": ["a"], "entities": [{"type": "x", "span": [1]}]}, "the span [1] of an entity is not in its 1 tok"),
        ({"tokens": ["a"], "entities": [{"type": "x"}]}, "the span None of an entity"),
        ({"tokens": ["a"], "entities": [{"span": [0]}]}, "a slot without a type"),
        ({"tokens": "word", "entities": []}, "not JSON"),
        ({"slots": "7"}, "neither an object nor a list"),
        ({"slots": ["x"]}, "not a list of objects"),
        ({"slots": [{"type": "x"}]}, "a slot without a value"),
        ({"slots": {"x": {"y": 1}}}, "{'y': 1} is no text"),
        ({"slots": [{"type": "x", "value": [1]}]}, "[1] is no text"),
        ({"slots": {"type": ["x"], "value": []}}, "types and values"),
    ],
)
def test_rows_that_cannot_be_read_are_counted_and_named(fields: dict[str, Any], message: str) -> None:
    bad = row(None, **fields)
    fault = annotation_of(bad, "basic").fault
    assert fault.startswith("a.wav: ") and message in fault
    data = Corpus("", Utterances([ORDER, bad, bad]))
    warning, _ = task_of(ORDER).check(data, lambda u: 50, "data.train", training=True)
    assert "2 rows" in warning and "a.wav" in warning
    assert len(data.utterances) == 1 and len(data.skipped) == 2


def test_whatever_a_model_says_is_read() -> None:
    said = "</slot> a <slot:x> b <slot:y> | c </slot> | <slot:z> </slot> <slot:w> d <intent:i> <intent:j> < >".split()
    assert read_tags(said) == {
        "intent": "i",
        "text": "ab c d<>",
        "slots": [{"type": "x", "value": "b"}, {"type": "y", "value": "c"}, {"type": "w", "value": "d<>"}],
    }
    assert read_tags([]) == {"intent": None, "text": "", "slots": []}


def test_the_vocabulary_is_characters_and_tags_and_what_is_new_is_named() -> None:
    task = task_of(SLURP, ORDER)
    assert task.labels[:2] == ["[PAD]", "|"]
    assert [token for token in task.labels if is_tag(token)] == [
        "</slot>", "<intent:calendar_set>", "<intent:orderDrink>", "<slot:coffeeDrink>", "<slot:date>",
        "<slot:event_name>", "<slot:size>",
    ]  # fmt: skip
    assert "".join(task.labels[i] for i in task.target(ORDER)).startswith("<intent:orderDrink><slot:coffeeDrink>mo")
    new = Corpus("", Utterances([row(None, "refund", slots={"roast": "xz"})]))
    (warning,) = task.check(new, lambda u: 50, "data.test", training=False)
    for name in ("'<intent:refund>' x1", "'<slot:roast>' x1", "'x' x1", "'z' x1"):
        assert name in warning
    _, warning = task.check(Corpus("", Utterances([ORDER, SLURP])), lambda u: 33, "data.train", training=True)
    assert "skipped 1 texts" in warning
    with pytest.raises(UserError, match=r"data\.train: skipped 1 texts"):
        task.check(Corpus("", Utterances([ORDER])), lambda u: 5, "data.train", training=True)
    with pytest.raises(UserError, match=r"data\.train.*no slots.*entities"):
        task_of(row("some text", "a"), row("a b", entities=[]))
    (warning,) = task.check(Corpus("", Utterances([row("a text")])), lambda u: 50, "data.valid", training=False)
    assert "a.wav: no slots" in warning


def test_scores_are_those_of_the_slots_and_of_the_texts() -> None:
    task = task_of(SLURP, ORDER)
    right, partly = task.reference(SLURP), task.reference(ORDER)
    assert right["text"] == "put john s meeting on friday" and partly["text"] is None
    heard = {"intent": "orderDrink", "text": "mocha", "slots": [{"type": "coffeeDrink", "value": "mocha"}]}
    turned = right | {"slots": right["slots"][::-1], "text": "put john meeting on friday"}
    scores = task.score([Scored(SLURP, right, turned), Scored(ORDER, partly, heard)])
    gold = [("event_name", "john s meeting"), ("date", "friday")]
    pairs = [(gold, gold[::-1]), ([("coffeeDrink", "mocha"), ("size", "twelve ounce")], [("coffeeDrink", "mocha")])]
    assert scores == slot_scores(pairs) | {
        "exact_match": 0.5, "intent_accuracy": 1.0, "wer": jiwer.wer(right["text"], turned["text"]),
        "cer": jiwer.cer(right["text"], turned["text"]),
    }  # fmt: skip
    lines = task.report([Scored(SLURP, right, turned), Scored(ORDER, partly, heard)], scores)
    assert lines[-1].startswith("    SLU-F1 of the worst types: size 0.00") and len(lines) == 5
    unheard = [Scored(SLURP, right, ""), Scored(ORDER, partly, heard)]  # the audio of the first could not be decoded
    scores = task.score(unheard)
    assert (scores["wer"], scores["intent_accuracy"]) == (1.0, 0.5) and len(task.report(unheard, scores)) == 5


@pytest.fixture(scope="module")
def orders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An audiofolder like picovoice_s2i in which each value sounds as a tone of its own."""
    folder = tmp_path_factory.mktemp("orders")
    tones = {"mocha": 500, "latte": 900, "large": 1600, "small": 2600}
    rows = []
    for number, (size, drink) in enumerate([("large", "mocha"), ("small", "latte"), ("large", "latte")]):
        time_s = np.arange(8000) / 16_000
        sound = np.concatenate([np.sin(2 * np.pi * tones[word] * time_s) for word in (size, drink)])
        soundfile.write(folder / f"{number}.wav", 0.5 * sound, 16_000)
        rows.append({"file_name": f"{number}.wav", "text": None, "intent": "order",
                     "slots": {"coffeeDrink": drink, "size": size}})  # fmt: skip
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in rows))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("head", [SlotTagger, HybridTagger])
def test_it_can_learn_its_training_data_and_its_model_answers(
    orders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], head: type[Any]
) -> None:
    keys = ("task=slots", f"data.train={orders}", f"data.valid={orders}", "size=tiny", *SMALLEST, "run.updates=70",
            "run.eval_every=70", "optim.lr=1e-2", "optim.encoder_lr=1e-2", "augment.time_prob=0",
            "augment.channel_prob=0", "head.dropout=0", "encoder.dropout=0", "encoder.layer_drop=0",
            "batch.update_s=3", "slots.order=[size,coffeeDrink]", "asr.decoder_layers=1", "asr.beam=2",
            f"asr.decoder={'attention' if head is HybridTagger else 'none'}")  # fmt: skip
    assert finetune("intent", orders, tmp_path / "run", *keys) == 0
    results = json.loads((tmp_path / "run/results.json").read_text())["valid"]
    assert results["exact_match"] == results["slu_f1"] == results["intent_accuracy"] == 1.0
    assert results["value_cer"] == 0.0 and "wer" not in results
    said = [json.loads(line) for line in (tmp_path / "run/valid.jsonl").read_text().splitlines()]
    assert said[1]["reference"]["slots"] == [
        {"type": "coffeeDrink", "value": "latte"}, {"type": "size", "value": "small"},
    ]  # fmt: skip
    model: Any = load_model(tmp_path / "run/hub")
    assert type(model) is head
    if head is HybridTagger:
        model.ctc_weight = 0.0
        waveforms = torch.stack(
            [torch.from_numpy(soundfile.read(orders / f"{n}.wav", dtype="float32")[0]) for n in (0, 1)]
        )
        assert [len(answer["slots"]) for answer in model.understand(waveforms)] == [2, 2], "attention by itself"
    capsys.readouterr()
    run = in_process(cli.main, monkeypatch, capsys)
    plain = run("understand", "--model", tmp_path / "run", orders / "1.wav")
    assert (plain.code, plain.out) == (0, "order\tsize=small\tcoffeeDrink=latte\n")
    answer = json.loads(run("understand", "--model", tmp_path / "run", orders / "1.wav", "--json").out)
    assert answer["intent"] == "order" and answer["slots"][0] == {"type": "size", "value": "small"}
    card = (tmp_path / "run/hub/README.md").read_text()
    assert f"from mixvec import {head.__name__}" in card and "mixvec understand --model" in card
