"""The four commands of the README over the same speech kept in five ways: the same utterances, the same weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mixvec.cli import main as mixvec
from mixvec.errors import run_cli
from tests.commands import in_process
from tests.readers import kaldi, nemo, parquet, webdataset
from tests.runs import finetune, identical, pretrain, weights
from tools import publish

Form = Callable[[list[Path], Path, list[str]], Path]
OTHERS: list[Form] = [nemo, kaldi, parquet, webdataset]
SPLITS = ("train", "validation", "test")
PRETRAIN = ("run.updates=3", "batch.update_s=9", "batch.max_s=9", "data.max_s=3")
FINETUNE = ("run.updates=3", "run.eval_every=3", "freeze=0.3")


@pytest.fixture(scope="module")
def kept(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Path]]:
    """The splits of the recognition corpus, which is an audiofolder, in each form: what a key of data names."""
    at = tmp_path_factory.mktemp("forms")
    made = {"audiofolder": {split: corpus / "asr" / split for split in SPLITS}}
    made |= {form.__name__: {} for form in OTHERS}
    for split in SPLITS:
        lines = (corpus / "asr" / split / "metadata.jsonl").read_text().splitlines()
        rows = sorted((row["file_name"], row["text"]) for row in map(json.loads, lines))
        audio, texts = [corpus / "asr" / split / name for name, _ in rows], [text for _, text in rows]
        for form in OTHERS:
            made[form.__name__][split] = form(audio, at / f"{form.__name__}-{split}", texts)
    return made


def test_the_four_commands_give_the_same_model(
    corpus: Path, kept: dict[str, dict[str, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Bit for bit, so that publishing and transcribing need only be seen once."""
    for form, sources in kept.items():
        assert pretrain(corpus, tmp_path / f"{form}-ssl", f"data.train={sources['train']}", *PRETRAIN) == 0
        data = [f"data.{key}={sources[s]}" for key, s in zip(("train", "valid", "test"), SPLITS, strict=True)]
        assert finetune("asr", corpus, tmp_path / form, *data, f"pretrained={tmp_path}/{form}-ssl", *FINETUNE) == 0
    results = {form: json.loads((tmp_path / form / "results.json").read_text()) for form in kept}
    for form in kept:
        assert identical(weights(tmp_path / f"{form}-ssl"), weights(tmp_path / "audiofolder-ssl"))
        assert identical(weights(tmp_path / form), weights(tmp_path / "audiofolder"))
        assert results[form]["test"] == results["audiofolder"]["test"]
    monkeypatch.setattr("signal.signal", lambda *args: None)
    published = in_process(lambda: run_cli(publish.main), monkeypatch, capsys)
    assert published(tmp_path / "webdataset", "--to", tmp_path / "model").code == 0
    said = in_process(mixvec, monkeypatch, capsys)(
        "transcribe", "--model", tmp_path / "model", corpus / "asr/test/audio"
    )
    assert (said.code, len(said.lines)) == (0, 4)
