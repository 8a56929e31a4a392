"""Pretraining objectives, one file each; ``objective.kind`` names one."""

from __future__ import annotations

from typing import Any

from .base import Objective, ObjectiveConfig
from .contrastive import Contrastive, ContrastiveConfig

__all__ = ["KINDS", "Contrastive", "ContrastiveConfig", "Objective", "ObjectiveConfig", "build_objective"]

KINDS: dict[str, type[ObjectiveConfig]] = {"contrastive": ContrastiveConfig}


def build_objective(config: ObjectiveConfig, encoder: Any) -> Objective:
    """The objective that ``config`` describes, around ``encoder``."""
    if isinstance(config, ContrastiveConfig):
        return Contrastive(encoder, config)
    raise TypeError(f"objective.kind={config.kind} has no objective")
