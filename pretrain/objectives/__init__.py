"""Pretraining objectives, one file each; ``objective.kind`` names one."""

from __future__ import annotations

from typing import Any

from .base import Objective, ObjectiveConfig
from .contrastive import Contrastive, ContrastiveConfig
from .units import Units, UnitsConfig

__all__ = ["KINDS", "ContrastiveConfig", "Objective", "ObjectiveConfig", "build_objective"]

KINDS: dict[str, tuple[type[ObjectiveConfig], type[Objective]]] = {
    "contrastive": (ContrastiveConfig, Contrastive),
    "units": (UnitsConfig, Units),
}


def build_objective(config: ObjectiveConfig, encoder: Any) -> Objective:
    """The objective that ``config`` describes, around ``encoder``."""
    return KINDS[config.kind][1](encoder, config)
