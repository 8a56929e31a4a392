"""One convention for padding: ``lengths`` (B,) at borders, one bool mask (B, T) inside, True where a frame is valid."""

from __future__ import annotations

import torch
from torch import Tensor


def padding_mask(lengths: Tensor, max_length: int) -> Tensor:
    """The bool mask (B, ``max_length``) that is True at the first ``lengths`` (B,) positions of each row."""
    return torch.arange(max_length, device=lengths.device) < lengths.unsqueeze(1)


def zero_padding(x: Tensor, mask: Tensor | None) -> Tensor:
    """``x`` (B, T, ...) with the padded positions set to zero; unchanged where ``mask`` is None (no padding)."""
    if mask is None:
        return x
    return x.masked_fill(~mask.reshape(mask.shape + (1,) * (x.dim() - 2)), 0.0)
