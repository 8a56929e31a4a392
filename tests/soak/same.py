"""Whether two run directories ended alike, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from .session import half_written

TIMES = {"audio_s_per_s", "seconds_left", "wait_share", "memory_mb", "seconds", "wall_s", "energy_j", "energy_kwh"}
"""Keys that hold how long a run took and what it drew; they may differ."""


def differences(alone: Path, struck: Path, updates: int) -> list[str]:
    """A line for everything that differs in the final weights, the training state, the logs and the scores."""
    checkpoint, wrong = f"checkpoints/update_{updates:08d}", []
    tensors = [f"{checkpoint}/{name}.safetensors" for name in ("model", "optimizer", "rng")]
    for name in [*tensors, "hub/model.safetensors"]:
        a, b = load_file(alone / name), load_file(struck / name)
        apart = [key for key in sorted({*a} | {*b}) if key not in a or key not in b or not _same(a[key], b[key])]
        wrong += [f"{name}: {', '.join(apart[:3])}"] if apart else []
    for name in (f"{checkpoint}/state.json", "metrics.jsonl", "hub/config.json", "results.json", "skipped.jsonl"):
        a, b = _rows(alone / name), _rows(struck / name)
        wrong += [f"{name}: {len(b)} rows instead of {len(a)}"] if len(a) != len(b) else []
        wrong += [f"{name}: {x} and {y}" for x, y in zip(a, b, strict=False) if x != y][:3]
    return wrong + [f"half-written: {path.name}" for path in sorted(half_written(struck))]


def _same(a: Tensor, b: Tensor) -> bool:
    bits = [tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (a, b)]
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(*bits)


def _rows(path: Path) -> list[dict[str, Any]]:
    """The values of a .json (one) or .jsonl (many), without times and names of folders; [] without the file."""
    if not path.exists():
        return []
    texts = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    return [_timeless(json.loads(text)) for text in texts]


def _timeless(value: dict[str, Any]) -> dict[str, Any]:
    return {key: _timeless(entry) if isinstance(entry, dict) else entry for key, entry in value.items()
            if key not in TIMES | {"pretrained"}}  # fmt: skip
