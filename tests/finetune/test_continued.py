"""Fine-tuning from a fine-tuned model: the head is kept where its tokens or labels include the data's, and a line
reports which it is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from safetensors.torch import load_file

from tests.runs import SMALLEST, finetune

STILL = ("run.updates=1", "run.seed=3", "optim.lr=1e-9", "optim.encoder_lr=1e-9", "optim.weight_decay=0")
Output = pytest.CaptureFixture[str]


def labelled(folder: Path, key: str, *values: str) -> Path:
    """A second of noise for each value of the row's ``key``."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(len(values)):
        soundfile.write(folder / f"{number}.wav", 0.1 * rng.standard_normal(16_000), 16_000)
    lines = [json.dumps({"file_name": f"{number}.wav", key: value}) for number, value in enumerate(values)]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def run(task: str, data: Path, folder: Path, *keys: str) -> None:
    own = (f"data.train={data}", "data.valid=null", "data.test=null", *STILL)
    assert finetune(task, data, folder, *own, *keys) == 0


def head_kept(one: Path, two: Path) -> bool:
    """Whether the output layer is the same but for one update at a learning rate of nearly zero."""
    before, after = (load_file(folder / "hub/model.safetensors")["output.weight"] for folder in (one, two))
    return before.shape == after.shape and bool((before - after).abs().max() < 1e-6)


@pytest.mark.parametrize(
    ("task", "key", "first", "second", "keeps"),
    [
        ("asr", "text", ["ab a", "bc b"], ["ab a", "bc b"], True),
        ("asr", "text", ["ab a", "bc b"], ["b a", "a"], True),
        ("asr", "text", ["ab a", "bc b"], ["ab d", "bc"], False),
        ("intent", "intent", ["on", "off", "up"], ["up", "on"], True),
        ("intent", "intent", ["on", "off"], ["on", "dim"], False),
    ],
)
def test_the_head_is_kept_where_it_fits(
    tmp_path: Path, capsys: Output, task: str, key: str, first: list[str], second: list[str], keeps: bool
) -> None:
    one, two = labelled(tmp_path / "a", key, *first), labelled(tmp_path / "b", key, *second)
    run(task, one, tmp_path / "one", "size=tiny", *SMALLEST)
    capsys.readouterr()
    run(task, two, tmp_path / "two", f"pretrained={tmp_path / 'one'}")
    out = capsys.readouterr().out
    assert head_kept(tmp_path / "one", tmp_path / "two") is keeps
    assert (f"the head of {tmp_path / 'one'} is kept" in out) is keeps
    stored = "vocab.json" if task == "asr" else "labels.json"
    same = (tmp_path / "one/hub" / stored).read_text() == (tmp_path / "two/hub" / stored).read_text()
    assert same is keeps
    if not keeps:
        assert "the head is new" in out and ("'d'" in out or "'dim'" in out)


def test_a_head_for_something_else_is_not_kept(tmp_path: Path, capsys: Output) -> None:
    labels, texts = labelled(tmp_path / "a", "intent", "on", "off"), labelled(tmp_path / "b", "text", "ab a", "bc b")
    run("intent", labels, tmp_path / "one", "size=tiny", *SMALLEST)
    run("asr", texts, tmp_path / "two", f"pretrained={tmp_path / 'one'}")
    assert "the head is new" in (out := capsys.readouterr().out) and "Classifier" in out and "CtcRecognizer" in out


def test_pieces_are_cut_as_before(tmp_path: Path, capsys: Output) -> None:
    """A run directory has the tokenizer, so that other texts are cut into its pieces."""
    one, two = (
        labelled(tmp_path / "a", "text", *["ab abc", "bc ab"] * 3),
        labelled(tmp_path / "b", "text", *["abc b"] * 3),
    )
    keys = ("asr.units=bpe", "asr.vocabulary_size=7")
    run("asr", one, tmp_path / "one", "size=tiny", *SMALLEST, *keys)
    run("asr", two, tmp_path / "two", f"pretrained={tmp_path / 'one'}", "asr.units=bpe", "asr.vocabulary_size=5")
    assert head_kept(tmp_path / "one", tmp_path / "two") and "is kept" in capsys.readouterr().out
    assert (tmp_path / "two/tokenizer.model").read_bytes() == (tmp_path / "one/tokenizer.model").read_bytes()
    run("asr", two, tmp_path / "hub", f"pretrained={tmp_path / 'one/hub'}", "asr.units=bpe", "asr.vocabulary_size=5")
    assert "the head is new" in (out := capsys.readouterr().out) and "tokenizer.model" in out
