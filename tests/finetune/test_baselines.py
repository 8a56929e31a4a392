"""What an encoder is compared with: log-mel, its own shape at random, and encoders of transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from finetune.config import FinetuneConfig
from mixvec import UserError
from mixvec.hub import load_encoder, load_model
from tests.mixvec.test_transformers_encoder import make
from tests.runs import SMALLEST, finetune, identical

BRIEF = ("run.updates=2", "run.eval_every=2", "head.layers=weighted")


@pytest.mark.parametrize("freeze", [0, 1])
def test_a_head_on_an_encoder_of_transformers(
    corpus: Path, tmp_path: Path, freeze: int, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make("hubert", tmp_path / "hubert")
    keys = (f"pretrained={tmp_path / 'hubert'}", f"freeze={freeze}", f"data.test={corpus}/intent/test", *BRIEF)
    assert finetune("intent", corpus, tmp_path / "run", *keys) == 0
    assert 0 <= json.loads((tmp_path / "run/results.json").read_text())["test"]["accuracy"] <= 1
    stored = load_file(tmp_path / "run/hub/model.safetensors")
    kept = {name.removeprefix("encoder.model."): t for name, t in stored.items() if name.startswith("encoder.model.")}
    assert identical(kept, model.state_dict()) == bool(freeze)
    assert identical(load_model(tmp_path / "run/hub").state_dict(), stored)
    capsys.readouterr()
    assert finetune("intent", corpus, tmp_path / "again", *keys, f"pretrained={tmp_path / 'run'}") == 0
    assert f"the head of {tmp_path / 'run'} is kept" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"hubert: .*dropout"):
        finetune("intent", corpus, tmp_path / "other", *keys, "dropout=0.1")


def test_log_mel_needs_no_encoder_and_gives_a_model_to_publish(corpus: Path, tmp_path: Path) -> None:
    assert finetune("asr", corpus, tmp_path / "run", "baseline=log-mel", *BRIEF) == 0
    assert load_encoder(tmp_path / "run").config.kind == "log-mel"
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["baseline"] == "log-mel" and results["pretrained"] is None
    assert json.loads((tmp_path / "run/hub/config.json").read_text())["training"]["started_from"] == "log-mel"


@pytest.mark.parametrize("scratch", [False, True], ids=["baseline=random", "size and freeze=1"])
def test_a_random_encoder_keeps_the_weights_that_the_seed_draws(
    corpus: Path, source: Path, tmp_path: Path, scratch: bool
) -> None:
    before = load_encoder(source).state_dict()
    start = ("size=tiny", *SMALLEST, "freeze=1") if scratch else (f"pretrained={source}", "baseline=random", "freeze=0")
    drawn = []
    for name, updates in (("short", 1), ("long", 2)):
        keys = (*start, "optim.lr=0.1", *BRIEF, f"run.updates={updates}")
        assert finetune("intent", corpus, tmp_path / name, *keys) == 0
        drawn.append(load_encoder(tmp_path / name).state_dict())
    assert identical(*drawn) and not any(drawn[0]["norm.weight"] == before["norm.weight"])
    assert scratch or {n: t.shape for n, t in drawn[0].items()} == {n: t.shape for n, t in before.items()}


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"pretrained": "run", "freeze": 0.5}, [True, True, False]),
        ({"pretrained": "run", "freeze": 1.0}, [True] * 3),
        ({"pretrained": "run"}, [False] * 3),
        ({"freeze": 0.5}, [False] * 3),
        ({"freeze": 1.0}, [True] * 3),
        ({"pretrained": "run", "baseline": "random"}, [True] * 3),
        ({"pretrained": "run", "baseline": "scratch", "freeze": 0.5}, [False] * 3),
    ],
)
def test_when_an_encoder_is_frozen(keys: dict[str, Any], expected: list[bool]) -> None:
    assert [FinetuneConfig(**keys).is_frozen(progress) for progress in (0.1, 0.5, 0.9)] == expected
