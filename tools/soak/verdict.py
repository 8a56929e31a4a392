"""Whether two runs ended alike, bit for bit; and the table."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from .plan import KINDS
from .session import half_written

TIMES = {"audio_s_per_s", "seconds_left", "wait_share", "memory_mb", "seconds", "wall_s", "energy_j", "energy_kwh"}
"""What says how long it took and what it drew, in metrics.jsonl, state.json and the model's facts; it may differ."""


def compare(alone: Path, struck: Path, updates: int) -> tuple[float, list[str]]:
    """The largest difference of any number of the final weights and training state; and a line for all that differs."""
    checkpoint, largest, wrong = f"checkpoints/update_{updates:08d}", 0.0, []
    tensors = [f"{checkpoint}/{name}.safetensors" for name in ("model", "optimizer", "rng")]
    for name in [*tensors, "hub/model.safetensors"]:
        apart, differ = _apart(alone / name, struck / name)
        largest = max(largest, apart)
        wrong += [f"{name}: {', '.join(differ[:3])} differ by up to {apart:g}"] if differ else []
    for name in (f"{checkpoint}/state.json", "metrics.jsonl", "hub/config.json", "results.json", "skipped.jsonl"):
        wrong += [f"{name}: {line}" for line in _different(_rows(alone / name), _rows(struck / name))[:3]]
    card, other = ((run / "hub/README.md").read_text().splitlines() for run in (alone, struck))
    unlike = [line for line in {*card} ^ {*other} if not line.startswith("| wall time")]
    wrong += [f"hub/README.md: {unlike[0]}"] if unlike else []
    left = sorted(path.name for path in half_written(struck))
    return largest, wrong + ([f"left half-written at the end: {', '.join(left)}"] if left else [])


def _apart(one: Path, other: Path) -> tuple[float, list[str]]:
    """The largest difference of two files of tensors, and the names of those that are not the same bits."""
    a, b = load_file(one), load_file(other)
    differ = [name for name in sorted({*a} | {*b}) if name not in a or name not in b or not _same(a[name], b[name])]
    comparable = [n for n in differ if n in a and n in b and a[n].shape == b[n].shape]
    if len(comparable) < len(differ):
        return math.inf, differ
    return max((float((a[n].double() - b[n].double()).abs().max()) for n in comparable), default=0.0), differ


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(_bytes(a), _bytes(b))


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _rows(path: Path) -> list[dict[str, Any]]:
    """The values of a .json (one) or .jsonl (many), without times and places; none where there is no such file."""
    if not path.exists():
        return []
    texts = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    return [_flat(json.loads(text)) for text in texts]


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, entry in value.items():
        if key not in TIMES | {"pretrained"}:
            found |= _flat(entry, f"{prefix}{key}.") if isinstance(entry, dict) else {prefix + key: entry}
    return found


def _different(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> list[str]:
    found = [] if len(a) == len(b) else [f"{len(b)} rows instead of {len(a)}"]
    for row, (x, y) in enumerate(zip(a, b, strict=False), start=1):
        pairs = {key: (x.get(key, "missing"), y.get(key, "missing")) for key in {**x, **y}}
        found += [
            f"{f'row {row}: ' * (len(a) > 1)}{key} is {theirs} instead of {ours}"
            for key, (ours, theirs) in pairs.items()
            if ours != theirs
        ]
    return found


def table(records: list[dict[str, Any]], left_out: dict[str, str]) -> str:
    """A line per kind of fault."""
    head = f"{'fault':<50}{'injected':>9}{'restarts':>9}{'redone: mean':>14}{'max':>5}{'s to end: mean':>16}{'max':>7}"
    lines = ["", head, "-" * len(head)]
    for kind, words in [*KINDS.items(), ("", "all")]:
        own = [r for r in records if kind in ("", r["kind"])]
        if kind in left_out:
            lines.append(f"{words:<50}left out: {left_out[kind]}")
        if not own:
            continue
        redone, restarts, seconds = ([r[key] for r in own] for key in ("redone", "restarts", "seconds_to_end"))
        lines.append(f"{words:<50}{len(own):>9}{sum(restarts):>9}{statistics.mean(redone):>14.1f}{max(redone):>5}"
                     f"{statistics.mean(seconds):>16.1f}{max(seconds):>7.1f}")  # fmt: skip
    return "\n".join(lines)
