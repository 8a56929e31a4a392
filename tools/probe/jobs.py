"""One cell of the table: a task on a corpus, a model, and the fine-tuning that probes it, run once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from finetune.config import TASKS
from finetune.tasks import task_class
from mixvec import UserError
from mixvec.atomic import write_whole
from mixvec.data.readers.manifests import manifest_rows
from mixvec.data.readers.rows import Row

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
TUNED = {name: config for name in TASKS if (config := task_class(name).tuned_config) is not None}
"""The configuration that trains the encoder too, for each task that has one."""
BASELINES = ("log-mel", "random", "scratch")
SEED = "{seed}"


class Probe(NamedTuple):
    """A task on a corpus; ``keys`` are the ``data.*`` keys of ``python -m finetune``."""

    corpus: str
    task: str
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Job:
    """A probe of a model with one seed; ``folder`` is its run directory."""

    model: str
    """The column of the table."""
    chosen: tuple[str, ...]
    """The keys that choose the model."""
    probe: Probe
    folder: Path
    extra: tuple[str, ...] = ()
    seed: int = 0
    tuned: bool = False
    """Whether the encoder is trained too."""

    @property
    def words(self) -> list[str]:
        """The arguments of ``python -m finetune``."""
        config = CONFIGS / (TUNED[self.probe.task] if self.tuned else f"probe/{self.probe.task}.yaml")
        keys = (key.replace(SEED, str(self.seed)) for key in self.chosen)
        seed = [f"run.seed={self.seed}"] if self.seed else []
        return [str(config), *keys, *self.probe.keys, *seed, *self.extra, f"run.dir={self.folder}"]

    @property
    def is_done(self) -> bool:
        """Whether this very command has been run to its end."""
        done = self.folder / "probe.json"
        return done.is_file() and json.loads(done.read_text(encoding="utf-8"))["words"] == self.words

    def run(self) -> str | None:
        """Run it, unless it is done; the error in a line, or None."""
        if self.is_done:
            return None
        error = launch(self.words, self.folder.with_suffix(".log"))
        if error is None:
            write_whole(self.folder / "probe.json", json.dumps({"words": self.words}, indent=2) + "\n")
        return error


def launch(words: list[str], log: Path, threads: int | None = None) -> str | None:
    """``python -m finetune`` with its output in ``log``; its error or last line where it fails, else None.

    Args:
        threads: of torch; None for as many as it would take.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)})
    with log.open("w", encoding="utf-8") as file:
        code = subprocess.run([sys.executable, "-m", "finetune", *words], stdout=file, stderr=subprocess.STDOUT,
                              env=environment).returncode  # fmt: skip
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines[-1:] or ["no output"])[-1] if code else None


def models_of(names: list[str], baselines: list[str]) -> dict[str, tuple[str, ...]]:
    """The keys that choose each model, by its name: the runs, then the baselines in the shape of the first of them."""
    models: dict[str, tuple[str, ...]] = {}
    for name in names:
        path = Path(name)
        short = (path.parent.name if path.name == "hub" else path.name).replace(SEED, "").strip("-_.") or "model"
        taken = sum(model.split("#")[0] == short for model in models)
        models[f"{short}#{taken + 1}" if taken else short] = (f"pretrained={name}",)
    for baseline in baselines:
        shape = () if baseline == "log-mel" else (f"pretrained={names[0]}",)
        models[baseline] = (*shape, f"baseline={baseline}")
    return models


def find_probes(folder: Path, tasks: list[str], only: tuple[str, ...] = ()) -> tuple[list[Probe], list[str]]:
    """The probes of the corpora in ``folder``, or of those named ``only``; and which are left out, with the reason.

    Raises:
        UserError: there is no such corpus, or none that any of ``tasks`` can be probed on.
    """
    if not folder.is_dir():
        raise UserError(f"--data {folder}: no such folder")
    probes: list[Probe] = []
    left_out: list[str] = []
    found = {path.name: path for path in sorted(folder.iterdir()) if path.is_dir() and path.name[0] != "."}
    if missing := sorted({*only} - {*found}):
        raise UserError(f"--corpora {missing[0]}: not in {folder}, which has {', '.join(found)}")
    for name in only or found:
        try:
            probes += [probe for probe in _probes_of(found[name]) if probe.task in tasks]
        except UserError as error:
            left_out.append(f"{name}: {error}")
    if not probes:
        raise UserError(f"--data {folder}: no corpus in it has train and test data with labels for {', '.join(tasks)}"
                        + "".join(f"; {line}" for line in left_out[:3]))  # fmt: skip
    return probes, left_out


def _probes_of(corpus: Path) -> Iterator[Probe]:
    splits = {path.name: path for path in corpus.iterdir() if list(path.glob("metadata.*"))}
    valid = next((splits[name] for name in ("validation", "valid", "dev") if name in splits), None)
    test = splits.get("test", valid)
    if "train" not in splits or test is None:
        raise UserError("no train and test split with a metadata.jsonl or .csv in each")
    data = [f"data.train={splits['train']}", f"data.test={test}"]
    data += [f"data.valid={valid}"] if valid not in (None, test) else []
    train, tested = _values(splits["train"]), _values(test)
    for task in TASKS:  # a verification needs two speakers in the test
        if len(train[task]) > 1 and len(tested[task]) > (task == "speaker"):
            yield Probe(corpus.name, task, tuple(data))


def _values(split: Path) -> dict[str, set[str]]:
    """The different labels of a split, by the task that learns from them."""
    found: dict[str, set[str]] = defaultdict(set)
    for row in chain(*map(manifest_rows, (*split.glob("metadata.jsonl"), *split.glob("metadata.csv")))):
        if isinstance(row, Row):
            own: dict[str, Any] = (row.fields or {}) | {"text": row.text, "label": row.label}
            for task in TASKS:
                values = [own[key] for key in task_class(task).label_keys if own.get(key)]
                found[task] |= {str(value) for value in values[:1]}
    return found
