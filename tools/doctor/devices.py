"""GPUs: what the driver has, what torch is built for, and whether the two meet."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from .finding import Finding, probe, shown
from .packages import pip

LOOK = """
import json, torch
print("torch", flush=True)
cuda, facts = torch.cuda, {"built": torch.version.cuda or torch.version.hip, "nccl": "", "devices": [], "error": ""}
try:
    if not cuda.is_available():
        cuda.init()  # says why
    if torch.distributed.is_nccl_available():
        facts["nccl"] = ".".join(map(str, cuda.nccl.version()))
    for i in range(cuda.device_count()):
        about = cuda.get_device_properties(i)
        torch.ones(8, device=f"cuda:{i}").sum().item()
        free, total = cuda.mem_get_info(i)
        bf16 = bool(torch.version.hip) or about.major >= 8
        facts["devices"].append({"name": about.name, "free": free, "total": total, "bf16": bf16})
except Exception as error:
    facts["error"] = (str(error).strip().splitlines() or [type(error).__name__])[0]
print(json.dumps(facts))
"""


def gpus(root: Path = Path("/")) -> Finding:
    """``root`` is where /proc, /dev and /sys are."""
    answer, failure = probe(LOOK)
    if failure and answer == "torch":
        return Finding("wrong", f"CUDA does not answer: {failure}", "nvidia-smi, and where that hangs too: sudo reboot")
    if failure:
        return Finding("wrong", f"torch cannot be asked: {failure}", pip("--force-reinstall", "torch"))
    facts: dict[str, Any] = json.loads(answer)
    driver = driver_version(root)
    if facts["devices"] and not facts["error"]:
        return of_devices(facts, driver)
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if driver is None:
        vendors = [path.read_text().strip() for path in root.glob("sys/bus/pci/devices/*/vendor")]
        if "0x10de" in vendors:
            return Finding("warning", "NVIDIA hardware, and no driver is loaded", "sudo ubuntu-drivers install")
        return Finding("ok", "none: runs are on the CPU")
    if facts["built"] is None:
        evidence = f"driver {driver}, and a torch that is built for the CPU alone"
        return Finding("wrong", evidence, pip("--force-reinstall", "torch", "torchaudio"))
    if hidden is not None and not re.match(r"\d|GPU|MIG", hidden):
        return Finding("warning", f"CUDA_VISIBLE_DEVICES={hidden!r} hides them", "unset CUDA_VISIBLE_DEVICES")
    if not any(root.glob("dev/nvidia[0-9]*")):
        return Finding(
            "wrong", f"driver {driver}, and no /dev/nvidia0: a container without them", "docker run --gpus all"
        )
    evidence = f"driver {driver}, torch for CUDA {facts['built']}: {facts['error'] or 'no device answers'}"
    return Finding("wrong", evidence, f"nvidia-smi, then update the driver to one for CUDA {facts['built']} or newer")


def of_devices(facts: dict[str, Any], driver: str | None) -> Finding:
    devices = facts["devices"]
    names = [
        f"{d['name']} {shown(d['free'])} free of {shown(d['total'])}{'' if d['bf16'] else ' without bf16'}"
        for d in devices
    ]
    evidence = f"{'; '.join(names)}; driver {driver or 'unknown'}, torch for {facts['built']}"
    evidence += f", NCCL {facts['nccl'] or 'missing'}"
    if not facts["nccl"] and len(devices) > 1:
        return Finding("wrong", evidence, pip("--force-reinstall", "torch"))
    if any(d["free"] < 0.9 * d["total"] for d in devices):
        return Finding("warning", evidence, "nvidia-smi (says who uses them; CUDA_VISIBLE_DEVICES chooses others)")
    if not all(d["bf16"] for d in devices):
        return Finding("warning", evidence, "run.precision=fp16 (run.precision=auto takes fp32 there)")
    return Finding("ok", evidence)


def driver_version(root: Path) -> str | None:
    """Of the NVIDIA driver that the kernel has loaded; None where it has none."""
    path = root / "proc/driver/nvidia/version"
    if not path.is_file():
        return None
    found = re.search(r"\b\d{3}\.\d[\d.]*", path.read_text())
    return found[0] if found else "of an unknown version"
