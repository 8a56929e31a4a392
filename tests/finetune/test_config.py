"""The configuration: sections that validate themselves, light imports, and a written config.yaml read again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from finetune.config import FinetuneConfig
from mixvec import UserError
from mixvec.training.config import load_config, write_config
from tests.runs import ROOT


@pytest.mark.parametrize(
    "key",
    [
        "asr.vocabulary_size=2", "asr.ctc_weight=2", "asr.beam=0", "asr.decoder_layers=0", "asr.label_smoothing=1",
        "asr.units=words", "emotion.fold=6", "speaker.crop_s=0", "speaker.max_trials=0", "speaker.embedding=1",
        "speaker.scale=0", "speaker.margin=-1", "head.width=12", "head.kind=lstm,asr.decoder=attention",
        "augment.time_prob=1", "augment.channel_prob=-1", "augment.channel_span=0", "augment.time_span_frames=0",
        "optim.layer_decay=0", "optim.encoder_lr=-1", "run.eval_every=0", "run.stop_on=[stuck-at-chance]", "freeze=2",
        "dropout=1", "task=poetry", "optim.lrr=1", "batch.max_s=1", "cache.dtype=bf16",
    ],
)  # fmt: skip
def test_an_impossible_value_is_an_error_that_names_the_key(key: str) -> None:
    with pytest.raises(UserError) as raised:
        load_config(FinetuneConfig, key.split(","), "")
    assert key.split("=")[0] in str(raised.value)


@pytest.mark.slow
def test_reading_a_configuration_imports_no_data_stack() -> None:
    heavy = "accelerate,datasets,pyarrow,fsspec,pandas,scipy,sklearn,sentencepiece,transformers,fairseq2,tensorboard"
    code = f"import sys, finetune.config; print([name for name in {heavy.split(',')} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("url", ["https://x.org/a.jsonl?token=secret", "https://me:secret@x.org/a.jsonl"])
@pytest.mark.parametrize("source", ["{}", "[{{source: '{}', weight: 2}}, /other]"])
def test_a_secret_is_not_kept_and_must_be_passed_again(url: str, source: str, tmp_path: Path) -> None:
    """The config.yaml of a run, as tools.decode and a resumed run read it."""
    keys = ["task=asr", f"data.train={source.format(url)}", "data.valid=/valid"]
    written = write_config(load_config(FinetuneConfig, keys, ""), tmp_path / "config.yaml")
    assert "secret" not in written
    with pytest.raises(UserError, match=r"data\.train=.*'data\.train=URL'"):
        load_config(FinetuneConfig, [str(tmp_path / "config.yaml")], "")
    again = load_config(FinetuneConfig, [str(tmp_path / "config.yaml"), keys[1]], "")
    assert "secret" in str(again.data.train) and again.data.valid == "/valid"
