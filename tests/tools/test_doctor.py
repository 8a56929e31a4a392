"""The doctor reports each fault, simulated where the machine is sound, and changes nothing."""

from __future__ import annotations

import fcntl
import os
import shutil
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import soundfile

from mixvec.errors import run_cli
from mixvec.training.checkpoint import write_manifest
from tests.commands import Run, in_process
from tools import doctor
from tools.doctor import Finding

Patch = pytest.MonkeyPatch


def assert_found(found: Finding, level: str, evidence: str, remedy: str = "") -> None:
    assert found.level == level and evidence in found.evidence and remedy in found.remedy, found
    assert bool(found.remedy) == (level != "ok")


def free(monkeypatch: Patch, size: float) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=size))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Two whole checkpoints of 1 kB and their manifests."""
    for number in (1, 2):
        path = tmp_path / f"run/checkpoints/update_0000000{number}"
        path.mkdir(parents=True)
        (path / "model.safetensors").write_bytes(bytes(1000))
        write_manifest(path)
    return tmp_path / "run"


@pytest.fixture
def diagnosed(monkeypatch: Patch, capsys: pytest.CaptureFixture[str]) -> Run:
    return in_process(lambda: run_cli(doctor.main), monkeypatch, capsys)


def test_the_command_lists_every_check_and_changes_nothing(run: Path, diagnosed: Run) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    done = diagnosed(run)
    checks = [line.split()[1] for line in done.lines]
    assert checks[:3] == ["disk", "lock", "checkpoint"] and checks[-3:-1] == ["libsndfile", "fairseq2"]
    assert done.code == 0 and "accelerate env" in done.lines[-1]
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    (run / "checkpoints/update_00000001/model.safetensors").unlink()
    (run / "checkpoints/update_00000002/model.safetensors").unlink()
    done = diagnosed(run)
    assert done.code == 1 and [line.split()[1] for line in done.lines if line.startswith("wrong")] == ["checkpoint"] * 2


def test_disk(run: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    assert_found(doctor.disk(run), "ok", "the next checkpoint takes")
    (tmp_path / "file").touch()
    assert_found(doctor.disk(tmp_path / "file/runs"), "wrong", f"{tmp_path}/file cannot", "run.dir=")
    free(monkeypatch, 500)
    assert_found(doctor.disk(run), "wrong", "the next checkpoint takes", "run.keep=2")
    free(monkeypatch, 5e9)
    assert_found(doctor.disk(tmp_path / "new"), "warning", "5 GB free", "run.keep=2")


def test_the_lock_names_the_process_that_holds_it(run: Path, monkeypatch: Patch) -> None:
    assert_found(doctor.lock(run), "ok", "free")
    with (run / ".lock").open("w") as file:
        assert_found(doctor.lock(run), "ok", "free")
        fcntl.flock(file, fcntl.LOCK_EX)
        assert_found(doctor.lock(run), "warning", f"process {os.getpid()}", "run.dir")
        monkeypatch.setattr(doctor, "lock_holder", lambda run: None)  # as of a process in another container
        assert_found(doctor.lock(run), "warning", "in use", "run.dir")


def test_checkpoints(run: Path, tmp_path: Path) -> None:
    older, newer = (run / f"checkpoints/update_0000000{number}" for number in (1, 2))
    assert_found(*doctor.checkpoints(run), "ok", "update_00000002 is whole")
    (newer / "model.safetensors").write_bytes(b"x" * 1000)
    first, second = doctor.checkpoints(run)
    assert_found(first, "warning", "update_00000002: model.safetensors", "update_00000001")
    assert_found(second, "ok", "update_00000001 is whole, to resume from")
    (older / "model.safetensors").unlink()
    for found in doctor.checkpoints(run):
        assert_found(found, "wrong", "model.safetensors", "rm -r")
    (found,) = doctor.checkpoints(tmp_path)
    assert_found(found, "ok", "none yet")


def test_the_machine(tmp_path: Path, monkeypatch: Patch) -> None:
    free(monkeypatch, 64e6)
    assert_found(doctor.shared_memory(), "warning", "0.064 GB", "data.workers=0")
    assert_found(doctor.shared_memory(tmp_path / "no"), "warning", "0 GB", "data.workers=0")
    assert_found(doctor.libsndfile(), "ok", "MP3")
    write = soundfile.write

    def old(file: object, data: object, rate_hz: int, format: str, subtype: str | None) -> None:
        if format == "MP3":
            raise ValueError("Unknown format: 'MP3'")
        write(file, data, rate_hz, format=format, subtype=subtype)

    monkeypatch.setattr(soundfile, "write", old)
    assert_found(doctor.libsndfile(), "wrong", "no MP3", "soundfile")


def test_fairseq2_for_another_torch(monkeypatch: Patch) -> None:
    monkeypatch.setattr(metadata, "requires", lambda name: ["torch==2.9.1", "numpy"])
    for torch, level, evidence, remedy in (
        ("2.9.1+cpu", "ok", "torch 2.9.1", ""),
        ("2.10.0+cu130", "wrong", "torch 2.9.1, and torch is 2.10.0", "torch==2.9.1"),
    ):
        monkeypatch.setattr(metadata, "version", {"torch": torch, "fairseq2n": "0.8.1"}.__getitem__)
        assert_found(doctor.fairseq2(), level, evidence, remedy)

    def missing(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", missing)
    assert_found(doctor.fairseq2(), "ok", "not installed")
