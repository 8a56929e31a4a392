"""Random numbers as a function of keys: an utterance draws the same in any batch, on any rank, in any order.

Each number is a hash of what it is for: the utterance's key, the layer, the frame, the channel. Nothing is stored, so
activation checkpointing recomputes the same numbers, and torch.compile fuses the elementwise operations.

Symbols: B batch, T frames, D channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

BITS = 0xFFFF_FFFF


def hashed(x: Tensor) -> Tensor:
    """A 32-bit hash of each non-negative int64 number below 2^32, by two rounds of multiply and xor-shift.

    The multiplier is below 2^31, so that no product overflows int64, whose overflow C++ leaves undefined.
    """
    x = (x + 0x3C6E_F372) & BITS  # since 0 would hash to 0
    x = ((x ^ (x >> 16)) * 0x7FEB_352D) & BITS
    x = ((x ^ (x >> 15)) * 0x7FEB_352D) & BITS
    return x ^ (x >> 16)


def fold(keys: Tensor, numbers: Tensor | int) -> Tensor:
    """New keys from ``keys`` and ``numbers`` (int64, below 2^32), which broadcast against each other."""
    if isinstance(numbers, int):
        numbers = torch.full((), numbers, dtype=torch.int64, device=keys.device)
    return hashed((keys + hashed(numbers)) & BITS)


def uniform(keys: Tensor) -> Tensor:
    """A number in the open interval (0, 1) for each key, in fp32 with 23 random bits."""
    return ((keys >> 9).float() + 0.5) * 2.0**-23


def gumbel(keys: Tensor) -> Tensor:
    """A draw from the standard Gumbel distribution, -log(-log u), for each key, in fp32."""
    return -(-uniform(keys).log()).log()


class Dropout(nn.Dropout):
    """Dropout whose mask is a function of each utterance's key, where ``set_keys`` has given it keys; else torch's."""

    keys: Tensor | None = None
    """(B,) keys of the rows of the next input (B, T, D) or (B, D)."""

    def forward(self, input: Tensor) -> Tensor:
        """Zero each value with probability ``p`` and divide the others by 1 - p, in training mode."""
        if not self.training or self.p == 0.0:
            return input
        if self.keys is None:
            return super().forward(input)
        keys = self.keys.view(-1, *(1,) * (input.dim() - 1))
        for dim in range(1, input.dim()):
            position = torch.arange(input.shape[dim], device=input.device)
            keys = fold(keys, position.view(-1, *(1,) * (input.dim() - 1 - dim)))
        kept = keys >= round(self.p * 2**32)
        return torch.where(kept, input * (1.0 / (1.0 - self.p)), 0.0)


def set_keys(model: nn.Module, keys: Tensor | None) -> None:
    """Give every ``Dropout`` of ``model`` its own keys for the next batch, derived from the utterances' (B,).

    None returns them to torch's generator.
    """
    layers = [module for module in model.modules() if isinstance(module, Dropout)]
    for number, layer in enumerate(layers):
        layer.keys = None if keys is None or layer.p == 0.0 else fold(keys, number)
