"""Randomness inside the network as a function of (seed, update, utterance), whatever the ranks and micro-batches."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..model.noise import set_keys

Batch = TypeVar("Batch", bound=tuple[Tensor, ...])


def seed_update(model: Any, seed: int, update: int, keys: Tensor) -> None:
    """Seed what the next forward pass of ``model`` draws.

    Dropout is a function of each utterance's key; which layers LayerDrop skips, of the update. What does not know keys
    (dropout inside fused attention, and fairseq2's modules) draws from the rank's own generator.

    Args:
        keys: (B,) of the utterances of the batch that comes next.
    """
    set_keys(model, keys)
    draws = np.random.default_rng([seed, update, 8])
    for module in model.modules():
        if hasattr(module, "layer_drop_draws"):
            module.layer_drop_draws = draws.random(module.num_layers).tolist()


def to_device(batch: Batch, device: torch.device) -> Batch:
    """A NamedTuple of tensors on ``device``; from page-locked memory it is copied while the device computes."""
    moved = (tensor.to(device, non_blocking=True) for tensor in batch)
    return type(batch)(*moved)
