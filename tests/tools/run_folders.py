"""Run directories written by hand, as training leaves them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

HOSTILE = '<script>alert(1)</script>"><img src=x onerror=alert(1)> {{ 7*7 }} $\\frac{$ &amp; \u202e\x07'
"""Markup, a template, broken mathematics, an entity, and characters that cannot be seen."""


def lines(path: Path, rows: Iterable[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def pretraining(folder: Path, updates: int = 40, of: int = 40, name: str = "hours") -> Path:
    """A pretraining on units that logs every 10 updates, with a warning at 20 and an update left out at 30."""
    folder.mkdir(parents=True)
    config = {"size": "tiny", "objective": {"kind": "units"}, "data": {"train": name},
              "run": {"updates": of, "seed": 0, "dir": str(folder)}, "batch": {"update_s": 20.0}}  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    lines(folder / "metrics.jsonl", (
        {"update": update, "masked_loss": 4.5 - update / 20, "unit_entropy": 4.4, "masked_accuracy": update / 100,
         "majority_share": 0.03, "effective_rank": 10.0, "width": 128, "gradient_norm": None if update == 30 else 1.0,
         "lr": 1e-3, "hours_seen": update / 10, "audio_s_per_s": 200.0, "wait_share": 0.1, "memory_mb": 900.0,
         "energy_kwh": 0.01, "probe_layers": [0.1, 0.4, 0.3]}
        for update in range(10, updates + 1, 10)
    ))  # fmt: skip
    lines(folder / "warnings.jsonl", [{"update": 20, "name": "starved-loader", "text": "52% of the time"}] * 2)
    lines(folder / "nonfinite.jsonl", [{"update": 30, "utterances": []}])
    lines(folder / "sessions.jsonl", [{"update": 0, "machine": "a processor, 2 cores", "commit": "abc123", "ranks": 1,
                                       "data": {"data.train": {"utterances": 1234, "seconds": 7200.0}}}])  # fmt: skip
    return folder


def finetuning(
    folder: Path, task: str, score: float, pairs: list[tuple[Any, Any]], pretrained: str | None = None, seed: int = 0
) -> Path:
    """A complete fine-tuning with these references and predictions on its test data."""
    folder.mkdir(parents=True)
    name = "wer" if task == "asr" else "accuracy"
    config = {"task": task, "pretrained": pretrained, "best_by": "wer", "run": {"updates": 4, "seed": seed},
              "data": {"test": "nowhere"}}  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    lines(folder / "metrics.jsonl", [{"update": 4, "loss": 0.5, "hours_seen": 1.0, "seconds": 9.0},
                                     {"update": 4, f"valid_{name}": score}])  # fmt: skip
    (folder / "results.json").write_text(json.dumps({"task": task, "test": {name: score}}), encoding="utf-8")
    lines(folder / "test.jsonl", (
        {"source": f"gone/{number}.wav", "start_s": 0.0, "duration_s": 1.0 + number, "speaker": f"s{number % 2}",
         "reference": reference, "prediction": prediction}
        for number, (reference, prediction) in enumerate(pairs)
    ))  # fmt: skip
    return folder
