"""A fairseq2 recipe that trains a recogniser for three steps on noise: ``python -m tests.fairseq2_recipe NAME OUT``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import soundfile  # noqa: F401  (before fairseq2, which finds libsndfile only once this has loaded it)
import torch
from fairseq2.datasets import DataReader
from fairseq2.device import SupportsDeviceTransfer
from fairseq2.models import load_model
from fairseq2.nn import BatchLayout
from fairseq2.recipe import Recipe, RecipeContext, run
from fairseq2.recipe.config import (
    CommonSection,
    GangSection,
    LRSchedulerSection,
    ModelSection,
    OptimizerSection,
    RegimeSection,
    TrainerSection,
)
from fairseq2.trainer import Trainer, TrainUnit
from torch import Tensor


class Noise(SupportsDeviceTransfer):
    """Two waveforms of different lengths, and two tokens for each."""

    waveforms, targets = 0.1 * torch.randn(2, 16_000), torch.tensor([[2, 3], [4, 2]])

    def to(self, device: Any, *, non_blocking: bool = False) -> None:
        pass


class Same(DataReader):  # type: ignore[type-arg]
    """The same batch at every step."""

    num_accumulate = 1
    batch = Noise()

    def __iter__(self) -> Iterator[list[Noise]]:
        return self

    def __next__(self) -> list[Noise]:
        return [self.batch]

    def reset(self) -> None:
        pass

    def state_dict(self) -> dict[str, object]:
        return {}

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        pass


class Unit(TrainUnit):  # type: ignore[type-arg]
    """The CTC loss, printed."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def prepare_metric_bag(self, metric_bag: Any) -> None:
        pass

    def process_batch(self, batch: Noise, metric_bag: Any) -> tuple[Tensor, int]:
        layout, targets = BatchLayout((2, 16_000), [16_000, 9_000]), BatchLayout((2, 2), [2, 2])
        loss = self.module(batch.waveforms, layout, batch.targets, targets)
        print("loss", float(loss.detach()))
        return loss, 4


@dataclass
class Config:
    """fairseq2's own sections."""

    model: ModelSection
    gang: GangSection = field(default_factory=GangSection)
    trainer: TrainerSection = field(default_factory=TrainerSection)
    optimizer: OptimizerSection = field(default_factory=OptimizerSection)
    lr_scheduler: LRSchedulerSection = field(default_factory=LRSchedulerSection)
    regime: RegimeSection = field(default_factory=lambda: RegimeSection(num_steps=3))
    common: CommonSection = field(default_factory=CommonSection)


class Tune(Recipe):
    """Fine-tuning with fairseq2's Trainer."""

    config_kls = Config  # type: ignore[assignment]

    def create_task(self, context: RecipeContext) -> Trainer:
        return context.create_trainer(Unit(context.get_data_parallel_model()), Same())


if __name__ == "__main__":
    config = Config(ModelSection(name=sys.argv[1]))
    config.trainer.mixed_precision.mode = "off"
    run(Tune(), config, Path(sys.argv[2]), no_rich=True)
    print("named", type(load_model(sys.argv[1])).__name__)
