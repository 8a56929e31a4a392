"""Fixtures of the publishing tests: a run directory, and the command."""

from __future__ import annotations

from pathlib import Path

import pytest

from mixvec.errors import run_cli
from mixvec.hub import save_folder
from tests.commands import Result, Run, in_process
from tests.tiny_models import TOKEN, recogniser
from tools import publish


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs ``tools.publish`` in this process without pauses, and checks that it never prints the token."""
    monkeypatch.setattr("signal.signal", lambda *args: None)
    monkeypatch.setattr(publish, "WAITS_S", (0.0, 0.0, 0.0))
    call = in_process(lambda: run_cli(publish.main), monkeypatch, capsys)

    def discreet(*words: object) -> Result:
        done = call(*words)
        assert TOKEN not in done.out + done.err
        return done

    return discreet


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run directory with a recogniser, training state beside it, and a file that is not the model's."""
    facts = {"data": "corpus", "updates": 7, "metrics": {"wer": 0.25}, "licence": "mit", "language": "en"}
    save_folder(recogniser(), tmp_path / "run" / "hub", facts)
    (tmp_path / "run" / "checkpoints").mkdir()
    (tmp_path / "run" / "hub" / "notes.txt").write_text("not the model's")
    return tmp_path / "run"
