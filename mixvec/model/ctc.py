"""Heads with CTC: speech recognition, and spoken language understanding over tagged text.

Symbols: B batch, S samples, T frames, D model width, V vocabulary size.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from .context import Context
from .protocol import Encoder, EncoderOutput
from .task_model import Layers, TaskModel
from .trunks import FRAMEWISE, Kind
from .vocabulary import PIECE_SPACE, SPACE, read_tags, vocabulary_of
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
        channels = self.read_through(kind, width)
        self.head_norm = nn.LayerNorm(channels)
        self.output = nn.Linear(channels, len(vocabulary))

    def head(self, encoded: EncoderOutput) -> Tensor:
        """Log-probabilities (B, T, V) in fp32 from the encoder's output."""
        return self.output(self.dropout(self.head_norm(self.choice(encoded)))).float().log_softmax(-1)  # type: ignore[no-any-return]

    def forward(
        self, waveforms: Waveforms, lengths: Tensor | None = None, sampling_rate: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Waveforms (B, S) and lengths (B,) to log-probabilities (B, T, V) and frame lengths (B,)."""
        encoded = self.encoded(waveforms, lengths, sampling_rate)
        return self.head(encoded), encoded.lengths

    def found(self, encoded: EncoderOutput) -> list[list[int]]:
        """The tokens of each utterance, by greedy CTC."""
        return greedy(self.head(encoded), encoded.lengths)

    def spell(self, tokens: list[int]) -> Any:
        """What a sequence of tokens means, blanks dropped."""
        raise NotImplementedError(f"{type(self).__name__}.spell")

    def read(self, encoded: EncoderOutput) -> list[Any]:
        """What ``spell`` gives for each utterance."""
        return [self.spell(tokens) for tokens in self.found(encoded)]

    def decode(self, log_probs: Tensor, frame_lengths: Tensor) -> list[Any]:
        """``read`` by greedy CTC, from log-probabilities (B, T, V) and frame lengths (B,)."""
        return [self.spell(tokens) for tokens in greedy(log_probs, frame_lengths)]

    def stored(self) -> dict[str, int]:
        return {token: i for i, token in enumerate(self.vocabulary)}

    @classmethod
    def restored(cls, encoder: Encoder, stored: Any, settings: dict[str, Any]) -> CtcModel:
        return cls(encoder, vocabulary_of(stored), **settings)


def greedy(log_probs: Tensor, frame_lengths: Tensor) -> list[list[int]]:
    """Greedy CTC, (B, T, V) and (B,) to B sequences: each frame's best token, repeats merged, blanks dropped."""
    rows = zip(log_probs.argmax(-1).cpu(), frame_lengths.tolist(), strict=True)
    merged = [torch.unique_consecutive(row[:length]).tolist() for row, length in rows]
    return [[token for token in tokens if token != 0] for tokens in merged]


class CtcRecognizer(CtcModel):
    """Speech to text. The tokens of ``vocabulary`` are characters or parts of words; the space is ``|``, or ``▁`` in a
    vocabulary without ``|``."""

    does, title = "speech recognition", "Speech recogniser"
    pipeline, command, example = "automatic-speech-recognition", "transcribe", "print(model.transcribe(waveform))"

    @property
    def space(self) -> str:
        """The token that is a space."""
        return SPACE if SPACE in self.vocabulary else PIECE_SPACE

    def spell(self, tokens: list[int]) -> str:
        """The text of a sequence of tokens, blanks dropped."""
        text = "".join(self.vocabulary[token] for token in tokens if token != 0)
        return " ".join(text.replace(self.space, " ").split())

    @torch.inference_mode()
    def transcribe(
        self, waveforms: Waveforms, lengths: Tensor | None = None, sampling_rate: int | None = None
    ) -> list[str]:
        """The text of each utterance of (B, S)."""
        return self.read(self.encoded(waveforms, lengths, sampling_rate))

    def answers(self, encoded: EncoderOutput) -> list[dict[str, Any]]:
        return [{"text": text} for text in self.read(encoded)]

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


class SlotTagger(CtcModel):
    """Speech to an intent, a text and its slots. ``vocabulary`` is that of a recogniser, followed by the tags
    (``vocabulary.py``)."""

    does, title = "slot filling", "Spoken language understanding with slots"
    pipeline, command, example = "automatic-speech-recognition", "understand", "print(model.understand(waveform))"

    def spell(self, tokens: list[int]) -> dict[str, Any]:
        """``intent``, ``text`` and ``slots`` of a sequence of tokens, as in ``read_tags``."""
        return read_tags(self.vocabulary[token] for token in tokens if token != 0)

    @torch.inference_mode()
    def understand(
        self, waveforms: Waveforms, lengths: Tensor | None = None, sampling_rate: int | None = None
    ) -> list[dict[str, Any]]:
        """Each utterance's ``intent``, ``text`` and ``slots``, as in ``read_tags``."""
        return self.read(self.encoded(waveforms, lengths, sampling_rate))

    def answers(self, encoded: EncoderOutput) -> list[dict[str, Any]]:
        return self.read(encoded)
