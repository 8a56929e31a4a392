"""Pretraining objectives, one file each; ``objective.kind`` names one."""

from __future__ import annotations

from typing import Any

from .base import Objective, ObjectiveConfig
from .contrastive import Contrastive, ContrastiveConfig
from .units import Units, UnitsConfig

__all__ = [
    "KINDS",
    "Contrastive",
    "ContrastiveConfig",
    "Objective",
    "ObjectiveConfig",
    "Units",
    "UnitsConfig",
    "build_objective",
]

KINDS: dict[str, type[ObjectiveConfig]] = {"contrastive": ContrastiveConfig, "units": UnitsConfig}


def build_objective(config: ObjectiveConfig, encoder: Any) -> Objective:
    """The objective that ``config`` describes, around ``encoder``."""
    if isinstance(config, ContrastiveConfig):
        return Contrastive(encoder, config)
    if isinstance(config, UnitsConfig):
        return Units(encoder, config)
    raise TypeError(f"objective.kind={config.kind} has no objective")
