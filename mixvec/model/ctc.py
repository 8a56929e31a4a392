"""Speech recognition with CTC.

Symbols: B batch, S samples, T frames, D model width, V vocabulary size.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from .context import Context
from .output import EncoderOutput
from .protocol import Encoder
from .task_model import Layers, TaskModel
from .trunks import FRAMEWISE, Kind, TrunkChoice
from .vocabulary import PIECE_SPACE, SPACE, vocabulary_of
from .waveforms import Waveforms


class CtcModel(TaskModel):
    """The base of heads with CTC: dropout and a linear layer (arXiv 2006.11477 section 3.2).

    Token 0 of ``vocabulary`` is the blank ``[PAD]``. A probing head's trunk can precede them: ``kind=lstm`` is SUPERB's
    for recognition and for slots (arXiv 2105.01051).
    """

    stored_as, auto = "vocab.json", "AutoModelForCTC"

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

    def forward(
        self, waveforms: Waveforms, lengths: Tensor | None = None, sampling_rate: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Waveforms (B, S) and lengths (B,) to log-probabilities (B, T, V) and frame lengths (B,)."""
        encoded = self.encoder(waveforms, lengths, every_layer=self.every_layer, sampling_rate=sampling_rate)
        return self.head(encoded), encoded.lengths

    def stored(self) -> dict[str, int]:
        return {token: i for i, token in enumerate(self.vocabulary)}


class CtcRecognizer(CtcModel):
    """Speech to text: an encoder, dropout, a linear layer and CTC (arXiv 2006.11477 section 3.2).

    The tokens of ``vocabulary`` are characters or parts of words. Token 0 is the blank ``[PAD]``; the space is ``|``,
    or ``▁`` in a vocabulary without ``|``.
    """

    does, title = "speech recognition", "Speech recogniser"
    pipeline, command, example = "automatic-speech-recognition", "transcribe", "print(model.transcribe(waveform))"

    @property
    def space(self) -> str:
        """The token that is a space."""
        return SPACE if SPACE in self.vocabulary else PIECE_SPACE

    @torch.inference_mode()
    def transcribe(
        self, waveforms: Waveforms, lengths: Tensor | None = None, sampling_rate: int | None = None
    ) -> list[str]:
        """The text of each utterance of (B, S)."""
        return self.read(self.encoder(waveforms, lengths, every_layer=self.every_layer, sampling_rate=sampling_rate))

    def read(self, encoded: EncoderOutput) -> list[str]:
        """The text of each utterance: greedy CTC."""
        return self.decode(self.head(encoded), encoded.lengths)

    def answers(self, encoded: EncoderOutput) -> list[dict[str, Any]]:
        return [{"text": text} for text in self.read(encoded)]

    def decode(self, log_probs: Tensor, frame_lengths: Tensor) -> list[str]:
        """Greedy CTC, (B, T, V) and (B,) to B texts: each frame's best token, repeats merged, blanks dropped."""
        best = log_probs.argmax(-1).cpu()
        texts = []
        for row, length in zip(best, frame_lengths.tolist(), strict=True):
            texts.append(self.spell(torch.unique_consecutive(row[:length]).tolist()))
        return texts

    @torch.inference_mode()
    def stream(
        self,
        samples: Tensor,
        state: dict[str, Tensor] | None = None,
        context: Context | None = None,
        *,
        final: bool = False,
    ) -> tuple[list[str], dict[str, Tensor]]:
        """The next pieces of the texts of B streams that advance together, as ``SpeechEncoder.stream`` encodes them.

        The pieces of a stream, joined, are its text by greedy CTC, but for spaces at either end.

        Args:
            samples: (B, S) the next samples at 16 kHz. state, context, final: as in ``SpeechEncoder.stream``.

        Raises:
            ValueError: the encoder or the head cannot stream, or there is no context.
        """
        if self.kind not in FRAMEWISE:
            raise ValueError(f"head.kind={self.kind} sees whole utterances and cannot stream")
        stream = getattr(self.encoder, "stream", None)
        if stream is None:
            raise ValueError(f"{type(self.encoder).__name__} cannot stream; mixvec's own encoder can")
        last = samples.new_zeros(len(samples), dtype=torch.int64) if state is None else state["last"]
        encoded, state = stream(samples, state, context, final=final, every_layer=self.every_layer)
        best = torch.cat([last.unsqueeze(1), self.head(encoded).argmax(-1)], dim=1)  # (B, 1 + T)
        texts = []
        for row in best.tolist():
            tokens = [token for before, token in pairwise(row) if token not in (before, 0)]
            texts.append("".join(self.vocabulary[token] for token in tokens).replace(self.space, " "))
        return texts, state | {"last": best[:, -1]}

    def spell(self, tokens: list[int]) -> str:
        """The text of a sequence of tokens, blanks dropped."""
        text = "".join(self.vocabulary[token] for token in tokens if token != 0)
        return " ".join(text.replace(self.space, " ").split())

    @classmethod
    def restored(cls, encoder: Encoder, stored: Any, settings: dict[str, Any]) -> CtcRecognizer:
        return cls(encoder, vocabulary_of(stored), **settings)
