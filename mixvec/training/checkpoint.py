"""Everything a run needs to resume exactly: safetensors and JSON, written whole, never pickled.

checkpoints/update_00001000/
    model.safetensors      weights
    optimizer.safetensors  AdamW's moments and step counts, by parameter number
    rng.safetensors        each rank's generators: Python's, NumPy's, torch's
    state.json             ``RunState``, the number of ranks, the loss scaler
    manifest.json          size and SHA-256 of each of these, written last

One that is not as its manifest says is never loaded: ``newest`` names it and takes the one before.
"""

from __future__ import annotations

import json
import math
import random
import shutil
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..atomic import save_tensors, whole_folder
from ..data.fingerprint import fingerprint_changes
from ..errors import UserError
from ..hub import load_tensors, read_tensors
from .background import MOST, Background, copied
from .config import RunConfig
from .manifest import damage, write_manifest


@dataclass
class RunState:
    """Where a run is: all there is to resume beside weights, optimizer and generators."""

    update: int = 0
    place: Any = None
    """Where this rank's data continues (``UpdateSource.start``); None at the beginning."""
    data: dict[str, Any] = field(default_factory=dict)
    """Fingerprints of the training data, labels and vocabulary, by name."""
    seconds_seen: float = 0.0
    wall_s: float = 0.0
    energy_j: float | None = 0.0
    """Drawn by the GPUs of all ranks; None where some GPU, in some session, had no counter."""
    skipped_updates: int = 0
    """Updates left out because the loss or the gradient was not finite, in a row."""
    grad_norms: list[float] = field(default_factory=list)
    """The last gradient norms, at most a hundred, excluding outliers (``optim.is_outlier``)."""
    outlier_updates: int = 0
    """Updates in a row with an outlying gradient norm."""
    outlier_windows: int = 0
    """Log lines in a row with an outlying gradient norm."""
    best: float | None = None
    """The best validation score so far."""
    best_tie: float | None = None
    """The score that decides between two checkpoints with that score (``LabelledTask.tie_name``)."""
    best_update: int = 0
    best_loss: float | None = None
    """Mean training loss at the log line before the best score."""
    loss: float | None = None
    """Mean training loss at the last log line."""


def fingerprints(path: Path) -> dict[str, Any]:
    """The fingerprints of the data that a checkpoint was trained on; empty where it has none or cannot be read."""
    try:
        found: dict[str, Any] = json.loads((path / "state.json").read_text())["state"].get("data", {})
    except (OSError, ValueError, KeyError, AttributeError):
        return {}  # which ``load`` reports
    return found


def data_changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two sets of fingerprints, in words; what either has no fingerprint of is accepted."""
    shared = [name for name in before if name in now]
    return [f"{name}: {change}" for name in shared for change in fingerprint_changes(before[name], now[name])]


def next_epoch(place: Any) -> Any:
    """The place from which to continue in a new epoch on other data."""
    if isinstance(place, list):  # of a plan: epoch and update
        return [place[0] + 1, 0]
    if isinstance(place, dict):  # of a stream: each source's epoch, shard, row and number of shards
        return {**place, "sources": [[at[0] + 1, 0, 0, 0] for at in place["sources"]], "update": 0}
    return place


def listed(folder: Path) -> list[Path]:
    """The checkpoints below ``folder``, the oldest first, whole or not."""
    return sorted(folder.glob("update_*"))


def newest(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest whole checkpoint below ``folder``, and a line on each damaged one after it; None where there is none.

    The damaged ones are renamed ``damaged_...``, and removed when the next checkpoint is whole.

    Raises:
        UserError: there are checkpoints, and each is damaged; the line says in what, and what to do.
    """
    found = listed(folder)
    lines: list[str] = []
    bad: list[Path] = []
    for path in reversed(found):
        wrong = damage(path)
        if wrong is None:
            for damaged in bad:
                aside = damaged.with_name(f"damaged_{damaged.name}")
                shutil.rmtree(aside, ignore_errors=True)
                damaged.rename(aside)
            return path, lines
        bad.append(path)
        lines.append(f"{path}: {wrong}; resuming from the one before")
    if found:
        first = lines[0].removesuffix("; resuming from the one before")
        raise UserError(
            f"no checkpoint is whole ({len(found)} tried). The newest, {first}. Put whole ones in place from a "
            f"copy, or remove {folder} to start anew"
        )
    return None, []


def save(
    folder: Path,
    state: RunState,
    model: nn.Module,
    optimizer: Any,
    accelerator: Accelerator,
    run: RunConfig,
    background: Background,
) -> None:
    """Copy all that a checkpoint holds, and have it written. Every rank calls this.

    Of those before it, the ``run.keep`` newest and every ``run.keep_every``-th are kept once it is whole.

    Raises:
        Exception: what went wrong in writing the one before, for which this waits.
    """
    generators: list[dict[str, Tensor]] = gather_object([_generators()])
    places: list[Any] = gather_object([state.place])
    if not accelerator.is_main_process:
        return
    background.wait(left=MOST - 1)
    moments = {
        f"{number}.{name}": value
        for number, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
    }
    flat = {f"{rank}.{name}": t for rank, own in enumerate(generators) for name, t in own.items()}
    tensors = {"model": copied(model.state_dict()), "optimizer": copied(moments), "rng": flat}
    scaler = accelerator.scaler.state_dict() if accelerator.scaler is not None else None
    about = {"state": asdict(state), "ranks": accelerator.num_processes, "places": places, "scaler": scaler}
    background.add(partial(_write, folder, f"update_{state.update:08d}", tensors, json.dumps(about, indent=2), run))


def _write(folder: Path, name: str, tensors: dict[str, dict[str, Tensor]], about: str, run: RunConfig) -> None:
    with whole_folder(folder / name) as new:
        for file, content in tensors.items():
            save_tensors(content, new / f"{file}.safetensors")
        (new / "state.json").write_text(about)
        write_manifest(new)
    for old in listed(folder)[: -run.keep]:
        if not (run.keep_every and int(old.name.removeprefix("update_")) % run.keep_every == 0):
            old.rename(folder / f".{old.name}.old")  # else a kill could leave a part of it under its name
    for pattern in ("damaged_update_*", ".update_*"):  # the second: and of a process killed while it saved
        for left in folder.glob(pattern):
            shutil.rmtree(left)


def load(path: Path, model: nn.Module, optimizer: Any, accelerator: Accelerator) -> tuple[RunState, int]:
    """Put a checkpoint that ``newest`` found back, everywhere. Every rank calls this.

    Returns:
        where the run stands, and the number of ranks that it had.

    Raises:
        UserError: the checkpoint is of another model or another version; it names the file.
    """
    try:
        saved = json.loads((path / "state.json").read_text())
        state, ranks, places = RunState(**saved["state"]), int(saved["ranks"]), list(saved["places"])
        moments, generators = load_file(path / "optimizer.safetensors"), load_file(path / "rng.safetensors")
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(
            f"{path}: not a checkpoint of this version of mixvec ({error}); choose another run.dir"
        ) from error
    state.place = places[min(accelerator.process_index, ranks - 1)]  # in a plan they are alike, and ranks may be more
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
    return state, ranks


def _generators() -> dict[str, Tensor]:
    """The state of every generator of this process, as tensors."""
    kind, words, normal = random.getstate()
    legacy: Any = np.random.get_state(legacy=False)
    states = {
        "python": torch.tensor([kind, *words]),
        "python_normal": torch.tensor([math.nan if normal is None else normal], dtype=torch.float64),
        "numpy": torch.from_numpy(legacy["state"]["key"].astype(np.int64)),
        "numpy_position": torch.tensor([legacy["state"]["pos"], legacy["has_gauss"]]),
        "numpy_normal": torch.tensor([legacy["gauss"]], dtype=torch.float64),
        "cpu": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _restore(states: dict[str, Tensor]) -> None:
    kind, *words = states["python"].tolist()
    normal = float(states["python_normal"])
    random.setstate((kind, tuple(words), None if math.isnan(normal) else normal))
    position, has_normal = states["numpy_position"].tolist()
    words_of_numpy = states["numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", words_of_numpy, position, has_normal, float(states["numpy_normal"])))
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
