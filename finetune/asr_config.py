"""What recognition may choose, and of it slots the decoder: ``asr`` in a fine-tuning's configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

UnitKind = Literal["characters", "bpe", "unigram"]


@dataclass(frozen=True)
class AsrConfig:
    units: UnitKind = "characters"
    """What is recognised: characters, or the pieces of a sentencepiece model trained on the training text
    (bpe: arXiv 1508.07909; unigram: arXiv 1804.10959)."""
    vocabulary_size: int = 500
    """Pieces of bpe and unigram, the blank among them."""
    decoder: Literal["none", "attention"] = "none"
    """attention: a small transformer decoder beside CTC (Watanabe et al. 2017, IEEE JSTSP 11(8))."""
    ctc_weight: float = 0.3
    """CTC's share λ of the loss and of the score in decoding, with the attention decoder."""
    decoder_layers: int = 3
    label_smoothing: float = 0.1
    """Of the attention decoder's cross-entropy."""
    beam: int = 4
    """Hypotheses kept by the attention decoder; 1 is greedy. CTC alone is decoded greedily; see tools.decode."""

    def __post_init__(self) -> None:
        if self.vocabulary_size < 3:
            raise ValueError(f"asr.vocabulary_size={self.vocabulary_size} must be at least 3")
        if not 0.0 <= self.ctc_weight <= 1.0:
            raise ValueError(f"asr.ctc_weight={self.ctc_weight} must lie in [0, 1]")
        if self.decoder_layers < 1 or self.beam < 1:
            raise ValueError(f"asr.decoder_layers={self.decoder_layers} and asr.beam={self.beam} must be at least 1")
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ValueError(f"asr.label_smoothing={self.label_smoothing} must lie in [0, 1)")
