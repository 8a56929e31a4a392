"""What a checkpoint of a pretraining costs, with the model folder that is written with it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from accelerate import Accelerator
from torch.optim import AdamW

from mixvec.hub import save_folder
from mixvec.training.background import Background, copied
from mixvec.training.checkpoint import RunState, load, newest, save
from mixvec.training.config import RunConfig

from .measure import Work
from .ours import load as load_yaml
from .ours import training


class Kept(Background):
    """Keeps the last work that it is given, and does not do it."""

    def __init__(self) -> None:
        super().__init__()
        self.work: Callable[[], object] = lambda: None

    def add(self, work: Callable[[], object]) -> None:
        self.work = work


def checkpoint(keys: Sequence[str], part: Literal["save", "write", "load"], device: str) -> Work:
    """One part of a checkpoint: the copy that training waits for, the writing, or loading it again."""
    built, loss = training(load_yaml("base", keys), 2, 2.0, device)
    model: Any = built
    optimizer = AdamW(model.parameters(), 1e-5)
    loss().backward()  # type: ignore[no-untyped-call]
    optimizer.step()  # which makes the moments
    optimizer.zero_grad()
    accelerator, kept = Accelerator(cpu=device == "cpu"), Kept()
    folder = tempfile.TemporaryDirectory(prefix="mixvec-bench-")  # gone with the last of the functions that name it

    def copy() -> Any:
        weights = copied(model.encoder.state_dict())
        save(Path(folder.name) / "checkpoints", RunState(update=1), model, optimizer, accelerator, RunConfig(), kept)
        return weights

    def write() -> None:
        save_folder(model.encoder, Path(folder.name) / "hub", {}, weights)
        kept.work()

    def resume() -> None:
        found, _ = newest(Path(folder.name) / "checkpoints")
        assert found is not None
        load(found, model, optimizer, accelerator)

    weights = copy()
    write()
    size = sum(path.stat().st_size for path in Path(folder.name, "checkpoints").rglob("*") if path.is_file())
    steps: dict[str, Callable[[], Any]] = {"save": copy, "write": write, "load": resume}
    return Work(steps[part], f"{size / 1e6:,.0f} MB; every {RunConfig().save_every:,} updates by default")
