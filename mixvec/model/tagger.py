"""Spoken language understanding with CTC over tagged text.

Symbols: B batch, S samples, T frames, D model width, V vocabulary size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .ctc import CtcModel
from .output import EncoderOutput
from .protocol import Encoder
from .tags import read_tags
from .vocabulary import vocabulary_of
from .waveforms import Waveforms


class SlotTagger(CtcModel):
    """Speech to an intent, a text and its slots: an encoder, dropout, a linear layer and CTC.

    ``vocabulary`` is that of a recogniser, followed by the tags (``tags.py``).
    """

    does, title = "slot filling", "Spoken language understanding with slots"
    pipeline, command, example = "automatic-speech-recognition", "understand", "print(model.understand(waveform))"

    @torch.inference_mode()
    def understand(
        self, waveforms: Waveforms, lengths: Tensor | None = None, sampling_rate: int | None = None
    ) -> list[dict[str, Any]]:
        """Each utterance's ``intent``, ``text`` and ``slots``, as in ``read_tags``."""
        return self.read(self.encoder(waveforms, lengths, every_layer=self.every_layer, sampling_rate=sampling_rate))

    def read(self, encoded: EncoderOutput) -> list[dict[str, Any]]:
        """Each utterance's ``intent``, ``text`` and ``slots`` from the encoder's output."""
        return self.decode(self.head(encoded), encoded.lengths)

    def answers(self, encoded: EncoderOutput) -> list[dict[str, Any]]:
        return self.read(encoded)

    def decode(self, log_probs: Tensor, frame_lengths: Tensor) -> list[dict[str, Any]]:
        """The best token of each frame, repeats merged, blanks dropped, tags read. (B, T, V), (B,) to B answers."""
        answers = []
        for row, length in zip(log_probs.argmax(-1).cpu(), frame_lengths.tolist(), strict=True):
            tokens = torch.unique_consecutive(row[:length]).tolist()
            answers.append(read_tags(self.vocabulary[token] for token in tokens if token != 0))
        return answers

    @classmethod
    def restored(cls, encoder: Encoder, stored: Any, settings: dict[str, Any]) -> SlotTagger:
        return cls(encoder, vocabulary_of(stored), **settings)
