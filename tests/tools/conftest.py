"""Fixtures of the publishing tests: a run directory, the command, and its check without the fresh process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mixvec.errors import run_cli
from mixvec.hub import save_folder
from tests.commands import Result, Run, in_process
from tests.tiny_models import TOKEN, recogniser
from tools import publish, reload


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs ``tools.publish`` in this process, and sees that it never prints the token."""
    monkeypatch.setattr("signal.signal", lambda *args: None)
    call = in_process(lambda: run_cli(publish.main), monkeypatch, capsys)

    def discreet(*words: object) -> Result:
        done = call(*words)
        assert TOKEN not in done.out + done.err
        return done

    return discreet


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run directory with a recogniser, training state beside it, and a file that is not the model's."""
    facts = {"data": "corpus", "updates": 7, "metrics": {"wer": 0.25}}
    save_folder(recogniser(), tmp_path / "run" / "hub", facts)
    (tmp_path / "run" / "checkpoints").mkdir()
    (tmp_path / "run" / "hub" / "notes.txt").write_text("not the model's")
    return tmp_path / "run"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check in this process instead of a fresh one, which takes seconds, and no wait before another attempt."""

    def check(folder: Path, config: object, reference: dict[str, torch.Tensor]) -> None:
        found = reload.outputs(folder)
        assert all(torch.equal(found[key], reference[key]) for key in reference)

    monkeypatch.setattr(publish, "check", check)
    monkeypatch.setattr(publish, "WAITS_S", (0.0, 0.0, 0.0))
