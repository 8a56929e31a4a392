"""What the doctor says of packages and GPUs, with stand-ins for the sick ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.findings import SEGFAULT, assert_wrong
from tools.doctor import devices, finding, network, packages

Patch = pytest.MonkeyPatch
Shadow = Callable[[str, str], None]
OLD_SNDFILE = """
__libsndfile_version__ = "1.0.31"
def write(file, audio, rate, format, subtype):
    if format == "MP3":
        raise ValueError("Unknown format")
def read(file):
    return [], 16000
"""
TORCH = """
from types import SimpleNamespace as N
class Tensor:
    def sum(self): {kernel}; return self
    def item(self): return 8
def ones(*shape, device): return Tensor()
def init(): raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040).")
version = N(cuda={cuda!r}, hip=None)
distributed = N(is_nccl_available=lambda: {nccl})
cuda = N(is_available=lambda: {count} > 0, init=init, device_count=lambda: {count}, nccl=N(version=lambda: (2, 27, 5)),
         get_device_properties=lambda i: N(name="V100", major={major}), mem_get_info=lambda i: ({free}, 32_000_000_000))
"""


@pytest.mark.parametrize("version", [(3, 9), (3, 13)])
def test_python(monkeypatch: Patch, version: tuple[int, int]) -> None:
    assert packages.python().level == "ok"
    shown = SimpleNamespace(version_info=(*version, 1), version="3.x.1 (main)", executable="/usr/bin/python")
    monkeypatch.setattr(packages, "sys", shown)
    assert_wrong(packages.python(), "3.x.1, /usr/bin/python", "make PYTHON=python3.11 install")


def test_a_package_that_is_missing_or_of_another_version(monkeypatch: Patch) -> None:
    assert packages.package("omegaconf").level == "ok"
    assert_wrong(packages.package("nothing-of-that-name"), "not installed", "-c constraints.txt nothing-of-that-name")
    monkeypatch.setattr(packages, "installed", lambda name: "2.0.1")
    assert_wrong(packages.package("omegaconf"), "2.0.1, tested with 2.4.0", "install -c constraints.txt omegaconf",
                 "warning")  # fmt: skip
    assert packages.tested_versions("huggingface_hub") and len(packages.tested_versions("numpy")) == 2
    monkeypatch.setattr(packages, "installed", lambda name: "2.4.0+cu128")
    assert packages.package("omegaconf").level == "ok"


@pytest.mark.parametrize(
    ("code", "evidence"),
    [
        ("import nothing_of_that_name", "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("raise OSError('libx.so.1: cannot open shared object file')", "OSError: libx.so.1: cannot open"),
        (SEGFAULT, "the process died of SIGSEGV"),
        ("import time; time.sleep(60)", "no answer within 1 s"),
    ],
)
def test_a_package_that_cannot_be_imported(monkeypatch: Patch, shadow: Shadow, code: str, evidence: str) -> None:
    monkeypatch.setattr(finding, "PROBE_S", 1.0 if "sleep" in code else 60.0)
    shadow("omegaconf", code)
    assert_wrong(packages.package("omegaconf"), evidence, "--force-reinstall omegaconf")


def test_torch_and_what_is_built_for_it(monkeypatch: Patch, shadow: Shadow) -> None:
    for name in ("torch", "torchaudio"):
        shadow(name, "")
    shadow("fairseq2", "raise OSError('fairseq2 requires libsndfile. Use your system package manager')")
    assert packages.torchaudio().level == "ok"
    monkeypatch.delenv("CONDA_PREFIX", raising=False)
    assert_wrong(packages.fairseq2(), "requires libsndfile", "apt install libsndfile1")
    monkeypatch.setenv("CONDA_PREFIX", "/opt/conda")
    assert_wrong(packages.fairseq2(), "requires libsndfile", "unset CONDA_PREFIX")
    monkeypatch.setattr(packages, "installed", {"torch": "2.10.0+cu130", "torchaudio": "2.9.1"}.get)
    assert_wrong(packages.torchaudio(), "2.9.1 beside torch 2.10.0+cu130", "torch torchaudio")
    assert_wrong(packages.fairseq2(), "built for torch 2.9.1; there is 2.10.0+cu130", "torch torchaudio fairseq2")


def test_libsndfile(shadow: Shadow) -> None:
    assert packages.libsndfile().level == "ok"
    shadow("soundfile", OLD_SNDFILE)
    assert_wrong(packages.libsndfile(), "1.0.31 has no MP3", "--only-binary=soundfile soundfile")


@pytest.mark.parametrize(
    ("torch", "files", "level", "evidence", "remedy"),
    [
        ({"count": 0}, "", "ok", "none: runs are on the CPU", ""),
        ({"count": 0}, "pci", "warning", "no driver is loaded", "drivers install"),
        ({"count": 0}, "driver", "wrong", "no /dev/nvidia0", "--gpus all"),
        ({"count": 0}, "driver device", "wrong", "torch for CUDA 12.8: The NVIDIA driver", "update the driver"),
        ({"count": 0, "hidden": ""}, "driver device", "warning", "CUDA_VISIBLE_DEVICES='' hides them", "unset CUDA"),
        ({"count": 0, "cuda": None}, "driver device", "wrong", "built for the CPU alone", "torch torchaudio"),
        ({"kernel": "raise OSError('no kernel image')"}, "driver device", "wrong", "no kernel image", "nvidia-smi"),
        ({"kernel": SEGFAULT}, "driver device", "wrong", "does not answer: the process died of SIGSEGV", "nvidia-smi"),
        ({"major": 9}, "driver device", "ok", "V100 32 GB free of 32 GB; V100 32 GB free of 32 GB; driver 550", ""),
        ({}, "driver device", "warning", "without bf16", "run.precision=fp16"),
        ({"free": 9_000_000_000}, "driver device", "warning", "9 GB free of 32 GB", "CUDA_VISIBLE_DEVICES"),
        ({"nccl": False, "major": 9}, "driver device", "wrong", "NCCL missing", "--force-reinstall torch"),
    ],
)  # fmt: skip
def test_gpus(
    tmp_path: Path, monkeypatch: Patch, shadow: Shadow,
    torch: dict[str, Any], files: str, level: str, evidence: str, remedy: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", torch.get("hidden", "0"))
    sound = {"cuda": "12.8", "count": 2, "nccl": True, "major": 7, "free": 32_000_000_000, "kernel": "pass"}
    shadow("torch", TORCH.format(**sound | torch))
    for kind, path, text in (("pci", "sys/bus/pci/devices/0/vendor", "0x10de\n"), ("device", "dev/nvidia0", ""),
                             ("driver", "proc/driver/nvidia/version", "NVRM  x86_64  550.54.14  Thu")):  # fmt: skip
        if kind in files:
            (tmp_path / path).parent.mkdir(parents=True)
            (tmp_path / path).write_text(text)
    assert_wrong(devices.gpus(tmp_path), evidence, remedy, level)


def test_gpus_without_torch(shadow: Shadow) -> None:
    shadow("torch", SEGFAULT)
    assert_wrong(devices.gpus(), "torch cannot be asked: the process died of SIGSEGV", "--force-reinstall torch")
    assert_wrong(network.handshake(), "torch cannot be imported", "--force-reinstall torch")
