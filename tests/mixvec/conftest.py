"""Models and the command line, for the tests of the mixvec command."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mixvec import cli
from mixvec.hub import save_folder
from tests.commands import Run, in_process
from tests.tiny_models import classifier, encoder, recogniser


@pytest.fixture(scope="package")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recogniser as a folder and in a run directory, a classifier and an encoder. Read-only."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(1)
    asr = recogniser()
    for name, model in (("asr", asr), ("run/hub", asr), ("intent", classifier()), ("encoder", encoder())):
        save_folder(model, folder / name)
    return folder


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command in this process."""
    return in_process(cli.main, monkeypatch, capsys)
