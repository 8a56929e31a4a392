"""Keys that name files arrive as they are typed: YAML would make ``007`` 7, ``12:30:45`` 45045 and ``exp #2`` exp."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from ..errors import UserError

PATHS = ("run.dir", "pretrained", "cache.dir", "objective.teacher")
"""Keys that name one file or folder."""
SOURCES = ("data.train", "data.valid", "data.test", "data.augment.noise", "data.augment.reverb", "probe.data")
"""Keys that name sources: one, or in brackets or braces a list of them and their weights."""


def path_argument(argument: str) -> DictConfig | None:
    """``key=value`` of a key that names files, as it was typed; None for any other key.

    Raises:
        UserError: a list in brackets or braces has no end.
    """
    key, _, value = argument.partition("=")
    if key not in PATHS + SOURCES:
        return None
    typed: Any = None if value in ("null", "") else value
    if key in SOURCES and value[:1] in ("[", "{") and not Path(value).exists():
        try:
            typed = _weighted(yaml.load(value, yaml.BaseLoader))
        except yaml.YAMLError as error:
            raise UserError(f"{argument}: not a list that YAML can read; put a name with brackets in it into quotes "
                            "within a list") from error  # fmt: skip
    config: DictConfig = OmegaConf.create({})
    OmegaConf.update(config, key, _plain(typed), force_add=True)
    return config


def typed_paths(config: DictConfig, text: str) -> None:
    """Put the paths of a YAML file, ``text``, back into what was read from it, as they are written there."""
    written, read = yaml.load(text, yaml.BaseLoader), OmegaConf.to_container(config)
    for key in PATHS + SOURCES:
        value: Any = written
        known: Any = read
        for part in key.split("."):
            value, known = (at.get(part) if isinstance(at, dict) else None for at in (value, known))
        if value is not None and known is not None:
            OmegaConf.update(config, key, _plain(_weighted(value) if key in SOURCES else value))


def _weighted(value: Any) -> Any:
    """A list of sources whose weights are numbers again."""
    if isinstance(value, list):
        return [_weighted(item) for item in value]
    if isinstance(value, dict):
        return {name: yaml.safe_load(item) if name == "weight" else item for name, item in value.items()}
    return value


def _plain(value: Any) -> Any:
    """A value in which OmegaConf finds no reference to another key."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value.replace("${", "\\${") if isinstance(value, str) else value
