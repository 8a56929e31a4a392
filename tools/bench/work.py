"""What the systems share, so that the work is the same: the audio, the masks, the precision, the update."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW

from mixvec.data.masks import span_mask
from mixvec.model.frontend import SAMPLE_RATE_HZ

from .cases import FRAME_RATE_HZ, Case

Batch = TypeVar("Batch")
TOY_DISTRACTORS = 20
MASK_PROB, MASK_SPAN_FRAMES = 0.65, 10


def waveforms(case: Case) -> list[Tensor]:
    """Noise at 16 kHz, a (B, S) for each batch of the case."""
    torch.manual_seed(0)
    return [
        0.1 * torch.randn(clips, round(seconds * SAMPLE_RATE_HZ), device=case.device) for clips, seconds in case.batches
    ]


def encoder_outputs(case: Case, dim: int, feature_dim: int) -> tuple[Tensor, Tensor]:
    """For the objective alone: encoder output (B, T, D) and features (B, T, F), both wanting a gradient."""
    torch.manual_seed(0)
    ((clips, seconds),) = case.batches
    frames = round(seconds * FRAME_RATE_HZ) - 1
    hidden = torch.randn(clips, frames, dim, device=case.device, requires_grad=True)
    features = torch.randn(clips, frames, feature_dim, device=case.device, requires_grad=True)
    return hidden, features


def masks(rows: int, frames: int, span_frames: int = MASK_SPAN_FRAMES) -> np.ndarray:
    """Frames to hide (B, T), the same number in every row, as fairseq2 needs it."""
    rng = np.random.default_rng(0)
    drawn = np.stack([span_mask(frames, MASK_PROB, span_frames, rng) for _ in range(rows)])
    fewest = int(drawn.sum(1).min())
    for row in drawn:
        row[row.nonzero()[0][fewest:]] = False
    return drawn


def precision(case: Case) -> AbstractContextManager[object]:
    """bf16 autocast where the case has it."""
    return torch.autocast(case.device, torch.bfloat16, enabled=case.bf16)


def backward(case: Case, forward: Callable[[], Tensor], leaves: list[Tensor]) -> Callable[[], Tensor]:
    """A step that runs ``forward`` to a scalar loss or to anything else, and its backward pass, keeping nothing.

    ``leaves`` are all tensors that get a gradient.
    """

    def step() -> Tensor:
        with precision(case):
            output = forward()
        output.backward(None if output.dim() == 0 else torch.ones_like(output))
        for leaf in leaves:
            leaf.grad = None
        return output.detach()

    return step


def updates(
    case: Case, model: nn.Module, batches: list[Batch], loss: Callable[[Batch], Tensor]
) -> Callable[[], list[Tensor]]:
    """A step that makes one update per batch: forward, backward, clipping, AdamW. Returns the losses."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = AdamW(parameters, 1e-5, weight_decay=0.05, fused=True if case.device == "cuda" else None)

    def step() -> list[Tensor]:
        losses = []
        for batch in batches:
            with precision(case):
                value = loss(batch)
            value.backward()
            nn.utils.clip_grad_norm_(parameters, 100.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(value.detach())
        return losses

    return step


def size(model: nn.Module) -> str:
    """The note that states a model's parameters."""
    return f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters"
