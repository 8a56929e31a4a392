"""What run directories hold, as far as it can be read: what is missing or damaged is noted, never an error."""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from finetune.config import TASKS
from finetune.tasks import task_class
from mixvec.errors import UserError, redacted
from mixvec.hub import read_tensors
from mixvec.training.config import KEEP_ON_RESUME
from mixvec.training.follow import flat

MARKS = ("config.yaml", "metrics.jsonl", "sessions.jsonl")
"""A folder with one of these is a run directory."""
OWN = KEEP_ON_RESUME | {"run.seed"}
"""Keys in which the runs of one group may differ."""


@dataclass
class RunFolder:
    """A run directory."""

    path: Path
    config: dict[str, Any] = field(default_factory=dict)
    """config.yaml by dotted keys."""
    series: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    """Numbers of metrics.jsonl by name: updates (N,) and values (N,)."""
    last: dict[str, Any] = field(default_factory=dict)
    """The newest value of everything in metrics.jsonl."""
    warnings: list[dict[str, Any]] = field(default_factory=list)
    skipped_updates: list[int] = field(default_factory=list)
    """Updates that were left out because a loss or gradient was not finite."""
    sessions: list[dict[str, Any]] = field(default_factory=list)
    training: dict[str, Any] = field(default_factory=dict)
    """``training`` of the model folder's config.json."""
    results: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    """References and predictions of ``split``."""
    split: str | None = None
    problems: list[str] = field(default_factory=list)
    """What could not be read."""

    @property
    def name(self) -> str:
        return self.path.absolute().name

    @property
    def task(self) -> str | None:
        """The task of a fine-tuning; None of a pretraining or where it is unknown."""
        task = self.config.get("task")
        return task if task in TASKS else None

    @property
    def family(self) -> str:
        """Runs of one family have the same curves."""
        if self.task:
            return f"Fine-tuning: {self.task}"
        kind = self.config.get("objective.kind")
        return f"Pretraining: {kind}" if kind else "Unknown runs"

    @property
    def scored_on(self) -> str:
        """The data that a fine-tuning is scored on, without which its scores cannot be compared."""
        data = [self.config.get(f"data.{split}") for split in ("test", "valid", "train")]
        return str(next(filter(None, data), "")) if self.task else ""

    @property
    def update(self) -> int:
        return int(self.last.get("update", 0))

    @cached_property
    def is_running(self) -> bool:
        """Whether a process on this machine holds the directory's lock, which is looked up and not taken."""
        try:
            inode = (self.path / ".lock").stat().st_ino
            return f":{inode} " in Path("/proc/locks").read_text(encoding="utf-8")
        except OSError:
            return False

    @property
    def is_complete(self) -> bool:
        done = self.update > 0 and self.update == self.config.get("run.updates")
        return done and (not self.task or bool(self.results))

    @property
    def state(self) -> str:
        if self.is_complete and not self.is_running:
            return "complete"
        at = f"at update {self.update:,} of {self.config.get('run.updates') or '?'}"
        return f"running, {at}" if self.is_running else f"stopped {at}" if self.update else "no log yet"

    @property
    def score(self) -> tuple[str, bool] | None:
        """Name of the score that decides, and whether higher is better."""
        if not self.task:
            return None
        task = task_class(self.task)
        name = str(self.config.get("best_by") or task.score_name) if self.task == "asr" else task.score_name
        return name, task.higher_is_better

    @property
    def result(self) -> float | None:
        """The score on the test data, else on the validation data, else the last one of a run that is not complete."""
        if self.score is None:
            return None
        for found in (self.results.get("test"), self.results.get("valid"),
                      {self.score[0]: self.last.get(f"valid_{self.score[0]}")}):  # fmt: skip
            value = found.get(self.score[0]) if isinstance(found, dict) else None
            if isinstance(value, int | float) and np.isfinite(value):
                return float(value)
        return None

    @cached_property
    def layer_weights(self) -> list[float] | None:
        """Weights over the encoder's layers, the input embedding first; None where the head reads one layer."""
        try:
            weights = read_tensors(self.path / "hub")["choice.weights"]
        except (UserError, KeyError, OSError, ValueError):
            return None
        return [float(weight) for weight in weights.float().softmax(0)]

    @cached_property
    def parameters(self) -> int:
        try:
            return sum(tensor.numel() for tensor in read_tensors(self.path / "hub").values())
        except (UserError, OSError, ValueError):
            return 0


@dataclass
class Group:
    """Runs that differ in their seed alone."""

    name: str
    runs: list[RunFolder]

    @property
    def first(self) -> RunFolder:
        return self.runs[0]

    @property
    def values(self) -> list[float]:
        """The scores of the runs that have one."""
        return [run.result for run in self.runs if run.result is not None]


def find_runs(paths: list[Path]) -> list[RunFolder]:
    """The run directories that ``paths`` are or hold, read.

    Raises:
        UserError: a path is no folder, or holds no run.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if not path.is_dir():
            raise UserError(f"{path}: no such run directory")
        inside = [path] if is_run(path) else sorted(own for own in path.rglob("*") if own.is_dir() and is_run(own))
        if not inside:
            raise UserError(f"{path}: no run directory, and none in it: none has a {', '.join(MARKS)}")
        found |= dict.fromkeys(inside)
    return [read_run(path) for path in found]


def is_run(path: Path) -> bool:
    return any((path / name).exists() for name in MARKS)


def read_run(path: Path) -> RunFolder:
    """Everything that is there."""
    run = RunFolder(path)
    config = _read(run, "config.yaml", yaml.safe_load)
    run.config = flat(config) if isinstance(config, dict) else {}
    _read_metrics(run)
    run.warnings = [row for row in _objects(run, "warnings.jsonl") if isinstance(row.get("update"), int)]
    run.skipped_updates = [
        row["update"] for row in _objects(run, "nonfinite.jsonl") if isinstance(row.get("update"), int)
    ]
    run.sessions = list(_objects(run, "sessions.jsonl"))
    for name in ("hub/config.json", "results.json"):
        found = _read(run, name, json.loads)
        if name == "results.json" and isinstance(found, dict):
            run.results = found
        elif isinstance(found, dict) and isinstance(found.get("training"), dict):
            run.training = found["training"]
    run.split = next((split for split in ("test", "valid") if (path / f"{split}.jsonl").is_file()), None)
    if run.split:
        run.rows = [row for row in _objects(run, f"{run.split}.jsonl") if "reference" in row and "prediction" in row]
    return run


def _read(run: RunFolder, name: str, parse: Any) -> Any:
    path = run.path / name
    if not path.is_file():
        return None
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        run.problems.append(f"{name} cannot be read: {redacted(' '.join(str(error).split()))[:200]}")
        return None


def _objects(run: RunFolder, name: str) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file of lines; how many lines are none is noted. A last line may be half-written."""
    path = run.path / name
    if not path.is_file():
        return
    damaged = 0
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError):
                    damaged += bool(line.strip()) and line.endswith("\n")
                    continue
                if isinstance(row, dict):
                    yield row
                else:
                    damaged += 1
    except OSError as error:
        run.problems.append(f"{name} cannot be read: {error.strerror}")
    if damaged:
        run.problems.append(f"{name}: {damaged} damaged lines are left out")


def _read_metrics(run: RunFolder) -> None:
    columns: dict[str, tuple[array[float], array[float]]] = {}
    for row in _objects(run, "metrics.jsonl"):
        update = row.get("update")
        if not isinstance(update, int):
            continue
        for name, value in row.items():
            if type(value) in (int, float):
                if name not in columns:
                    columns[name] = array("d"), array("d")
                columns[name][0].append(update)
                columns[name][1].append(value)
        run.last |= {name: value for name, value in row.items() if value is not None}
    run.series = {name: (np.array(updates), np.array(values)) for name, (updates, values) in columns.items()}
    seen = run.series.get("hours_seen"), run.series.get("seconds")
    if "audio_s_per_s" not in run.series and seen[0] and seen[1] and len(seen[0][0]) == len(seen[1][0]) > 1:
        took_s = np.diff(seen[1][1], prepend=0.0).clip(min=1e-9)
        run.series["audio_s_per_s"] = seen[0][0], np.diff(seen[0][1], prepend=0.0) * 3600 / took_s


def families(runs: list[RunFolder]) -> dict[str, list[Group]]:
    """The runs that can be compared, pretraining first, each family in groups that differ in more than their seed."""
    found: dict[tuple[str, str], dict[str, list[RunFolder]]] = {}
    for run in sorted(runs, key=lambda run: run.task is not None):
        same = json.dumps({key: value for key, value in run.config.items() if key not in OWN}, default=str)
        # a pretraining of its own for each seed is one group: pretrained=runs/sm-0, runs/sm-1
        same = re.sub(r'(?<="pretrained": ")([^"]*?)[-_]?\d+(?=")', r"\1", same) if run.config else str(run.path)
        found.setdefault((run.family, run.scored_on), {}).setdefault(same, []).append(run)
    titles = [title for title, _ in found]
    named = {title + f", {data}" * (titles.count(title) > 1): [Group(_name(own), own) for own in groups.values()]
             for (title, data), groups in found.items()}  # fmt: skip
    for groups in named.values():
        if len({group.name for group in groups}) < len(groups):
            for group in groups:
                group.name = str(group.first.path)
    return named


def _name(runs: list[RunFolder]) -> str:
    """The name of a run, or of runs that are numbered."""
    first = runs[0].name
    return first if len(runs) == 1 else re.sub(r"(?<=.)[-_. ]?\d+$", "", first)


def differing(groups: list[Group]) -> list[str]:
    """The keys in which groups differ."""
    keys = dict.fromkeys(key for group in groups for key in group.first.config if key not in OWN)
    return [key for key in keys if len({str(group.first.config.get(key)) for group in groups}) > 1]
