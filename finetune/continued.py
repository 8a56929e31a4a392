"""Continuing from a fine-tuned model: its head is kept where the task is the same and its tokens or labels fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from mixvec.hub import load_model
from mixvec.locate import resolve
from mixvec.model import HEADS, TaskModel

from .config import FinetuneConfig
from .tasks import LabelledTask as Task


class Previous(NamedTuple):
    """The fine-tuned model that a run continues from."""

    model: TaskModel
    misfit: str
    """Why its head cannot be kept; empty where the task's vocabulary or labels are now the model's."""


def previous_model(config: FinetuneConfig, task: Task) -> Previous | None:
    """The model with a head that ``pretrained`` names; None for an encoder alone.

    Where it fits, ``task`` takes over its vocabulary or labels.
    """
    if config.pretrained is None or config.baseline is not None:
        return None
    folder = resolve(config.pretrained)
    file = folder / "config.json"
    stored = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    if not isinstance(stored, dict) or stored.get("architecture") not in HEADS:
        return None  # of an encoder alone; whatever else is wrong is reported when it is opened
    model = load_model(folder)
    assert isinstance(model, TaskModel)
    kinds = sorted(own.__name__ for own in task.models)
    if type(model).__name__ not in kinds:
        return Previous(model, f"a {type(model).__name__}, and task={config.task} trains a {' or '.join(kinds)}")
    return Previous(model, task.adopt(model, Path(config.pretrained)))


def keep_head(model: Any, previous: Previous | None, name: str | None) -> list[str]:
    """Put the head of ``previous`` on ``model`` where it fits; a line that reports it, or why the head is new."""
    if previous is None:
        return []
    old, new = (
        {key: value for key, value in own.state_dict().items() if not key.startswith("encoder.")}
        for own in (previous.model, model)
    )
    if previous.misfit:
        return [f"the head is new, not that of {name}: {previous.misfit}"]
    shapes = ({key: tensor.shape for key, tensor in head.items()} for head in (old, new))
    if type(previous.model) is not type(model) or next(shapes) != next(shapes):
        return [f"the head is new, not that of {name}: it has other settings, {previous.model.settings()}"]
    model.load_state_dict(old, strict=False)
    return [f"the head of {name} is kept, with its {len(previous.model.stored())} entries of {model.stored_as}"]
