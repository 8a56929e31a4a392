"""Energy, where the device tells it: a GPU's counter through NVML, a processor's through Linux's powercap (RAPL).

Either counts all that the device draws, whoever makes it work, and nothing beside it: no disk, fan or power supply.
GPUs tell it from Volta on. A processor's counter is as a rule for root alone.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

POWERCAP = Path("/sys/class/powercap")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Counter(NamedTuple):
    """A number of joules that only grows, until it reaches ``range_j`` and begins again at 0."""

    read_j: Callable[[], float]
    range_j: float = math.inf


class Energy:
    """What the device of this rank draws from now on. Every rank makes one."""

    def __init__(self, accelerator: Accelerator) -> None:
        device = accelerator.device
        name, self._counters = _gpu(device) if device.type == "cuda" else _processor()
        self._drawn_j = 0.0 if self._counters else math.nan
        if gather_object([name]).index(name) != accelerator.process_index:
            self._counters = []  # it is another rank's device too, which counts it
        self._seen_j: list[float] = []
        self._look(self._counters)

    def follow(self) -> None:
        """Look at the counters that run over; every few minutes is enough."""
        if any(math.isfinite(counter.range_j) for counter in self._counters):
            self._look(self._counters)

    def drawn_j(self) -> float:
        """Joules so far: NaN where the device does not tell, 0 where another rank counts it."""
        self._look(self._counters)
        return self._drawn_j

    def _look(self, counters: list[Counter]) -> None:
        try:
            now_j = [counter.read_j() for counter in counters]
        except (OSError, ValueError):
            self._counters, self._drawn_j = [], math.nan
            return
        for counter, before_j, after_j in zip(counters, self._seen_j, now_j, strict=False):  # none before the first
            self._drawn_j += after_j - before_j + (counter.range_j if after_j < before_j else 0.0)
        self._seen_j = now_j


def _processor() -> tuple[str, list[Counter]]:
    """This machine's name, and its processors' packages; a package counts what lies in it."""
    zones = [zone for zone in sorted(POWERCAP.glob("intel-rapl:*")) if _text(zone / "name").startswith("package")]
    counters = [Counter(lambda file=zone / "energy_uj": int(_text(file)) / 1e6,  # type: ignore[misc]
                        int(_text(zone / "max_energy_range_uj") or 0) / 1e6) for zone in zones]  # fmt: skip
    return _text(BOOT_ID), counters


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def _gpu(device: torch.device) -> tuple[str, list[Counter]]:
    """The device's name, and its counter (nvmlDeviceGetTotalEnergyConsumption, in mJ) where it has one."""
    name = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return name, []
    handle, millijoules = ctypes.c_void_p(), ctypes.c_ulonglong()

    def read_j() -> float:
        if library.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(millijoules)):
            raise OSError(f"{name} does not tell what it draws")
        return millijoules.value / 1e3

    known = not library.nvmlInit_v2() and not library.nvmlDeviceGetHandleByUUID(name.encode(), ctypes.byref(handle))
    return name, [Counter(read_j)] if known else []
