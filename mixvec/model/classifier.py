"""One label per utterance.

Symbols: B batch, S samples, T frames, D model width, N labels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from .config import EncoderConfig
from .output import EncoderOutput
from .padding import padding_mask
from .task_model import Layers, TaskModel


class Classifier(TaskModel):
    """One label per utterance: an encoder, attentive pooling over the real frames, a linear layer.

    pooled = Σ_t softmax_t(w · tanh(W x_t)) x_t  (arXiv 1703.03130 with one hop), then LayerNorm, dropout, linear.
    """

    stored_as, does, title = "labels.json", "classification", "Utterance classifier"
    pipeline, command, example = "audio-classification", "understand", "print(model.understand(waveform))"

    def __init__(self, config: EncoderConfig, labels: list[str], layers: Layers = "last", dropout: float = 0.1) -> None:
        super().__init__(config, layers, dropout)
        self.labels = list(labels)
        self.score = nn.Sequential(nn.Linear(config.dim, config.dim // 2), nn.Tanh(), nn.Linear(config.dim // 2, 1))
        self.norm = nn.LayerNorm(config.dim)
        self.output = nn.Linear(config.dim, len(labels))

    def head(self, encoded: EncoderOutput) -> Tensor:
        """Logits (B, N) in fp32 from the encoder's output."""
        x = self.choice(encoded)  # (B, T, D)
        real = padding_mask(encoded.lengths, x.shape[1]).unsqueeze(-1)
        weights = self.score(x).float().masked_fill(~real, -torch.inf).softmax(dim=1)  # (B, T, 1)
        pooled = (weights.to(x.dtype) * x).sum(dim=1)  # (B, D)
        return self.output(self.dropout(self.norm(pooled))).float()  # type: ignore[no-any-return]

    def forward(self, waveforms: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Waveforms (B, S) and lengths (B,) to logits (B, N)."""
        return self.head(self.encoder(waveforms, lengths, every_layer=self.every_layer))

    @torch.inference_mode()
    def understand(self, waveforms: Tensor, lengths: Tensor | None = None) -> list[dict[str, float]]:
        """Each utterance's labels with their probabilities, the likeliest first."""
        return self.rank(self(waveforms, lengths))

    def answer(self, waveforms: Tensor) -> dict[str, Any]:
        ranked = self.understand(waveforms)[0]
        return {"label": next(iter(ranked)), "probabilities": {label: round(p, 6) for label, p in ranked.items()}}

    def rank(self, logits: Tensor) -> list[dict[str, float]]:
        """Logits (B, N) to each utterance's labels with their probabilities, the likeliest first."""
        ranked = []
        for row in logits.softmax(-1).cpu():
            order = row.argsort(descending=True).tolist()
            ranked.append({self.labels[i]: float(row[i]) for i in order})
        return ranked

    def stored(self) -> list[str]:
        return self.labels

    @classmethod
    def restored(cls, config: EncoderConfig, stored: Any, settings: dict[str, Any]) -> Classifier:
        if not isinstance(stored, list) or not all(isinstance(label, str) for label in stored):
            raise UserError(f"{cls.stored_as}: not a list of labels")
        return cls(config, stored, **settings)
