"""Running the training commands in tests: tiny, inside this process or in one of their own."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from safetensors.torch import load_file
from torch import Tensor

from finetune.config import FinetuneConfig
from finetune.train import train as finetune_train
from mixvec.training.checkpoint import BACKGROUND
from mixvec.training.config import load_config
from pretrain.config import PretrainConfig
from pretrain.objectives.base import Step
from pretrain.objectives.contrastive import Contrastive
from pretrain.train import train as pretrain_train
from tests import prepared

ROOT = Path(__file__).resolve().parent.parent
SMALLEST = [
    "encoder.dim=32", "encoder.num_layers=2", "encoder.ffn_dim=64", "encoder.conv_channels=32", "encoder.heads=4",
]  # fmt: skip
QUICK = [
    "size=tiny", *SMALLEST, "optim.lr=3e-3", "optim.clip_norm=10", "data.workers=0", "run.log_every=1",
    "batch.update_s=20", "batch.max_s=20", "data.max_s=5", "objective.mask_span_frames=5",
]  # fmt: skip
PRETRAIN = [*QUICK, "objective.kind=contrastive", "objective.entries=16", "objective.code_dim=32"]
UNITS = [*QUICK, "objective.kind=units", "objective.units=[12]", "objective.sample_s=30"]
FINETUNE = ["data.workers=0", "run.log_every=1", "batch.update_s=10", "run.precision=fp32"]


def pretrain(corpus: Path, run: Path, *keys: str, base: Sequence[str] = PRETRAIN) -> int:
    """``python -m pretrain`` in this process; its exit code."""
    fresh()
    arguments = [*base, f"data.train={corpus}/unlabelled", f"run.dir={run}", *keys]
    with written():
        return pretrain_train(load_config(PretrainConfig, arguments, ""))


def finetune(task: str, corpus: Path, run: Path, *keys: str) -> int:
    """``python -m finetune`` in this process; its exit code."""
    fresh()
    data = [f"data.{ours}={corpus}/{task}/{split}" for ours, split in (("train", "train"), ("valid", "validation"))]
    arguments = [str(ROOT / f"configs/{task}.yaml"), *data, f"run.dir={run}", *FINETUNE, *keys]
    with written():
        return finetune_train(load_config(FinetuneConfig, arguments, ""))


@contextmanager
def written() -> Iterator[None]:
    """A run that ends in an error leaves its last checkpoint to a thread, which a process that ends waits for."""
    try:
        yield
    finally:
        for thread in threading.enumerate():
            if thread.name == BACKGROUND:
                thread.join()


def in_forward(patch: pytest.MonkeyPatch, *updates: int, do: Callable[[Step], Any]) -> None:
    """Let ``do`` replace what the objective returns in these updates (each one micro-batch), or raise."""
    forward, calls = Contrastive.forward, []

    def patched(self: Contrastive, *rest: Any) -> Step:
        calls.append(1)
        step = forward(self, *rest)
        return do(step) or step if len(calls) in updates else step

    patch.setattr(Contrastive, "forward", patched)


def fresh() -> None:
    """Accelerate keeps its state for the process; every run here starts without."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def command(*arguments: str, ranks: int = 1, **environment: str) -> subprocess.CompletedProcess[str]:
    """``python -m ...`` in a process of its own; with more than one rank, as torchrun starts them."""
    return prepared.run(arguments, ranks, **environment)


def weights(run: Path) -> dict[str, Tensor]:
    """The weights of a run's newest checkpoint."""
    return load_file(max((run / "checkpoints").glob("update_*")) / "model.safetensors")


def rows(run: Path) -> list[dict[str, Any]]:
    """metrics.jsonl"""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def largest_difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def identical(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
