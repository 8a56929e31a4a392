"""One probe of one model with one seed: a run of ``python -m finetune``, done once."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from finetune.config import TASKS
from finetune.tasks import task_class
from mixvec.atomic import write_whole

from .corpora import Probe

ROOT = Path(__file__).resolve().parent.parent.parent
BASELINES = ("log-mel", "random", "scratch")
SEED = "{seed}"
"""In a model's name: a run for each seed."""
TUNED = {name: config for name in TASKS if (config := task_class(name).tuned_config) is not None}
"""The configuration that trains the encoder too, for each task that has one."""


@dataclass(frozen=True)
class Model:
    """What is probed: its name in the table, and the keys that choose it."""

    name: str
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Job:
    """A probe of a model. ``folder`` is its run directory; the log stands beside it."""

    model: Model
    probe: Probe
    folder: Path
    extra: tuple[str, ...]
    seed: int = 0
    tuned: bool = False
    """Whether the encoder is trained too, after ``configs/`` instead of ``configs/probe/``."""

    @property
    def words(self) -> list[str]:
        """What stands behind ``python -m finetune``."""
        config = ROOT / "configs" / (TUNED[self.probe.task] if self.tuned else f"probe/{self.probe.task}.yaml")
        keys = (key.replace(SEED, str(self.seed)) for key in self.model.keys)
        seed = [f"run.seed={self.seed}"] if self.seed else []
        return [str(config), *keys, *self.probe.keys, *seed, *self.extra, f"run.dir={self.folder}"]

    @property
    def is_done(self) -> bool:
        """Whether this very command has been run to its end."""
        done = self.folder / "probe.json"
        return done.is_file() and json.loads(done.read_text(encoding="utf-8"))["words"] == self.words


def models_of(names: list[str], baselines: list[str]) -> list[Model]:
    """The models by the names of their runs, then the baselines; those drawn anew have the first model's shape."""
    models: list[Model] = []
    for name in names:
        path = Path(name)
        short = (path.parent.name if path.name == "hub" else path.name).replace(SEED, "").strip("-_.") or "model"
        taken = sum(model.name.split("#")[0] == short for model in models)
        models.append(Model(f"{short}#{taken + 1}" if taken else short, (f"pretrained={name}",)))
    for baseline in baselines:
        shape = () if baseline == "log-mel" else (f"pretrained={names[0]}",)
        models.append(Model(baseline, (*shape, f"baseline={baseline}")))
    return models


def do(job: Job) -> str | None:
    """Run it, unless it is done; what went wrong, in a line, or None."""
    if job.is_done:
        return None
    job.folder.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    code, said = launch(job.words, job.folder.with_suffix(".log"))
    if code != 0:
        return said
    facts = {"words": job.words, "seconds": round(time.monotonic() - started, 1)}
    write_whole(job.folder / "probe.json", json.dumps(facts, indent=2) + "\n")
    return None


def launch(words: list[str], log: Path) -> tuple[int, str]:
    """``python -m finetune`` with these words, its output in ``log``; the exit code and the last line said."""
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(
            [sys.executable, "-m", "finetune", *words], stdout=file, stderr=subprocess.STDOUT, check=False
        )
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return done.returncode, (errors or lines[-1:] or ["it said nothing"])[-1]
