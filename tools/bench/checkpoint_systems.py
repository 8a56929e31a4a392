"""What a checkpoint costs a pretraining, and the model folder that is written with it.

``saving`` is what the training waits for: all that there is to save is copied. ``written behind it`` is done while it
goes on: files, checksums, and the wait for the disk. ``going on`` is done once, when a run starts again: the newest
checkpoint is checked, byte for byte, and loaded.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.optim import AdamW

from mixvec.hub import save_folder
from mixvec.training.background import Background, copied
from mixvec.training.checkpoint import RunState, load, newest, save
from mixvec.training.config import RunConfig

from .cases import Case, Work
from .ours import training


class Kept(Background):
    """Keeps what is to be written, and does not write it."""

    def __init__(self) -> None:
        super().__init__()
        self.work: Callable[[], object] = lambda: None

    def add(self, work: Callable[[], object]) -> None:
        self.work = work


def checkpoint(case: Case, variant: str) -> Work:
    """One checkpoint, with the model folder that goes with it, by what ``variant`` does of it."""
    model, _ = training(case, "summary")
    optimizer = AdamW(model.parameters(), 1e-5)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # which makes the moments
    optimizer.zero_grad()
    accelerator, kept = Accelerator(cpu=case.device == "cpu"), Kept()
    folder = tempfile.TemporaryDirectory(prefix="mixvec-bench-")  # gone with the last of the functions that name it

    def copy() -> dict[str, Any]:
        encoder = copied(model.encoder.state_dict())
        save(Path(folder.name) / "checkpoints", RunState(update=1), model, optimizer, accelerator, RunConfig(), kept)
        return encoder

    def write(encoder: dict[str, Any]) -> None:
        save_folder(model.encoder, Path(folder.name) / "hub", {}, encoder)
        kept.work()

    def go_on() -> None:
        found, _ = newest(Path(folder.name) / "checkpoints")
        assert found is not None
        load(found, model, optimizer, accelerator)

    write(encoder := copy())
    size = sum(path.stat().st_size for path in Path(folder.name, "checkpoints").rglob("*") if path.is_file())
    steps = {"save": copy, "write": partial(write, encoder), "resume": go_on}
    return Work(steps[variant], f"{size / 1e6:,.0f} MB; every {RunConfig().save_every:,} updates as a rule")
