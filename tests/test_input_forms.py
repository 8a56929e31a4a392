"""The same speech kept in five ways: pretraining gives the same weights, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.readers import kaldi, nemo, parquet, webdataset
from tests.runs import identical, pretrain, weights

KEYS = ("run.updates=3", "batch.update_s=9", "batch.max_s=9", "data.max_s=3")


@pytest.fixture(scope="module")
def from_audiofolder(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("audiofolder") / "run"
    assert pretrain(corpus, run, f"data.train={corpus}/asr/train", *KEYS) == 0
    return run


@pytest.mark.parametrize("form", [nemo, kaldi, parquet, webdataset])
def test_every_form_gives_the_same_model(
    corpus: Path, from_audiofolder: Path, tmp_path: Path, form: Callable[[list[Path], Path, list[str]], Path]
) -> None:
    lines = (corpus / "asr/train/metadata.jsonl").read_text().splitlines()
    rows = sorted((row["file_name"], row["text"]) for row in map(json.loads, lines))
    source = form([corpus / "asr/train" / name for name, _ in rows], tmp_path / "own", [text for _, text in rows])
    assert pretrain(corpus, tmp_path / "run", f"data.train={source}", *KEYS) == 0
    assert identical(weights(tmp_path / "run"), weights(from_audiofolder))
