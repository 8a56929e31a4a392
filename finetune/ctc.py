"""What the tasks that learn with CTC share."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from .batch import LabelledBatch


def ctc_loss_sum(log_probs: Tensor, frame_lengths: Tensor, batch: LabelledBatch) -> Tensor:
    """CTC in nats () summed over the batch's utterances, from (B, T, V) and (B,); 0 for one with too few frames."""
    losses = torch.nn.functional.ctc_loss(
        log_probs.transpose(0, 1), batch.targets, frame_lengths, batch.target_lengths,
        reduction="none", zero_infinity=True,
    )  # fmt: skip
    return losses[: len(batch.references)].sum()


def frames_needed(target: list[int]) -> int:
    """CTC needs a frame for each entry, and a blank between two alike."""
    return len(target) + sum(a == b for a, b in pairwise(target))
