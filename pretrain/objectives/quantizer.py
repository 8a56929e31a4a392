"""The Gumbel product quantizer of wav2vec 2.0 (arXiv 2006.11477, section 3.1, eq. 1), in fp32, never compiled.

Symbols: B batch, M frames, F feature channels, G codebooks, V entries, D code width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mixvec.model.noise import fold, gumbel


class Quantized(NamedTuple):
    """Frames after quantization."""

    codes: Tensor  # (B, M, D) the chosen entries, through the output projection
    entries: Tensor  # (B, M, G) int64, the entry chosen in each codebook
    logits: Tensor  # (B, M, G, V) fp32


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

    def forward(self, features: Tensor, temperature: float, keys: Tensor) -> Quantized:
        """Quantize features (B, M, F); in training each utterance's noise is a function of its key (B,).

        The choice is one-hot in the forward pass and softmax((logits + noise) / temperature) in the backward pass.
        """
        logits = self.logits(features)  # (B, M, G, V)
        soft = ((logits + self._noise(keys, logits)) / temperature).softmax(-1) if self.training else logits
        entries = soft.argmax(-1)
        choice = torch.zeros_like(soft).scatter_(-1, entries.unsqueeze(-1), 1.0)  # one_hot would wait for the device
        if self.training:
            choice = choice - soft.detach() + soft
        with torch.autocast(features.device.type, enabled=False):
            codes = torch.einsum("bmgv,gvd->bmgd", choice, self.table).flatten(2)
            return Quantized(self.project(codes), entries, logits)

    def _noise(self, keys: Tensor, logits: Tensor) -> Tensor:
        """Gumbel noise (B, M, G, V) by utterance, masked frame and entry."""
        _, frames, codebooks, entries = logits.shape
        frame_keys = fold(keys.unsqueeze(1), torch.arange(frames, device=keys.device))  # (B, M)
        entry = torch.arange(codebooks * entries, device=keys.device).view(codebooks, entries)
        return gumbel(fold(frame_keys[..., None, None], entry))


def gumbel_temperature(progress: float, start: float, end: float, fraction: float) -> float:
    """Geometric from ``start`` to ``end`` over the first ``fraction`` of the run; ``progress`` is in [0, 1]."""
    done = min(progress / fraction, 1.0) if fraction > 0 else 1.0
    return float(start * (end / start) ** done)
