"""What every encoder returns. Symbols: B batch, T frames, D model width, L layers."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class EncoderOutput(NamedTuple):
    """The frames of an encoder and of its layers; frames beyond an utterance's length are zero."""

    frames: Tensor
    """(B, T, D), the last of ``layers``."""
    lengths: Tensor
    """(B,) valid frames of each utterance."""
    layers: list[Tensor]
    """L + 1 tensors (B, T, D): the input embedding, then each layer's output, the last after the final norm;
    or ``frames`` alone with ``every_layer=False``."""
