"""Keys that name files or labels arrive as typed: YAML would make ``007`` 7, ``12:30:45`` 45045 and ``on`` True."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from ..errors import UserError

PATHS = ("run.dir", "pretrained", "cache.dir", "objective.teacher", "speaker.trials")
"""Keys that name one file or folder."""
SOURCES = ("data.train", "data.valid", "data.test", "data.augment.noise", "data.augment.reverb", "probe.data")
"""Keys that name sources: one, or in brackets or braces a list of them and their weights."""
LABELS = ("data.label", "intent.keep", "intent.rest", "slots.order")
"""Keys that name a label or a field of rows, or in brackets a list of them."""
LISTED = SOURCES + LABELS


def path_argument(argument: str) -> DictConfig | None:
    """``key=value`` of a key that names files or labels, as it was typed; None for any other key.

    Raises:
        UserError: a list in brackets or braces has no end.
    """
    key, _, value = argument.partition("=")
    if key not in PATHS + LISTED:
        return None
    typed: Any = None if value in ("null", "") else value
    if key in LISTED and value[:1] in ("[", "{") and not Path(value).exists():
        try:
            typed = yaml.load(value, yaml.BaseLoader)
        except yaml.YAMLError as error:
            raise UserError(f"{argument}: not a list that YAML can read; put a name with brackets in it into quotes "
                            "within a list") from error  # fmt: skip
    config: DictConfig = OmegaConf.create({})
    OmegaConf.update(config, key, _as_typed(typed), force_add=True)
    return config


def typed_paths(config: DictConfig, text: str) -> None:
    """Put the paths of a YAML file, ``text``, back into what was read from it, as they are written there."""
    written, read = yaml.load(text, yaml.BaseLoader), OmegaConf.to_container(config)
    for key in PATHS + LISTED:
        value = _at(written, key)
        if value is not None and _at(read, key) is not None:
            OmegaConf.update(config, key, _as_typed(value))


def _at(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = config.get(part) if isinstance(config, dict) else None
    return config


def _as_typed(value: Any) -> Any:
    """A value in which OmegaConf finds no reference to another key, and weights of sources are numbers again."""
    if isinstance(value, list):
        return [_as_typed(item) for item in value]
    if isinstance(value, dict):
        return {name: yaml.safe_load(item) if name == "weight" else _as_typed(item) for name, item in value.items()}
    return value.replace("${", "\\${") if isinstance(value, str) else value
