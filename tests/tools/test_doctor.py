"""The doctor names each fault, provoked here by a stand-in where the machine is sound, and leaves all as it was."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from mixvec.training.manifest import write_manifest
from tests.findings import SEGFAULT, assert_wrong
from tests.runs import ROOT
from tests.tiny_models import TOKEN
from tools.doctor import machine, network, rundir
from tools.doctor.__main__ import checks, examine
from tools.doctor.finding import Finding

Patch = pytest.MonkeyPatch


def disk(monkeypatch: Patch, free: float) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=free, used=0, free=free))


def test_places(tmp_path: Path, monkeypatch: Patch) -> None:
    assert machine.place(tmp_path / "not/yet", 1, "run.dir=ELSEWHERE").level == "ok"
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("TMPDIR", str(tmp_path / "gone"))
    assert_wrong(machine.temporary(), f"TMPDIR={tmp_path}/gone is no folder", f"mkdir -p {tmp_path}/gone")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert machine.temporary().evidence.startswith(f"{tmp_path}: ")
    (tmp_path / "file").touch()
    for path in (tmp_path / "file/runs", Path("/proc/self/runs")):
        assert_wrong(machine.place(path, 1, "run.dir=ELSEWHERE"), "cannot be written", "run.dir=ELSEWHERE")
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", Mock(side_effect=OSError(errno.ENOLCK, "No locks available")))
        assert_wrong(machine.place(tmp_path, 1, "run.dir=ELSEWHERE"), "locked (No locks available)", "run.dir=")
    disk(monkeypatch, 5e9)
    assert_wrong(machine.place(tmp_path, 6e9, "run.dir=ELSEWHERE"), "5 GB free, 6 GB may", "run.dir=", "warning")


def test_a_full_disk(tmp_path: Path) -> None:
    """A limit on files' size stands in for the disk."""
    code = (
        "import resource, sys\nfrom pathlib import Path\nfrom tools.doctor.machine import place\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\nprint(place(Path(sys.argv[1]), 1, 'run.dir=X'))"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT, capture_output=True, text=True)
    assert "level='wrong'" in done.stdout and "cannot be written and locked (File too large)" in done.stdout, done


def test_memory_and_limits(tmp_path: Path, monkeypatch: Patch) -> None:
    disk(monkeypatch, 64e6)
    assert_wrong(machine.shared_memory(), "64 MB free", "--shm-size=8g")
    disk(monkeypatch, 0.5e9)
    assert_wrong(machine.shared_memory(), "0.5 GB free", "--shm-size=8g", "warning")
    assert_wrong(machine.shared_memory(tmp_path / "no"), "missing", "data.workers=0")
    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, 4096))
    assert_wrong(machine.open_files(), "256 may be open", "ulimit -n 4096", "warning")
    monkeypatch.setattr(
        machine, "limits", lambda name: {"memory.max": ["2000000000"], "cpu.max": ["50000 100000"]}[name]
    )
    assert_wrong(machine.memory(), "2 GB available, limit 2 GB", "--mem", "warning")
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    assert_wrong(machine.processors(), "1 of ", "export OMP_NUM_THREADS=1", "warning")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert machine.processors().level == "ok"
    monkeypatch.setattr(time, "time", lambda: 1e9)
    assert_wrong(machine.clock(), "2001-09-09", "set-ntp true")


def test_a_container_s_limits_are_those_of_its_group_and_the_groups_above(tmp_path: Path) -> None:
    for path, text in {
        "proc/self/cgroup": "0::/job/step\n", "sys/fs/cgroup/job/memory.max": "8\n",
        "sys/fs/cgroup/job/step/memory.max": "max\n", "sys/fs/cgroup/memory.max": "9\n",
    }.items():  # fmt: skip
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    assert machine.limits("memory.max", tmp_path) == ["8", "9"]
    assert machine.limits("memory.max", tmp_path / "no") == []


def test_ports(monkeypatch: Patch) -> None:
    monkeypatch.delenv("MASTER_PORT", raising=False)
    with socket.create_server(("", 0)) as server:
        number = server.getsockname()[1]
        monkeypatch.setattr(network, "TORCHRUN_PORT", number)
        assert_wrong(network.port(), f"torchrun's {number}: Address already in use", "--standalone", "warning")
        monkeypatch.setenv("MASTER_PORT", str(number))
        assert_wrong(network.port(), f"MASTER_PORT={number}: Address already in use", "export MASTER_PORT=")
    assert network.port().level == "ok"
    monkeypatch.setenv("MASTER_PORT", "http")
    assert_wrong(network.port(), "'http' is no port", "unset MASTER_PORT")
    monkeypatch.setenv("MASTER_PORT", str(number))
    monkeypatch.setenv("MASTER_ADDR", "node1")
    unknown = Mock(side_effect=socket.gaierror(-2, "Name or service not known"))
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert_wrong(network.port(), "MASTER_ADDR=node1: Name or service not known", "export MASTER_ADDR=")


def test_ranks_that_cannot_meet(monkeypatch: Patch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nosuch0")
    assert_wrong(network.handshake(), "nosuch0", "unset GLOO_SOCKET_IFNAME")


def test_the_hub_s_token_is_never_shown(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert "no token" in network.hub().evidence
    path = tmp_path / "token"
    path.write_text(TOKEN)
    path.chmod(0o644)
    assert_wrong(network.hub(), "others may read", f"chmod 600 {path}", "warning")
    path.chmod(0o600)
    assert network.hub() == Finding("ok", f"a token is in {path}")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert network.hub() == Finding("ok", "a token is set in HF_TOKEN")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert_wrong(network.hub(), "HF_HUB_OFFLINE", "unset HF_HUB_OFFLINE", "warning")


def test_a_run_directory(tmp_path: Path, monkeypatch: Patch) -> None:
    run = tmp_path / "run"
    assert {"lock", "room", "checkpoint"}.isdisjoint(name for name, _ in checks(run))
    older, newer = (run / f"checkpoints/update_0000000{n}" for n in (1, 2))
    for path in (older, newer):
        path.mkdir(parents=True)
        (path / "model.safetensors").write_bytes(bytes(1000))
        write_manifest(path)
    assert {"lock", "room", "checkpoint"} <= {name for name, _ in checks(run)}
    assert rundir.lock(run).level == rundir.room(run).level == rundir.checkpoint(run).level == "ok"
    assert "update_00000002 is whole" in rundir.checkpoint(run).evidence
    with (run / ".lock").open("w") as file:
        assert rundir.lock(run).level == "ok"
        fcntl.flock(file, fcntl.LOCK_EX)
        assert_wrong(rundir.lock(run), f"at work in it, process {os.getpid()}", "another run.dir", "warning")
    (newer / "model.safetensors").write_bytes(b"x" * 1000)
    assert_wrong(rundir.checkpoint(run), "update_00000002: model.safetensors is damaged", "goes on", "warning")
    assert "update_00000001 is whole" in rundir.checkpoint(run).evidence
    (older / "model.safetensors").unlink()
    assert_wrong(rundir.checkpoint(run), "none of 2 is whole; the newest, update_00000002: model", "rm -r")
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == [older.name, newer.name], "looked at alone"
    disk(monkeypatch, 1500)
    assert_wrong(rundir.room(run), "a checkpoint takes", "run.keep=2", "warning")
    disk(monkeypatch, 500)
    assert_wrong(rundir.room(run), "a checkpoint takes", "run.keep=2")


def test_a_check_that_hangs_or_fails_is_a_finding() -> None:
    end = threading.Event()

    def hang() -> Finding:
        end.wait(60)
        return Finding("ok", "")

    def fail() -> Finding:
        raise FileNotFoundError("/proc/meminfo")

    found = dict(examine([("fails", fail), ("hangs", hang), ("sound", lambda: Finding("ok", ""))], 0.5))
    end.set()
    assert_wrong(found["fails"], "FileNotFoundError: /proc/meminfo", "", "warning")
    assert_wrong(found["hangs"], "no answer within 0.5 s", "again", "warning")
    assert found["sound"].level == "ok"


def test_the_command_runs_where_torch_does_not(tmp_path: Path, shadow: Callable[[str, str], None]) -> None:
    shadow("torch", SEGFAULT)
    paths = f"{os.environ['PYTHONPATH']}:{ROOT}"
    words = [sys.executable, "-m", "tools.doctor", str(tmp_path / "runs")]
    environment = os.environ | {"PYTHONPATH": paths, "HF_TOKEN": TOKEN}
    done = subprocess.run([*words, "--json", str(tmp_path / "it.json")], cwd=tmp_path, env=environment,
                          capture_output=True, text=True, timeout=60)  # fmt: skip
    assert done.returncode == 1 and done.stderr == ""
    told = json.loads((tmp_path / "it.json").read_text())
    found = {row["check"]: row for row in told["findings"]}
    assert len(done.stdout.splitlines()) == len(found) and told["wrong"] >= 3
    assert "SIGSEGV" in found["torch"]["evidence"] and found["omegaconf"]["level"] == "ok"
    assert all(row["remedy"] for row in found.values() if row["level"] == "wrong")
    assert f"wrong    torch            {found['torch']['evidence']} -> {found['torch']['remedy']}" in done.stdout
    assert TOKEN not in done.stdout + (tmp_path / "it.json").read_text()
