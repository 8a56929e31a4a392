"""How much memory a process takes, at most, beyond what it had before the work; and how much it may take."""

from __future__ import annotations

import ctypes
import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch

MB = 2**20
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
HEADROOM = 0.9
"""The share of the memory that is free which a turn on the CPU may take; the rest keeps the machine alive."""


class Meter:
    """Peak memory in MB since ``restart``: of the device's allocator, or resident beyond what it was at first.

    Linux keeps a high-water mark per process and can set it back. Elsewhere there is ``ru_maxrss`` alone, which cannot
    be set back, so that building the system counts too.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        if device == "cpu":
            _touch()
            self.base = _resident("VmRSS")

    def restart(self) -> None:
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            return
        with suppress(OSError):
            CLEAR.write_text("5")

    def peak_mb(self) -> float:
        if self.device == "cuda":
            return torch.cuda.max_memory_allocated() / MB
        return max(0.0, _resident("VmHWM") - self.base) / MB  # a toy may fit into what the imports have freed


def release(device: str) -> None:
    """Give back what the allocator keeps, so that the systems which wait leave room for the one at work."""
    if device == "cuda":
        torch.cuda.empty_cache()
    elif sys.platform == "linux":
        with suppress(OSError, AttributeError):  # a C library other than glibc
            ctypes.CDLL("libc.so.6").malloc_trim(0)


def limit(device: str) -> None:
    """Make an allocation fail where it would take the machine's last memory, before the kernel kills some process.

    Linux and the CPU only; a device's allocator fails by itself.
    """
    if device == "cpu" and sys.platform == "linux":
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (_resident("VmData") + int(HEADROOM * free_bytes()), hard))


def free_bytes() -> int:
    """What the machine, or this process's control group, has left."""
    found = [_field(Path("/proc/meminfo"), "MemAvailable")]
    group = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError):  # not in a group of the second version, or without a limit ("max")
        found.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return min(found)


def _resident(name: str) -> int:
    """Bytes."""
    if STATUS.exists():
        return _field(STATUS, name)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _field(path: Path, name: str) -> int:
    line = next(line for line in path.read_text().splitlines() if line.startswith(name + ":"))
    return int(line.split()[1]) * 1024


def _touch() -> None:
    """Run the common kernels once: their code becomes resident before the base is taken, not in the first turn."""
    x = torch.randn(2, 64, 64, requires_grad=True)
    x = torch.nn.functional.layer_norm(x @ x.transpose(1, 2), (64,)).softmax(-1)
    x = torch.nn.functional.conv1d(x, torch.randn(64, 64, 3, requires_grad=True))
    torch.nn.functional.gelu(x).sum().backward()
