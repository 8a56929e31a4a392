"""The run's directory: which run it belongs to, and where it cannot be used."""

from __future__ import annotations

import errno
import fcntl
from pathlib import Path
from typing import Any

import pytest
import yaml

from mixvec import UserError
from mixvec.training.config import RunConfig
from mixvec.training.device import first_failure_first
from tests.runs import UNITS, finetune, pretrain


@pytest.fixture
def ran(corpus: Path, tmp_path: Path) -> Path:
    """The directory of a complete run of one update."""
    assert pretrain(corpus, tmp_path / "run", "run.updates=1") == 0
    return tmp_path / "run"


def test_a_run_with_other_settings_is_refused_by_their_names(corpus: Path, ran: Path) -> None:
    with pytest.raises(UserError, match=r"run\.dir=.*run\.updates \(1 → 4\)"):
        pretrain(corpus, ran, "run.updates=4")
    assert pretrain(corpus, ran, "run.updates=1", "run.log_every=7") == 0, "what computes nothing may change"


def test_a_run_with_another_objective_is_refused_by_its_name(corpus: Path, ran: Path) -> None:
    with pytest.raises(UserError, match=r"run\.dir=.*objective\.kind \(contrastive → units\)"):
        pretrain(corpus, ran, "run.updates=1", base=UNITS)


def test_a_run_of_another_command_is_refused(corpus: Path, ran: Path) -> None:
    with pytest.raises(UserError, match=rf"run\.dir={ran}"):
        finetune("asr", corpus, ran, f"pretrained={ran}")


GATE = {"below_db": None, "silence_s": 0.5, "pad_s": 0.1}


@pytest.mark.parametrize(
    ("section", "values", "named"),
    [
        ("data", {"gate": GATE}, ""),
        ("data", {"text": "plain", "never_was": None}, ""),
        ("data", {"gate": GATE | {"below_db": 35.0}}, r"data\.gate=.* commit .* eb6118c"),
        ("data", {"text": "raw"}, r"data\.text=raw: .* commit .* 2f5b3cc"),
        ("run", {"later": 3}, r"run\.later=3: .* mixvec 0\.\d.*, commit \w+"),
    ],
)
def test_a_key_that_is_no_more_is_refused_where_it_was_used(
    corpus: Path, ran: Path, section: str, values: dict[str, Any], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run of an earlier version resumes where the key did nothing, and else names who can resume it."""
    config = yaml.safe_load((ran / "config.yaml").read_text())
    config[section] |= values
    (ran / "config.yaml").write_text(yaml.safe_dump(config))
    if named:
        with pytest.raises(UserError, match=named):
            pretrain(corpus, ran, "run.updates=1")
    else:
        assert pretrain(corpus, ran, "run.updates=1") == 0
        (warning,) = (line for line in capsys.readouterr().out.splitlines() if "config.yaml" in line)
        assert warning.startswith("WARNING") and all(f"{section}.{key}" in warning for key in values)
        assert not values.keys() & yaml.safe_load((ran / "config.yaml").read_text())[section].keys()


def test_a_checkpoint_that_a_killed_run_was_removing_is_removed_at_the_next_start(corpus: Path, ran: Path) -> None:
    """Even where that run was complete, so that no later save removes it."""
    (ran / "checkpoints/.update_00000000.old").mkdir()
    assert pretrain(corpus, ran, "run.updates=1") == 0
    assert [path.name for path in (ran / "checkpoints").iterdir()] == ["update_00000001"]


def test_a_directory_in_use_is_refused(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with (tmp_path / "run/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match=r"run\.dir=.*another run"):
            pretrain(corpus, tmp_path / "run", "run.updates=2")


def test_a_directory_that_cannot_be_used_is_named(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    for name in ("file", "file/run"):
        with pytest.raises(UserError, match=rf"run\.dir={tmp_path}/{name}: "):
            pretrain(corpus, tmp_path / name, "run.updates=1")
    full = OSError(errno.ENOSPC, "full")
    monkeypatch.setattr("mixvec.training.rundir.write_config", lambda *_: (_ for _ in ()).throw(full))
    with pytest.raises(UserError, match=r"run\.dir=.*/full: .*no space left"):
        pretrain(corpus, tmp_path / "full", "run.updates=1")


def test_a_file_system_without_locks_is_warned_of(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on some network disks. It is no sign of another run."""
    monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOLCK, "no locks")))
    for _ in range(2):  # the second time there is nothing left to do
        assert pretrain(corpus, tmp_path / "run", "run.updates=1") == 0
        output = capsys.readouterr().out
        assert f"WARNING run.dir={tmp_path / 'run'}: " in output and output.endswith(f"{tmp_path / 'run/hub'}\n")


def test_a_full_disk_is_named_where_it_was_written_to() -> None:
    """A failed write does not state the place; a failed open does."""
    run = RunConfig(dir="runs/x")
    for error, place in ((OSError(errno.ENOSPC, "full"), "runs/x"), (OSError(errno.ENOSPC, "full", "/a/b"), "/a/b")):
        with pytest.raises(UserError, match=rf"no space left on device \({place}\)"), first_failure_first(run):
            raise error
    with pytest.raises(PermissionError), first_failure_first(run):
        raise PermissionError(errno.EACCES, "no", "/a/b")
