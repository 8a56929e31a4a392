"""What every encoder gives. Symbols: B batch, T frames, D model width, L layers."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class EncoderOutput(NamedTuple):
    """An encoder's frames and what lies beneath them; frames beyond an utterance's length are zero."""

    frames: Tensor
    """(B, T, D), the last of ``layers``."""
    lengths: Tensor
    """(B,) real frames of each utterance."""
    layers: list[Tensor]
    """L + 1 tensors (B, T, D): the input embedding, then each layer's output, the last after the final norm;
    or ``frames`` alone, where no more was asked for."""
