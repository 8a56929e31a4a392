"""Frames to one vector per utterance. An utterance without a frame, in a padded batch, gives finite numbers.

Symbols: B batch, T frames, D the width of the frames.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .padding import padding_mask, zero_padding


def attention_weights(score: nn.Module, x: Tensor, lengths: Tensor) -> Tensor:
    """Softmax over the valid frames of ``score(x)`` (B, T, 1), in fp32; of an utterance without one, over the first."""
    valid = padding_mask(lengths.clamp(min=1), x.shape[1]).unsqueeze(-1)
    return score(x).float().masked_fill(~valid, -torch.inf).softmax(dim=1)  # type: ignore[no-any-return]


class MeanPooling(nn.Module):
    """The mean of the valid frames."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.width = dim

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, D), lengths (B,) to (B, D) in fp32."""
        count = lengths.clamp(min=1).unsqueeze(1)
        return zero_padding(x.float(), padding_mask(lengths, x.shape[1])).sum(dim=1) / count


class AttentiveStatistics(nn.Module):
    """Weighted mean and standard deviation over the valid frames (arXiv 1803.10963, equations 1 to 6).

    e_t = v · tanh(W x_t + b), α = softmax(e), μ = Σ_t α_t x_t, σ² = Σ_t α_t x_t² - μ²; to [μ, σ]. (Its k, added to each
    e_t, leaves the softmax as it is.)
    """

    def __init__(self, dim: int, hidden: int = 128) -> None:
        super().__init__()
        self.width = 2 * dim
        self.score = nn.Sequential(nn.Linear(dim, hidden), nn.Tanh(), nn.Linear(hidden, 1, bias=False))

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, D), lengths (B,) to (B, 2 D) in fp32."""
        weights, x = attention_weights(self.score, x, lengths), x.float()  # (B, T, 1)
        mean = (weights * x).sum(dim=1)  # (B, D)
        variance = (weights * (x - mean.unsqueeze(1)).square()).sum(dim=1)
        return torch.cat([mean, variance.clamp(min=1e-8).sqrt()], dim=1)
