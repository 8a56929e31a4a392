"""Randomness inside the network as a function of (seed, update, utterance), whatever the ranks and micro-batches."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..model.context import Context
from ..model.noise import set_keys

Batch = TypeVar("Batch", bound=tuple[Tensor, ...])


def seed_update(model: Any, seed: int, update: int, keys: Tensor) -> None:
    """Seed what the next forward pass of ``model`` draws.

    Dropout is a function of each utterance's key; which layers LayerDrop skips, and the chunks in which an encoder
    learns to stream, are functions of the update. What does not know keys
    (dropout inside fused attention, and fairseq2's modules) draws from the rank's own generator.

    Args:
        keys: (B,) of the utterances of the batch that comes next.
    """
    set_keys(model, keys)
    draws = np.random.default_rng([seed, update, 8])
    for module in model.modules():
        if hasattr(module, "layer_drop_draws"):
            module.layer_drop_draws = draws.random(module.num_layers).tolist()
        if hasattr(module, "drawn_context") and module.config.streaming:
            frames_per_s = module.sample_rate_hz / module.hop_samples
            module.drawn_context = draw_context(np.random.default_rng([seed, update, 9]), frames_per_s)


def draw_context(rng: np.random.Generator, frames_per_s: float) -> Context | None:
    """Draw what the frames of an update may see; None, in four updates of ten, is everything.

    Otherwise chunks of 0.32 to 1.28 s, three in four with 2 to 32 of them in the past, the others with all of the past:
    dynamic chunk training as in arXiv 2409.07165.
    """
    sees_all, sees_past = rng.random(2)
    chunk = rng.integers(round(0.32 * frames_per_s), round(1.28 * frames_per_s), endpoint=True)
    left = rng.integers(2, 32, endpoint=True)
    return None if sees_all < 0.4 else Context(int(chunk), int(left) if sees_past < 0.75 else None)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """A NamedTuple of tensors on ``device``; from page-locked memory it is copied while the device computes."""
    moved = (tensor.to(device, non_blocking=True) for tensor in batch)
    return type(batch)(*moved)
