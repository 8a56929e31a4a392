"""The Gumbel product quantizer of wav2vec 2.0 (arXiv 2006.11477 section 3.1, eq. 1), in fp32, nothing compiled.

Symbols: N frames, F feature channels, G codebooks, V entries, D code width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Quantized(NamedTuple):
    codes: Tensor
    """(N, D) the chosen entries, through the output projection."""
    entries: Tensor
    """(N, G) int64, the entry chosen in each codebook."""
    logits: Tensor
    """(N, G, V) fp32."""


class GumbelQuantizer(nn.Module):
    """Picks one of V entries in each of G codebooks: at random in training (straight-through), the best in eval."""

    def __init__(self, feature_dim: int, codebooks: int, entries: int, code_dim: int) -> None:
        super().__init__()
        self.codebooks, self.entries = codebooks, entries
        self.score = nn.Linear(feature_dim, codebooks * entries)
        nn.init.normal_(self.score.weight)
        nn.init.zeros_(self.score.bias)
        self.table = nn.Parameter(torch.empty(codebooks, entries, code_dim // codebooks).uniform_())
        self.project = nn.Linear(code_dim, code_dim)

    def logits(self, features: Tensor) -> Tensor:
        """Features (..., F) to (..., G, V) in fp32."""
        with torch.autocast(features.device.type, enabled=False):
            return self.score(features.float()).unflatten(-1, (self.codebooks, self.entries))  # type: ignore[no-any-return]

    def forward(self, features: Tensor, temperature: float) -> Quantized:
        """Features (N, F) to codes, their entries, and the logits."""
        logits = self.logits(features)  # (N, G, V)
        if self.training:
            choice = F.gumbel_softmax(logits, tau=temperature, hard=True, dim=-1)
        else:
            choice = F.one_hot(logits.argmax(-1), self.entries).float()
        with torch.autocast(features.device.type, enabled=False):
            codes = torch.einsum("ngv,gvd->ngd", choice, self.table).flatten(1)
            return Quantized(self.project(codes), choice.argmax(-1), logits)


def gumbel_temperature(progress: float, start: float, end: float, fraction: float) -> float:
    """Geometric from ``start`` to ``end`` over the first ``fraction`` of the run; ``progress`` in [0, 1]."""
    done = min(progress / fraction, 1.0) if fraction > 0 else 1.0
    return float(start * (end / start) ** done)
