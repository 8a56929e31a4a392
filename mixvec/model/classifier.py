"""One label per utterance, with attentive pooling or with a probing head.

Symbols: B batch, S samples, T frames, D model width, N labels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .protocol import Encoder, EncoderOutput
from .task_model import Layers, TaskModel
from .trunks import STATISTICS, AttentiveStatistics, Kind, attention_weights, mean_of
from .waveforms import Waveforms


class Classifier(TaskModel):
    """One label per utterance: an encoder, attentive pooling over the valid frames, LayerNorm, dropout, a linear layer.

    pooled = Σ_t softmax_t(w · tanh(W x_t)) x_t  (arXiv 1703.03130 with one hop).
    """

    stored_as, does, title = "labels.json", "classification", "Utterance classifier"
    pipeline, command, example = "audio-classification", "understand", "print(model.understand(waveform))"
    auto = "AutoModelForAudioClassification"

    def __init__(self, encoder: Encoder, labels: list[str], layers: Layers = "last", dropout: float = 0.1) -> None:
        super().__init__(encoder, layers, dropout)
        self.labels = list(labels)
        dim = encoder.dim
        self.score = nn.Sequential(nn.Linear(dim, dim // 2), nn.Tanh(), nn.Linear(dim // 2, 1))
        self.head_norm = nn.LayerNorm(dim)
        self.output = nn.Linear(dim, len(labels))

    def head(self, encoded: EncoderOutput) -> Tensor:
        """Logits (B, N) in fp32 from the encoder's output."""
        x = self.choice(encoded)  # (B, T, D)
        weights = attention_weights(self.score, x, encoded.lengths)  # (B, T, 1)
        pooled = (weights.to(x.dtype) * x).sum(dim=1)  # (B, D)
        return self.output(self.dropout(self.head_norm(pooled))).float()  # type: ignore[no-any-return]

    @torch.inference_mode()
    def understand(
        self, waveforms: Waveforms, lengths: Tensor | None = None, sampling_rate: int | None = None
    ) -> list[dict[str, float]]:
        """Each utterance's labels with their probabilities, the likeliest first."""
        return self.rank(self(waveforms, lengths, sampling_rate))

    def answers(self, encoded: EncoderOutput) -> list[dict[str, Any]]:
        ranked = self.rank(self.head(encoded))
        return [{"label": next(iter(row)), "probabilities": {label: round(p, 6) for label, p in row.items()}}
                for row in ranked]  # fmt: skip

    def rank(self, logits: Tensor) -> list[dict[str, float]]:
        """Logits (B, N) to each utterance's labels with their probabilities, the likeliest first."""
        values, orders = logits.softmax(-1).cpu().sort(dim=-1, descending=True, stable=True)
        rows = zip(values.tolist(), orders.tolist(), strict=True)
        return [{self.labels[i]: p for i, p in zip(order, row, strict=True)} for row, order in rows]


class ProbeClassifier(Classifier):
    """A classifier with a trunk: ``kind=linear`` is SUPERB's head, a projection, the mean over time, a linear layer."""

    def __init__(
        self, encoder: Encoder, labels: list[str], layers: Layers = "weighted", dropout: float = 0.0,
        kind: Kind = "linear", width: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(encoder, labels, layers, dropout)
        del self.score, self.head_norm
        channels = self.read_through(kind, width)
        self.pooling = AttentiveStatistics(channels) if kind in STATISTICS else None
        self.output = nn.Linear(channels if self.pooling is None else 2 * channels, len(labels))

    def head(self, encoded: EncoderOutput) -> Tensor:
        """Logits (B, N) in fp32 from the encoder's output."""
        pooled = (self.pooling or mean_of)(self.choice(encoded), encoded.lengths)
        return self.output(self.dropout(pooled)).float()  # type: ignore[no-any-return]

    def settings(self) -> dict[str, Any]:
        return super().settings() | {"kind": self.kind, "width": self.asked_width}
