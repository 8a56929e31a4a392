"""Fine-tuning from a fine-tuned model: the head is kept where its tokens or labels include the data's, and a line
reports which it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from safetensors.torch import load_file

from tests.runs import SMALLEST, finetune

STILL = ("run.updates=1", "run.seed=3", "optim.lr=1e-9", "optim.encoder_lr=1e-9", "optim.weight_decay=0")
Output = pytest.CaptureFixture[str]


def labelled(folder: Path, key: str, *values: Any) -> Path:
    """A second of noise for each value of the row's ``key``."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(len(values)):
        soundfile.write(folder / f"{number}.wav", 0.1 * rng.standard_normal(16_000), 16_000)
    lines = [json.dumps({"file_name": f"{number}.wav", key: value}) for number, value in enumerate(values)]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def run(task: str, data: Path, folder: Path, *keys: str) -> None:
    own = (f"data.train={data}", "data.valid=null", "data.test=null", f"task={task}", *STILL)
    assert finetune("intent" if task == "slots" else task, data, folder, *own, *keys) == 0


def head_kept(one: Path, two: Path) -> bool:
    """Whether the output layer is the same but for one update at a learning rate of nearly zero."""
    before, after = (load_file(folder / "hub/model.safetensors")["output.weight"] for folder in (one, two))
    return before.shape == after.shape and bool((before - after).abs().max() < 1e-6)


@pytest.mark.parametrize(
    ("task", "key", "first", "second", "lacking"),
    [
        ("asr", "text", ["ab a", "bc b"], ["b a", "a"], ""),
        ("asr", "text", ["ab a", "bc b"], ["ab d", "bc"], "'d'"),
        ("intent", "intent", ["on", "off", "up"], ["up", "on"], ""),
        ("intent", "intent", ["on", "off"], ["on", "dim"], "'dim'"),
        ("slots", "slots", [{"a": "on"}, {"b": "off"}], [{"b": "no"}], ""),
        ("asr", "text", [], ["ab a"], "a Classifier, and task=asr trains a CtcRecognizer"),
    ],
)
def test_the_head_is_kept_where_it_fits(
    tmp_path: Path, capsys: Output, task: str, key: str, first: list[Any], second: list[Any], lacking: str
) -> None:
    one = labelled(tmp_path / "a", key, *first) if first else labelled(tmp_path / "a", "intent", "on", "off")
    run(task if first else "intent", one, tmp_path / "one", "size=tiny", *SMALLEST)
    capsys.readouterr()
    run(task, labelled(tmp_path / "b", key, *second), tmp_path / "two", f"pretrained={tmp_path / 'one'}")
    out, name = capsys.readouterr().out, f"of {tmp_path / 'one'}"
    assert head_kept(tmp_path / "one", tmp_path / "two") is not bool(lacking)
    assert (
        (f"the head is new, not that {name}: " in out and lacking in out) if lacking else f"head {name} is kept" in out
    )
    if first:
        stored = "labels.json" if task == "intent" else "vocab.json"
        same = (tmp_path / "one/hub" / stored).read_text() == (tmp_path / "two/hub" / stored).read_text()
        assert same is not bool(lacking)


def test_pieces_are_cut_as_before(tmp_path: Path, capsys: Output) -> None:
    """Run and model folder have the tokenizer, so that other texts are cut into its pieces."""
    one = labelled(tmp_path / "a", "text", *["ab abc", "bc ab"] * 3)
    two = labelled(tmp_path / "b", "text", *["abc b"] * 3)
    keys = ("asr.units=bpe", "asr.vocabulary_size=7")
    run("asr", one, tmp_path / "one", "size=tiny", *SMALLEST, *keys)
    run("asr", two, tmp_path / "two", f"pretrained={tmp_path / 'one'}", "asr.units=bpe", "asr.vocabulary_size=5")
    assert head_kept(tmp_path / "one", tmp_path / "two") and "is kept" in capsys.readouterr().out
    assert (tmp_path / "two/tokenizer.model").read_bytes() == (tmp_path / "one/tokenizer.model").read_bytes()
    folder = f"pretrained={tmp_path / 'one/hub'}"
    run("asr", two, tmp_path / "three", folder, "asr.units=bpe", "asr.vocabulary_size=5")
    assert head_kept(tmp_path / "one", tmp_path / "three") and "is kept" in capsys.readouterr().out
    for own in ("one/hub/tokenizer.model", "one/tokenizer.model"):
        (tmp_path / own).unlink()
    run("asr", two, tmp_path / "hub", f"pretrained={tmp_path / 'one/hub'}", "asr.units=bpe", "asr.vocabulary_size=5")
    assert "the head is new" in (out := capsys.readouterr().out) and "tokenizer.model" in out
