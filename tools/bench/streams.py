"""A chunk of a stream, and training in chunks, by the length of the audio."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mixvec import SpeechEncoder
from mixvec.model.context import Context

from .measure import Work
from .ours import load

CHUNK_S, PIECE_S = 0.64, 9.6
RATE_HZ = 16_000


def encoder_of(keys: Sequence[str], left_chunks: int | None) -> tuple[SpeechEncoder, Context]:
    encoder = SpeechEncoder(load("small", (*keys, "encoder.streaming=true", "encoder.dropout=0")).encoder)
    return encoder, Context(round(CHUNK_S * RATE_HZ) // encoder.hop_samples, left_chunks)


def chunk(keys: Sequence[str], left_chunks: int | None, age_s: float) -> Work:
    """The next chunk of a stream that is ``age_s`` old; the note is the size of its state."""
    encoder, context = encoder_of(keys, left_chunks)
    encoder.eval()
    torch.manual_seed(0)
    state: dict[str, Tensor] | None = None
    piece = 0.1 * torch.randn(1, round(PIECE_S * RATE_HZ))
    for _ in range(max(1, round(age_s / PIECE_S))):
        state = encoder.stream(piece, state, context, every_layer=False)[1]
    assert state is not None
    size = sum(value.numel() * value.element_size() for value in state.values())
    samples, kept = piece[:, : round(CHUNK_S * RATE_HZ)], state
    return Work(lambda: encoder.stream(samples, kept, context, every_layer=False), f"state of {size / 1000:.0f} kB")


def training(keys: Sequence[str], left_chunks: int | None, length_s: float) -> Work:
    """Forward and backward of an encoder that learns to stream, without dropout."""
    encoder, context = encoder_of(keys, left_chunks)
    encoder.train()
    encoder.drawn_context = context
    waveforms = 0.1 * torch.randn(1, round(length_s * RATE_HZ))
    return Work(lambda: encoder(waveforms, every_layer=False).frames.square().mean().backward(), "forward and backward")
