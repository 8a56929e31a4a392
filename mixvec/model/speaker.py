"""Speaker embeddings: points on a sphere, compared by their cosine.

Symbols: B batch, S samples, T frames, E width of the embedding, N speakers of the training data.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .protocol import Encoder, EncoderOutput
from .task_model import Layers, TaskModel
from .trunks import AttentiveStatistics, Kind
from .waveforms import Waveforms


class SpeakerEmbedder(TaskModel):
    """An encoder, a trunk, attentive statistics pooling (arXiv 1803.10963), LayerNorm, a linear layer, length 1.

    ``speakers`` are those of the training data, each a direction (E,); a new speaker needs none of them.
    """

    stored_as, does, title = "speakers.json", "speaker verification", "Speaker embedder"
    pipeline, command, example = None, "embed", "print(model.embed(waveform))"
    auto = "AutoModelForAudioXVector"

    def __init__(
        self, encoder: Encoder, speakers: list[str], layers: Layers = "weighted", dropout: float = 0.0,
        kind: Kind = "own", width: int | None = None, embedding: int = 192,
    ) -> None:  # fmt: skip
        super().__init__(encoder, layers, dropout)
        self.speakers, self.embedding = list(speakers), embedding
        channels = self.read_through(kind, width)
        self.pooling = AttentiveStatistics(channels)
        self.head_norm = nn.LayerNorm(2 * channels)
        self.output = nn.Linear(2 * channels, embedding)
        self.directions = nn.Parameter(torch.randn(len(speakers), embedding))

    def head(self, encoded: EncoderOutput) -> Tensor:
        """Embeddings (B, E) of length 1, in fp32, from the encoder's output."""
        pooled = self.pooling(self.choice(encoded), encoded.lengths)
        embeddings: Tensor = self.output(self.dropout(self.head_norm(pooled))).float()
        return nn.functional.normalize(embeddings, dim=-1)

    def cosines(self, embeddings: Tensor) -> Tensor:
        """Embeddings (B, E) to their cosines (B, N) with the speakers of the training data."""
        return embeddings @ nn.functional.normalize(self.directions.float(), dim=-1).T

    @torch.inference_mode()
    def embed(self, waveforms: Waveforms, lengths: Tensor | None = None, sampling_rate: int | None = None) -> Tensor:
        """Waveforms (B, S) to embeddings (B, E): the cosine of two is the similarity of their speakers."""
        return self(waveforms, lengths, sampling_rate)  # type: ignore[no-any-return]

    def answers(self, encoded: EncoderOutput) -> list[dict[str, Any]]:
        return [{"embedding": [round(x, 6) for x in embedding]} for embedding in self.head(encoded).tolist()]

    def settings(self) -> dict[str, Any]:
        return super().settings() | {"embedding": self.embedding}
