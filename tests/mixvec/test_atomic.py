"""Folders that are whole or not there: after errors, interrupts and kills; and what saving a model may replace."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mixvec import SpeechEncoder, UserError
from mixvec.atomic import whole_folder, write_whole
from mixvec.hub import load_model, save_folder
from tests.tiny_models import encoder, recogniser


@pytest.fixture(params=["exchange", "two renames"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with one file, alone in its parent, on a system that can exchange two folders and on one that cannot."""
    if request.param == "two renames":
        monkeypatch.setattr("mixvec.atomic._exchange", lambda one, other: False)
    path = tmp_path / "parent" / "model [1]*"
    path.mkdir(parents=True)
    (path / "a").write_text("old")
    yield path


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def beside(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.parent.iterdir())


def test_the_new_takes_the_old_ones_place(folder: Path) -> None:
    with whole_folder(folder) as new:
        (new / "b").write_text("new")
        assert contents(folder) == {"a": "old"}
    assert contents(folder) == {"b": "new"} and beside(folder) == [folder.name]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, OSError, UserError])
def test_an_error_leaves_the_old_one(folder: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), whole_folder(folder) as new:
        (new / "b").write_text("new")
        raise error
    assert contents(folder) == {"a": "old"} and beside(folder) == [folder.name]


def test_a_link_is_followed_and_a_file_is_kept(folder: Path) -> None:
    link, file = folder.parent / "link", folder.parent / "file"
    link.symlink_to(folder)
    file.write_text("text")
    with whole_folder(link) as new:
        (new / "b").write_text("new")
    assert link.is_symlink() and contents(folder) == {"b": "new"}
    with pytest.raises(UserError, match="a file"), whole_folder(file):
        pass
    assert file.read_text() == "text" and beside(folder) == ["file", "link", folder.name]


def test_a_killed_process_leaves_the_old_one_and_the_next_clears_up(folder: Path) -> None:
    script = """
import os, signal, sys
from mixvec.atomic import whole_folder
with whole_folder(sys.argv[1]) as new:
    (new / "half").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", script, str(folder)], cwd=root, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    assert contents(folder) == {"a": "old"} and len(beside(folder)) == 2
    with whole_folder(folder) as new:
        (new / "b").write_text("new")
    assert contents(folder) == {"b": "new"} and beside(folder) == [folder.name]


def test_a_file_is_the_old_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "deep" / "results.json"
    write_whole(file, "old é")
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_whole(file, "new")
    assert contents(file.parent) == {"results.json": "old é"}


def test_saving_never_destroys_what_is_not_a_model(tmp_path: Path) -> None:
    thesis = tmp_path / "home" / "thesis.tex"
    write_whole(thesis, "years of work")
    with pytest.raises(UserError, match="holds files and no mixvec model"):
        save_folder(encoder(), thesis.parent)
    with pytest.raises(UserError, match="a file"):
        save_folder(encoder(), thesis)
    assert thesis.read_text() == "years of work" and beside(thesis) == ["thesis.tex"]


def test_a_model_may_take_a_models_place(tmp_path: Path) -> None:
    save_folder(recogniser(), tmp_path / "m")
    save_folder(encoder(), tmp_path / "m")
    assert isinstance(load_model(tmp_path / "m"), SpeechEncoder) and not (tmp_path / "m" / "vocab.json").exists()
