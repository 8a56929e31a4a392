"""What run directories hold, as far as it can be read: what is missing or damaged is noted, never an error."""

from __future__ import annotations

import json
import re
from array import array
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from finetune.config import TASKS
from finetune.tasks import task_class
from mixvec.errors import UserError, redacted
from mixvec.hub import read_tensors
from mixvec.training.config import KEEP_ON_RESUME, flat
from tools import lock_holder

MARKS = ("config.yaml", "metrics.jsonl", "sessions.jsonl")
"""A folder with one of these is a run directory."""
OWN = KEEP_ON_RESUME | {"run.seed"}
"""Keys in which the runs of one group may differ."""


class RunFolder:
    """A run directory, read as far as it can be."""

    def __init__(self, path: Path) -> None:
        self.path, self.problems = path, list[str]()
        """``problems`` is what could not be read."""
        self.config = flat(self._mapping("config.yaml", yaml.safe_load))
        """By dotted keys."""
        self.results = self._mapping("results.json", json.loads)
        training = self._mapping("hub/config.json", json.loads).get("training")
        self.training: dict[str, Any] = training if isinstance(training, dict) else {}
        self.sessions = list(self._objects("sessions.jsonl"))
        self.warnings = [row for row in self._objects("warnings.jsonl") if isinstance(row.get("update"), int)]
        skipped = [row.get("update") for row in self._objects("nonfinite.jsonl")]
        self.skipped_updates = [update for update in skipped if isinstance(update, int)]
        self.split = next((split for split in ("test", "valid") if (path / f"{split}.jsonl").is_file()), None)
        self.rows = [row for row in self._objects(f"{self.split}.jsonl") if {"reference", "prediction"} <= row.keys()]
        """References and predictions of ``split``."""
        self.last: dict[str, Any] = {}
        """The newest value of everything in metrics.jsonl."""
        self.series = self._metrics()
        """Numbers of metrics.jsonl, and what follows from them, by name: updates (N,) and values (N,)."""

    def _mapping(self, name: str, parse: Any) -> dict[str, Any]:
        """What a file holds; empty where there is none, which is noted where the file cannot be read."""
        try:
            found = parse((self.path / name).read_text(encoding="utf-8")) if (self.path / name).is_file() else None
        except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
            self.problems.append(f"{name} cannot be read: {redacted(' '.join(str(error).split()))[:200]}")
            return {}
        return found if isinstance(found, dict) else {}

    def _objects(self, name: str) -> Iterator[dict[str, Any]]:
        """The JSON objects of a file of lines; how many lines are none is noted. A last line may be half-written."""
        path, damaged = self.path / name, 0
        if not path.is_file():
            return
        try:
            with path.open(encoding="utf-8", errors="replace") as file:
                for line in file:
                    try:
                        row = json.loads(line)
                    except (ValueError, RecursionError):
                        row = None
                    if isinstance(row, dict):
                        yield row
                    else:
                        damaged += bool(line.strip()) and line.endswith("\n")
        except OSError as error:
            self.problems.append(f"{name} cannot be read: {error.strerror}")
        if damaged:
            self.problems.append(f"{name}: {damaged} damaged lines are left out")

    def _metrics(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        columns: dict[str, array[float]] = defaultdict(lambda: array("d"))
        for row in self._objects("metrics.jsonl"):
            if isinstance(update := row.get("update"), int):
                for name, value in row.items():
                    if type(value) in (int, float):
                        columns[name].extend((update, value))
                self.last |= {name: value for name, value in row.items() if value is not None}
        series = {name: (np.array(own[::2]), np.array(own[1::2])) for name, own in columns.items()}
        seen = series.get("hours_seen"), series.get("seconds")
        if "audio_s_per_s" not in series and seen[0] and seen[1] and len(seen[0][0]) == len(seen[1][0]) > 1:
            took_s = np.diff(seen[1][1], prepend=0.0).clip(min=1e-9)
            series["audio_s_per_s"] = seen[0][0], np.diff(seen[0][1], prepend=0.0) * 3600 / took_s
        if "chance_loss" in series:
            series["chance_accuracy"] = series["chance_loss"][0], np.exp(-series["chance_loss"][1])
        if "memory_mb" in series:
            series["memory_gb"] = series["memory_mb"][0], series["memory_mb"][1] / 1000
        if self.score and f"valid_{self.score[0]}" in series:
            series["valid_score"] = series[f"valid_{self.score[0]}"]
        return series

    @property
    def name(self) -> str:
        return self.path.absolute().name

    @property
    def task(self) -> str | None:
        """The task of a fine-tuning; None of a pretraining or where it is unknown."""
        task = self.config.get("task")
        return task if task in TASKS else None

    @property
    def family(self) -> tuple[str, str]:
        """What runs must share to be compared: the kind, and the data on which a fine-tuning is scored."""
        if self.task:
            data = [self.config.get(f"data.{split}") for split in ("test", "valid", "train")]
            return f"Fine-tuning: {self.task}", str(next(filter(None, data), ""))
        kind = self.config.get("objective.kind")
        return f"Pretraining: {kind}" if kind else "Unknown runs", ""

    @property
    def update(self) -> int:
        return int(self.last.get("update", 0))

    @cached_property
    def is_running(self) -> bool:
        return lock_holder(self.path) is not None

    @property
    def is_complete(self) -> bool:
        done = self.update > 0 and self.update == self.config.get("run.updates")
        return done and (not self.task or bool(self.results)) and not self.is_running

    @property
    def state(self) -> str:
        at = f"at update {self.update:,} of {self.config.get('run.updates') or '?'}"
        stopped = "complete" if self.is_complete else f"stopped {at}" if self.update else "no log yet"
        return f"running, {at}" if self.is_running else stopped

    @property
    def score(self) -> tuple[str, bool] | None:
        """Name of the score that decides, and whether higher is better."""
        if not self.task:
            return None
        task = task_class(self.task)
        asked = self.config.get("best_by") if self.task == "asr" else None
        return str(asked or task.score_name), task.higher_is_better

    @property
    def result(self) -> float | None:
        """The score on the test data, else on the validation data, else the last one of a run that is not complete."""
        if self.score is None:
            return None
        name = self.score[0]
        for found in (self.results.get("test"), self.results.get("valid"), {name: self.last.get(f"valid_{name}")}):
            value = found.get(name) if isinstance(found, dict) else None
            if isinstance(value, int | float) and np.isfinite(value):
                return float(value)
        return None

    @cached_property
    def model(self) -> dict[str, Any]:
        """Of the model folder: ``millions`` of parameters, and the head's ``weights`` over layers, the input embedding
        first, where it has some."""
        try:
            tensors = read_tensors(self.path / "hub")
        except (UserError, OSError, ValueError):
            return {}
        weights = tensors.get("choice.weights")
        return {"millions": sum(tensor.numel() for tensor in tensors.values()) / 1e6,
                "weights": None if weights is None else weights.float().softmax(0).tolist()}  # fmt: skip

    @property
    def start(self) -> str:
        """What the run started from."""
        return str(self.config.get("baseline") or self.config.get("pretrained") or "random weights")

    @property
    def training_data(self) -> str:
        counted = self.sessions[-1].get("data", {}).get("data.train") if self.sessions else None
        known = f"{counted['seconds'] / 3600:.2f} h in {counted['utterances']:,} utterances" if counted else None
        return ", ".join(filter(None, [self.training.get("data") or self.config.get("data.train"), known]))

    @property
    def session(self) -> dict[str, str]:
        """The different values of each key of sessions.jsonl, and the number of ``sessions`` and ``warnings``."""
        found: dict[str, dict[str, None]] = {}
        for key, value in (item for row in self.sessions for item in row.items() if item[1]):
            found.setdefault(key, {})[str(value)] = None
        counts = {"sessions": str(len(self.sessions) or ""), "warnings": str(len(self.warnings))}
        return {key: ", ".join(values) for key, values in found.items()} | counts


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
    return [RunFolder(path) for path in found]


def is_run(path: Path) -> bool:
    return any((path / name).exists() for name in MARKS)


def families(runs: list[RunFolder]) -> dict[str, list[Group]]:
    """The runs that can be compared, pretraining first, each family in groups that differ in more than their seed."""
    found: dict[tuple[str, str], dict[str, list[RunFolder]]] = {}
    for run in sorted(runs, key=lambda run: run.task is not None):
        same = json.dumps({key: value for key, value in run.config.items() if key not in OWN}, default=str)
        # a pretraining of its own for each seed is one group: pretrained=runs/sm-0, runs/sm-1
        same = re.sub(r'(?<="pretrained": ")([^"]*?)[-_]?\d+(?=")', r"\1", same) if run.config else str(run.path)
        found.setdefault(run.family, {}).setdefault(same, []).append(run)
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
