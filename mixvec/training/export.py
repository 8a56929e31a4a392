"""The model of a run: its hub folder, with what the training cost."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from ..hub import save_folder
from .background import MOST, copied
from .checkpoint import RunState
from .run import Run


def training_facts(run: Run, state: RunState, data: str) -> dict[str, Any]:
    """The budget of a run, for ``config.json`` and the model card."""
    config, accelerator = run.config, run.accelerator
    return {
        "data": data,
        "updates": state.update,
        "batch_s": config.batch.update_s,
        "hours_seen": round(state.seconds_seen / 3600, 3),
        "wall_s": round(run.elapsed_s, 1),
        "device_hours": round(run.elapsed_s * accelerator.num_processes / 3600, 4),
        "energy_kwh": None if state.energy_j is None else round(state.energy_j / 3.6e6, 4),
        "devices": f"{accelerator.num_processes} x {accelerator.device.type}",
        "precision": accelerator.mixed_precision if accelerator.mixed_precision != "no" else "fp32",
        "seed": config.run.seed,
    }


def save_model(run: Run, model: nn.Module, facts: dict[str, Any]) -> None:
    """Write ``run.dir``/hub in the background, as the model is now; every rank calls this, the main rank writes.

    Raises:
        Exception: what went wrong in writing the one before, for which this waits.
    """
    if run.accelerator.is_main_process:
        run.writes.wait(left=MOST - 1)
        run.writes.add(partial(save_folder, model, run.dir / "hub", facts, copied(model.state_dict())))
