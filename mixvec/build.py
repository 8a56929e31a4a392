"""The one place where a configuration becomes an encoder, ours or fairseq2's."""

from __future__ import annotations

from .model.config import EncoderConfig
from .model.encoder import SpeechEncoder
from .model.logmel import LogMelEncoder
from .model.protocol import Encoder


def build_encoder(config: EncoderConfig) -> Encoder:
    """The encoder that ``config`` describes, its weights drawn at random: ours, fairseq2's or log-mel features.

    Raises:
        UserError: ``kind=wav2vec2`` without fairseq2 installed.
        ValueError: fairseq2 cannot build it.
    """
    if config.kind == "wav2vec2":
        from .wav2vec2 import Wav2Vec2Encoder  # imports fairseq2, which is optional

        return Wav2Vec2Encoder(config)
    return LogMelEncoder(config) if config.kind == "log-mel" else SpeechEncoder(config)
