"""Energy drawn by GPUs, from the driver's own counter (NVML), where nvidia-ml-py is installed and the GPU has one."""

from __future__ import annotations

import math

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object


class Energy:
    """What the GPU of this rank draws from now on. Every rank makes one.

    The counter includes whatever else runs on the GPU, and nothing beside it: no processor, fan or power supply.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._gpu = accelerator.device if accelerator.device.type == "cuda" else None
        self._start_j = self._read_j()
        name = None if self._gpu is None else str(torch.cuda.get_device_properties(self._gpu).uuid)
        self._shared = name is not None and gather_object([name]).index(name) != accelerator.process_index

    def drawn_j(self) -> float:
        """Joules so far: NaN where the device has no counter, 0 where another rank counts the same GPU."""
        return 0.0 if self._shared else self._read_j() - self._start_j

    def _read_j(self) -> float:
        if self._gpu is None:
            return math.nan
        try:
            import pynvml

            pynvml.nvmlInit()
            uuid = f"GPU-{torch.cuda.get_device_properties(self._gpu).uuid}"
            return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(pynvml.nvmlDeviceGetHandleByUUID(uuid))) / 1e3
        except Exception:  # no library, no driver, or no counter: NVML has an exception for each
            return math.nan
