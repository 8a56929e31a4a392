"""The run's directory: whose it is, and what is said where it will not do."""

from __future__ import annotations

import errno
import fcntl
from pathlib import Path

import pytest

from mixvec import UserError
from mixvec.training.config import RunConfig
from mixvec.training.faults import first_failure_first
from tests.runs import finetune, pretrain


def test_a_checkpoint_that_a_killed_run_was_removing_goes_with_the_next_start(corpus: Path, tmp_path: Path) -> None:
    """Even where that run was complete, so that no later save removes it."""
    assert pretrain(corpus, tmp_path / "run", "run.updates=1") == 0
    (tmp_path / "run/checkpoints/.update_00000000.old").mkdir()
    assert pretrain(corpus, tmp_path / "run", "run.updates=1") == 0
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["update_00000001"]


def test_a_directory_of_another_run_is_refused_and_named(corpus: Path, tmp_path: Path) -> None:
    assert pretrain(corpus, tmp_path / "run", "run.updates=2") == 0
    with pytest.raises(UserError, match=r"run\.updates \(2 → 4\).*choose another run\.dir"):
        pretrain(corpus, tmp_path / "run", "run.updates=4")
    assert pretrain(corpus, tmp_path / "run", "run.updates=2", "run.log_every=7") == 0, (
        "what computes nothing may change"
    )


def test_a_directory_in_use_is_refused(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with (tmp_path / "run/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another run is using it"):
            pretrain(corpus, tmp_path / "run", "run.updates=2")


def test_a_directory_that_cannot_be_is_named(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match=r"run\.dir=.*/file: not a folder"):
        pretrain(corpus, tmp_path / "file", "run.updates=1")
    with pytest.raises(UserError, match=r"run\.dir=.*/file/run: cannot be used \(not a directory\); choose another"):
        pretrain(corpus, tmp_path / "file/run", "run.updates=1")
    monkeypatch.setattr(
        "mixvec.training.rundir.write_config", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full"))
    )
    with pytest.raises(UserError, match=r"run\.dir=.*/full: cannot be used \(no space left on device\); make room"):
        pretrain(corpus, tmp_path / "full", "run.updates=1")


def test_a_directory_of_another_kind_of_run(corpus: Path, tmp_path: Path) -> None:
    assert pretrain(corpus, tmp_path / "run", "run.updates=1") == 0
    with pytest.raises(UserError) as told:
        finetune("asr", corpus, tmp_path / "run", f"pretrained={tmp_path / 'run'}")
    assert str(told.value) == (
        f"run.dir={tmp_path / 'run'} holds a run of another command or version (its config.yaml has data.temperature); "
        "choose another run.dir"
    )


def test_where_there_are_no_locks_it_says_so_and_runs(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on some network disks. It is no sign of another run."""
    monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOLCK, "no locks")))
    assert pretrain(corpus, tmp_path / "run", "run.updates=1") == 0
    said = capsys.readouterr().out
    assert f"WARNING run.dir={tmp_path / 'run'}: no locks there" in said
    assert said.endswith(f"complete: the model is in {tmp_path / 'run/hub'}\n")
    assert pretrain(corpus, tmp_path / "run", "run.updates=1") == 0
    assert capsys.readouterr().out.endswith(f"complete: the model is in {tmp_path / 'run/hub'}\n"), "nothing to do"


def test_a_full_disk_names_the_run_and_says_that_it_goes_on() -> None:
    """A write says not where; an open does."""
    run = RunConfig(dir="runs/x")
    for error, place in ((OSError(errno.ENOSPC, "full"), "runs/x"), (OSError(errno.ENOSPC, "full", "/a/b"), "/a/b")):
        with pytest.raises(UserError) as told, first_failure_first(run):
            raise error
        assert str(told.value) == f"no space left on device ({place}): make room there; the same command then goes on"
    with pytest.raises(PermissionError), first_failure_first(run):
        raise PermissionError(errno.EACCES, "no", "/a/b")
