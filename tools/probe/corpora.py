"""What a folder of corpora can be probed for: the labels of each decide."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from finetune.config import TASKS
from finetune.tasks import task_class
from mixvec import UserError
from mixvec.data.readers.manifests import csv_rows, json_rows
from mixvec.data.readers.rows import Row

KEYS = {name: task_class(name).label_keys for name in TASKS}
"""The keys of a row that carry the label of each task."""
VALIDATION = ("validation", "valid", "dev")


@dataclass(frozen=True)
class Probe:
    """A task on a corpus."""

    corpus: str
    task: str
    keys: tuple[str, ...]
    """``data.*`` for ``python -m finetune``."""
    field: str | None = None
    """The label's name where it is none of the usual."""

    @property
    def name(self) -> str:
        return "-".join(part for part in (self.corpus, self.task, self.field) if part)


def find_probes(
    folder: Path, fields: tuple[str, ...] = (), only: tuple[str, ...] = ()
) -> tuple[list[Probe], list[str]]:
    """The probes of the audiofolder corpora ``folder/CORPUS/{train,validation,test}``; and what is left out, and why.

    Args:
        fields: names of further labels to classify by.
        only: names of the corpora; none means all.

    Raises:
        UserError: there is no corpus in it, or none of that name.
    """
    if not folder.is_dir():
        raise UserError(f"--data {folder}: no such folder")
    probes: list[Probe] = []
    left_out: list[str] = []
    found = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if missing := sorted(set(only) - {path.name for path in found}):
        raise UserError(f"--corpora {missing[0]}: not in {folder}, which has {', '.join(path.name for path in found)}")
    for corpus in (path for path in found if not only or path.name in only):
        try:
            probes += _probes_of(corpus, fields)
        except UserError as error:
            left_out.append(f"{corpus.name}: {error}")
    if not probes:
        why = f": {'; '.join(left_out[:3])}" if left_out else ""
        raise UserError(f"--data {folder}: nothing to probe in it; it holds CORPUS/train and CORPUS/test, each with a "
                        f"metadata.jsonl or .csv{why}")  # fmt: skip
    return probes, left_out


def _probes_of(corpus: Path, fields: tuple[str, ...]) -> list[Probe]:
    splits = {path.name: path for path in corpus.iterdir() if _metadata(path) is not None}
    valid = next((splits[name] for name in VALIDATION if name in splits), None)
    test = splits.get("test", valid)
    if "train" not in splits or test is None:
        raise UserError("no train and test split with a metadata.jsonl or .csv in each")
    data = [f"data.train={splits['train']}", f"data.test={test}"]
    if valid is not None and valid != test:
        data.append(f"data.valid={valid}")
    labels = [_labels(_rows(split), fields) for split in (splits["train"], test)]
    return [
        Probe(corpus.name, task, (*data, *([f"data.label={field}"] if field else ())), field)
        for (task, field), values in labels[0].items()
        if len(values) > 1 and len(labels[1].get((task, field), ())) > (0 if task != "speaker" else 1)
    ]


def _metadata(split: Path) -> Path | None:
    return next((split / name for name in ("metadata.jsonl", "metadata.csv") if (split / name).is_file()), None)


def _rows(split: Path) -> Iterable[Row]:
    file = _metadata(split)
    assert file is not None
    return (row for row in (json_rows(file) if file.suffix == ".jsonl" else csv_rows(file)) if isinstance(row, Row))


def _labels(rows: Iterable[Row], fields: tuple[str, ...]) -> dict[tuple[str, str | None], set[str]]:
    """Each task's values, by task and name of the label."""
    found: dict[tuple[str, str | None], set[str]] = {}
    for row in rows:
        own = (row.fields or {}) | {"text": row.text, "label": row.label}
        values: dict[tuple[str, str | None], object] = {
            (task, None): next((own[key] for key in keys if own.get(key)), None) for task, keys in KEYS.items()
        } | {("intent", field): own.get(field) for field in fields}
        for key, value in values.items():
            if value is not None and value != "":
                found.setdefault(key, set()).add(str(value))
    return found
