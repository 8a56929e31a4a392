"""Signals, at any moment, and Ctrl-C twice: what is saved and printed, and the exit code."""

from __future__ import annotations

import io
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mixvec.data import sources
from mixvec.data.sources import Corpus
from pretrain.objectives.base import Step
from tests.runs import in_forward, pretrain

Patch = pytest.MonkeyPatch


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_saves_and_ends_with_its_code(
    corpus: Path, tmp_path: Path, monkeypatch: Patch, number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    in_forward(monkeypatch, 2, do=lambda _: os.kill(os.getpid(), number))
    assert pretrain(corpus, tmp_path / "run", "run.updates=9", "batch.max_s=60") == 128 + number
    assert [p.name for p in (tmp_path / "run/checkpoints").iterdir()] == ["update_00000002"]
    assert f"the same command resumes there (exit code {128 + number})" in capsys.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_before_training_ends_at_once(
    corpus: Path, tmp_path: Path, monkeypatch: Patch, number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    """While headers are read there is no update to finish."""
    add = sources._add

    def one_then_signal(found: Corpus, *rest: Any) -> None:
        add(found, *rest)
        os.kill(os.getpid(), number)

    with monkeypatch.context() as patch:
        patch.setattr(sources, "_add", one_then_signal)
        with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit) as ended:
            pretrain(corpus, tmp_path / "run", "run.updates=1")
    assert number == signal.SIGINT or ended.value.code == 128 + number
    assert f"{number.name}: nothing to save yet\n" in capfd.readouterr().out
    assert not (tmp_path / "run/checkpoints").exists()


def test_a_signal_may_come_while_a_line_is_printed(
    corpus: Path, tmp_path: Path, monkeypatch: Patch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Python's files refuse a write from a signal handler that interrupted a write, as to a slow terminal."""

    class Terminal(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            if bytes(data).startswith(b"update 2/"):
                os.kill(os.getpid(), signal.SIGTERM)
            return len(data)

    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BufferedWriter(Terminal())))
    assert pretrain(corpus, tmp_path / "run", "run.updates=9") == 143
    assert "SIGTERM: finishing this update, then saving" in capfd.readouterr().out


@pytest.mark.parametrize(("update", "then"), [(1, "starts again"), (3, "resumes from the last checkpoint")])
def test_a_second_ctrl_c_leaves_at_once(
    corpus: Path, tmp_path: Path, monkeypatch: Patch, update: int, then: str, capfd: pytest.CaptureFixture[str]
) -> None:
    def twice(_: Step) -> None:
        while update == 3 and not (tmp_path / "run/checkpoints/update_00000002").exists():
            time.sleep(0.01)
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(os, "_exit", lambda code: (_ for _ in ()).throw(SystemExit(code)))
    in_forward(monkeypatch, update, do=twice)
    with pytest.raises(SystemExit, match="130"):
        pretrain(corpus, tmp_path / "run", "run.updates=9", "batch.max_s=60", "run.save_every=2")
    assert capfd.readouterr().out.endswith(f"the same command {then}\n")
