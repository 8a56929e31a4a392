"""Speech recognition with CTC.

Symbols: B batch, S samples, T frames, D model width, V vocabulary entries.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .output import EncoderOutput
from .protocol import Encoder
from .task_model import Layers, TaskModel
from .trunks import Kind, TrunkChoice
from .vocabulary import PIECE_SPACE, SPACE, vocabulary_of


class CtcModel(TaskModel):
    """What heads with CTC share: dropout and a linear layer (arXiv 2006.11477 section 3.2).

    Entry 0 of ``vocabulary`` is the blank ``[PAD]``. A trunk of a probing head may stand before them: ``kind=lstm`` is
    SUPERB's for recognition and for slots (arXiv 2105.01051).
    """

    stored_as = "vocab.json"

    def __init__(
        self, encoder: Encoder, vocabulary: list[str], layers: Layers = "last", dropout: float = 0.1,
        kind: Kind = "own", width: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(encoder, layers, dropout)
        self.vocabulary = list(vocabulary)
        self.kind, self.asked_width = kind, width
        self.choice: TrunkChoice = TrunkChoice(encoder.dim, encoder.num_layers, layers, kind, width)
        self.head_norm = nn.LayerNorm(self.choice.width)
        self.output = nn.Linear(self.choice.width, len(vocabulary))

    def settings(self) -> dict[str, Any]:
        trunk = {} if self.kind == "own" else {"kind": self.kind, "width": self.asked_width}
        return super().settings() | trunk

    def head(self, encoded: EncoderOutput) -> Tensor:
        """Log-probabilities (B, T, V) in fp32 from the encoder's output."""
        return self.output(self.dropout(self.head_norm(self.choice(encoded)))).float().log_softmax(-1)  # type: ignore[no-any-return]

    def forward(self, waveforms: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Waveforms (B, S) and lengths (B,) to log-probabilities (B, T, V) and frame lengths (B,)."""
        encoded = self.encoder(waveforms, lengths, every_layer=self.every_layer)
        return self.head(encoded), encoded.lengths

    def stored(self) -> dict[str, int]:
        return {entry: i for i, entry in enumerate(self.vocabulary)}


class CtcRecognizer(CtcModel):
    """Speech to text: an encoder, dropout, a linear layer and CTC (arXiv 2006.11477 section 3.2).

    ``vocabulary`` holds characters or pieces of words. Its entry 0 is the blank ``[PAD]``; ``|`` stands for a space, or
    ``▁`` where no entry is ``|``.
    """

    does, title = "speech recognition", "Speech recogniser"
    pipeline, command, example = "automatic-speech-recognition", "transcribe", "print(model.transcribe(waveform))"

    @property
    def space(self) -> str:
        """The entry that stands for a space."""
        return SPACE if SPACE in self.vocabulary else PIECE_SPACE

    @torch.inference_mode()
    def transcribe(self, waveforms: Tensor, lengths: Tensor | None = None) -> list[str]:
        """The text of each utterance of (B, S)."""
        return self.read(self.encoder(waveforms, lengths, every_layer=self.every_layer))

    def read(self, encoded: EncoderOutput) -> list[str]:
        """The text of each utterance: greedy CTC."""
        return self.decode(self.head(encoded), encoded.lengths)

    def answer(self, waveforms: Tensor) -> dict[str, Any]:
        return {"text": self.transcribe(waveforms)[0]}

    def decode(self, log_probs: Tensor, frame_lengths: Tensor) -> list[str]:
        """Greedy CTC: the best entry of each frame, repeats merged, blanks dropped. (B, T, V), (B,) to B texts."""
        best = log_probs.argmax(-1).cpu()
        texts = []
        for row, length in zip(best, frame_lengths.tolist(), strict=True):
            texts.append(self.spell(torch.unique_consecutive(row[:length]).tolist()))
        return texts

    def spell(self, entries: list[int]) -> str:
        """The text that entries spell, blanks dropped."""
        text = "".join(self.vocabulary[entry] for entry in entries if entry != 0)
        return " ".join(text.replace(self.space, " ").split())

    @classmethod
    def restored(cls, encoder: Encoder, stored: Any, settings: dict[str, Any]) -> CtcRecognizer:
        return cls(encoder, vocabulary_of(stored), **settings)
