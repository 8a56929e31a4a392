"""Fixtures of the publishing tests: a run directory, a hub, and the command."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from mixvec.errors import run_cli
from mixvec.hub import save_folder
from tests.commands import Result, Run, in_process
from tests.hub_server import HubServer
from tests.tiny_models import TOKEN, classifier, loopback_hub, recogniser
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
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with loopback_hub(monkeypatch, tmp_path / "cache") as hub:
        yield hub


@pytest.fixture
def taken(hub: HubServer, tmp_path: Path) -> HubServer:
    """The hub with a classifier at org/asr."""
    save_folder(classifier(), tmp_path / "old")
    api = HfApi(endpoint=hub.url, token=TOKEN)
    api.create_repo("org/asr")
    api.upload_folder(repo_id="org/asr", folder_path=tmp_path / "old")
    return hub


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run directory with a recogniser, training state beside it, and a file that is not the model's."""
    facts = {"data": "corpus", "updates": 7, "metrics": {"wer": 0.25}, "licence": "mit", "language": "en"}
    save_folder(recogniser(), tmp_path / "run" / "hub", facts)
    (tmp_path / "run" / "checkpoints").mkdir()
    (tmp_path / "run" / "hub" / "notes.txt").write_text("not the model's")
    return tmp_path / "run"
