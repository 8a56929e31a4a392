"""Everything a run needs to go on exactly: safetensors and JSON, written whole, never pickled.

checkpoints/update_00001000/
    model.safetensors      weights
    optimizer.safetensors  AdamW's moments and step counts, by parameter number
    rng.safetensors        each rank's generators
    state.json             ``RunState``, the loss scaler
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mixvec import UserError
from mixvec.atomic import save_tensors, whole_folder
from mixvec.hub import load_tensors, read_tensors


@dataclass
class RunState:
    """Where a run stands: all there is to resume beside weights, optimizer and generators."""

    update: int = 0
    epoch: int = 0
    position: int = 0
    """The next update within the epoch."""
    seconds_seen: float = 0.0
    wall_s: float = 0.0
    skipped_updates: int = 0
    """Updates left out because the gradient was not finite, in a row."""
    best: float | None = None
    """The best validation score so far, and where it was."""
    best_update: int = 0


def newest(folder: Path) -> Path | None:
    """The newest complete checkpoint below ``folder``, or None."""
    found = sorted(p for p in folder.glob("update_*") if (p / "state.json").is_file())
    return found[-1] if found else None


def save(folder: Path, state: RunState, model: nn.Module, optimizer: Any, accelerator: Accelerator, keep: int) -> None:
    """Write a checkpoint and drop all but the ``keep`` newest. Every rank calls this."""
    generators: list[dict[str, Tensor]] = gather_object([_generators()])
    if not accelerator.is_main_process:
        return
    moments = {
        f"{number}.{name}": value
        for number, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
    }
    scaler = accelerator.scaler.state_dict() if accelerator.scaler is not None else None
    with whole_folder(folder / f"update_{state.update:08d}") as new:
        save_tensors(model.state_dict(), new / "model.safetensors")
        save_tensors(moments, new / "optimizer.safetensors")
        flat = {f"{rank}.{name}": t for rank, own in enumerate(generators) for name, t in own.items()}
        save_tensors(flat, new / "rng.safetensors")
        (new / "state.json").write_text(json.dumps({"state": asdict(state), "scaler": scaler}, indent=2))
    for old in sorted(folder.glob("update_*"))[:-keep]:
        shutil.rmtree(old)


def load(path: Path, model: nn.Module, optimizer: Any, accelerator: Accelerator) -> RunState:
    """Put a checkpoint back, everywhere, and return where the run stands. Every rank calls this.

    Raises:
        UserError: the checkpoint is damaged or of another model; it names the file.
    """
    try:
        saved = json.loads((path / "state.json").read_text())
        state = RunState(**saved["state"])
        moments, generators = load_file(path / "optimizer.safetensors"), load_file(path / "rng.safetensors")
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(
            f"{path}: damaged checkpoint ({error}); remove that folder to go on from the one before"
        ) from error
    load_tensors(model, read_tensors(path), path)
    entries: dict[int, dict[str, Tensor]] = {}
    for key, value in moments.items():
        number, name = key.split(".", 1)
        entries.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": entries, "param_groups": optimizer.state_dict()["param_groups"]})
    if saved["scaler"] and accelerator.scaler is not None:
        accelerator.scaler.load_state_dict(saved["scaler"])
    own = f"{accelerator.process_index}."
    if any(key.startswith(own) for key in generators):  # a rank that was not there before keeps its fresh seed
        _restore({key.removeprefix(own): t for key, t in generators.items() if key.startswith(own)})
    return state


def _generators() -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _restore(states: dict[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
