"""Everything a run needs to resume exactly, in safetensors and JSON.

checkpoints/update_00001000/
    model.safetensors      weights
    optimizer.safetensors  AdamW's moments and step counts, by parameter number
    rng.safetensors        each rank's generators: torch's, and Python's and NumPy's as JSON
    state.json             ``RunState``, the number of ranks, the loss scaler
    manifest.json          size and SHA-256 of each of these, written last

One that differs from its manifest is never loaded: ``newest`` names it and takes the one before.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors.torch import load_file
from torch import Tensor, nn

from ..atomic import save_tensors, whole_folder
from ..errors import UserError
from ..folder import sha256
from ..hub import load_tensors, read_tensors
from .config import RunConfig

MANIFEST = "manifest.json"
BACKGROUND = "mixvec-background"  # of the threads
MOST = 2  # things under way at a time: a checkpoint and the model that goes with it; more would fill the memory


@dataclass
class RunState:
    """Where a run is: all there is to resume beside weights, optimizer and generators."""

    update: int = 0
    place: Any = None  # where this rank's data continues (``UpdateSource.start``); None at the beginning
    data: dict[str, Any] = field(default_factory=dict)  # fingerprints of the data, labels and vocabulary, by name
    seconds_seen: float = 0.0
    wall_s: float = 0.0
    energy_j: float | None = 0.0  # drawn by the GPUs of all ranks; None where some GPU, in some session, had no counter
    skipped_updates: int = 0  # updates left out, in a row, because the loss or the gradient was not finite
    grad_norms: list[float] = field(default_factory=list)  # the last hundred, without outliers (``optim.is_outlier``)
    outlier_updates: int = 0  # updates in a row with an outlying gradient norm
    outlier_windows: int = 0  # log lines in a row with an outlying gradient norm
    best: float | None = None  # the best validation score so far
    best_tie: float | None = None  # the score that decides between two checkpoints with that score
    best_update: int = 0
    best_loss: float | None = None  # mean training loss at the log line before the best score
    loss: float | None = None  # mean training loss at the last log line


class Background:
    """Work that is done in order while training continues. A process that ends waits for it, unless it is killed."""

    def __init__(self) -> None:
        self._threads: list[Thread] = []
        self._error: BaseException | None = None

    def add(self, work: Callable[[], object]) -> None:
        """Let ``work`` be done after all that was added before, and not at all where any of that failed."""
        before = self._threads[-1] if self._threads else None
        self._threads.append(Thread(target=self._do, args=(before, work), name=BACKGROUND))
        self._threads[-1].start()

    def wait(self, left: int = 0) -> None:
        """Wait until at most ``left`` things are under way, and raise the error of any that has failed."""
        while len(self._threads) > left:
            self._threads.pop(0).join()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _do(self, before: Thread | None, work: Callable[[], object]) -> None:
        if before is not None:
            before.join()
        if self._error is None:
            try:
                work()
            except BaseException as error:  # whatever it is, it is raised where the training runs
                self._error = error


def copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as they are now, on the CPU, whatever is done to them later."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}


def listed(folder: Path) -> list[Path]:
    """The checkpoints below ``folder``, the oldest first, complete or not."""
    return sorted(folder.glob("update_*"))


def newest(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest complete checkpoint, or None, and a line on each damaged one after it.

    Those are renamed ``damaged_...``, and removed when the next checkpoint is complete.

    Raises:
        UserError: there are checkpoints, and each is damaged; the line names the damage and what to do.
    """
    bad: dict[Path, str] = {}
    for path in reversed(listed(folder)):
        if wrong := damage(path):
            bad[path] = f"{path}: {wrong}"
            continue
        for damaged in bad:
            aside = damaged.with_name(f"damaged_{damaged.name}")
            shutil.rmtree(aside, ignore_errors=True)
            damaged.rename(aside)
        return path, [f"{line}; resuming from the one before" for line in bad.values()]
    if bad:
        raise UserError(
            f"no checkpoint is complete ({len(bad)} tried). The newest, {next(iter(bad.values()))}. Restore one from a "
            f"copy, or remove {folder} to start from the beginning"
        )
    return None, []


def save(
    folder: Path, state: RunState, model: nn.Module, optimizer: Any, accelerator: Accelerator, run: RunConfig,
    background: Background,
) -> None:  # fmt: skip
    """Copy all that a checkpoint holds, and write it in the background, after the one before. Every rank calls this.

    Of those before it, the ``run.keep`` newest and every ``run.keep_every``-th are kept once it is complete.
    """
    generators: list[dict[str, Tensor]] = gather_object([_generators()])
    places: list[Any] = gather_object([state.place])
    if not accelerator.is_main_process:
        return
    background.wait(left=MOST - 1)
    moments = optimizer.state_dict()["state"]
    moments = {f"{number}.{name}": value for number, values in moments.items() for name, value in values.items()}
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


def read_state(path: Path) -> tuple[RunState, int, list[Any], Any]:
    """The state in a checkpoint, its number of ranks, the place of each, and the loss scaler's state.

    Raises:
        UserError: it is of another version; it names the checkpoint.
    """
    try:
        saved = json.loads((path / "state.json").read_text())
        return RunState(**saved["state"]), int(saved["ranks"]), list(saved["places"]), saved["scaler"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: not a checkpoint of this version of mixvec ({error}); choose another run.dir"
        ) from error


def load(path: Path, model: nn.Module, optimizer: Any, accelerator: Accelerator) -> tuple[RunState, int]:
    """Restore a checkpoint that ``newest`` found; where the run is, and the number of ranks that it had.

    Raises:
        UserError: the checkpoint is of another model or another version; it names the file.
    """
    (state, ranks, places, scaler), rank = read_state(path), accelerator.process_index
    state.place = places[min(rank, ranks - 1)]  # in a plan they are alike, and ranks may be more
    load_tensors(model, read_tensors(path), path)
    entries: dict[int, dict[str, Tensor]] = {}
    for key, value in load_file(path / "optimizer.safetensors").items():
        number, name = key.split(".", 1)
        entries.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": entries, "param_groups": optimizer.state_dict()["param_groups"]})
    if scaler and accelerator.scaler is not None:
        accelerator.scaler.load_state_dict(scaler)
    generators = load_file(path / "rng.safetensors")
    if f"{rank}.cpu" in generators:  # else the rank was not there before, and keeps its fresh seed
        _restore({name.removeprefix(f"{rank}."): t for name, t in generators.items()})
    return state, ranks


def _generators() -> dict[str, Tensor]:
    """The state of every generator of this process, as tensors."""
    numpy: Any = np.random.get_state(legacy=False)
    numpy["state"]["key"] = numpy["state"]["key"].tolist()
    others = json.dumps([random.getstate(), numpy]).encode()
    states = {"cpu": torch.get_rng_state(), "others": torch.tensor(list(others), dtype=torch.uint8)}
    return states | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def _restore(states: dict[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
    if "others" in states:  # earlier versions stored these two, of which nothing is drawn, in another form
        (kind, words, normal), numpy = json.loads(bytes(states["others"].tolist()))
        random.setstate((kind, tuple(words), normal))
        np.random.set_state(numpy)


def write_manifest(folder: Path) -> None:
    """Record size and SHA-256 of every file in ``folder`` in its ``manifest.json``."""
    files = {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in sorted(folder.iterdir())}
    (folder / MANIFEST).write_text(json.dumps({"files": files}, indent=2) + "\n", encoding="utf-8")


def damage(folder: Path) -> str | None:
    """Which file of ``folder`` differs from its manifest, and in what; None where none does."""
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        stated = {folder / name: (int(file["bytes"]), str(file["sha256"])) for name, file in files.items()}
    except FileNotFoundError:
        return f"{MANIFEST} is missing (never finished, or written by mixvec before there were manifests)"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} is damaged"
    for path, (size, _) in stated.items():  # the quick check first, on all of them
        if not path.is_file():
            return f"{path.name} is missing"
        if path.stat().st_size != size:
            return f"{path.name} is damaged ({path.stat().st_size} bytes instead of {size})"
    for path, (_, digest) in stated.items():
        try:
            if sha256(path) != digest:
                return f"{path.name} is damaged (its SHA-256 is not the one in {MANIFEST})"
        except OSError as error:
            return f"{path.name} cannot be read ({error.strerror})"
    return None
