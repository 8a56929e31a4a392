"""The probing classifier: a trunk of SUPERB or MP3S between encoder and output. Heads with CTC take a trunk themselves.

Symbols: B batch, T frames, N labels.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .classifier import Classifier
from .output import EncoderOutput
from .pooling import AttentiveStatistics, MeanPooling
from .protocol import Encoder
from .task_model import Layers
from .trunks import STATISTICS, Kind, TrunkChoice


class ProbeClassifier(Classifier):
    """A classifier with a trunk: ``kind=linear`` is SUPERB's head, a projection, the mean over time, a linear layer."""

    def __init__(
        self, encoder: Encoder, labels: list[str], layers: Layers = "weighted", dropout: float = 0.0,
        kind: Kind = "linear", width: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(encoder, labels, layers, dropout)
        del self.score, self.head_norm
        self.kind, self.asked_width = kind, width
        self.choice: TrunkChoice = TrunkChoice(encoder.dim, encoder.num_layers, layers, kind, width)
        pooling = AttentiveStatistics if kind in STATISTICS else MeanPooling
        self.pooling = pooling(self.choice.width)
        self.output = nn.Linear(self.pooling.width, len(labels))

    def head(self, encoded: EncoderOutput) -> Tensor:
        """Logits (B, N) in fp32 from the encoder's output."""
        pooled = self.pooling(self.choice(encoded), encoded.lengths)
        return self.output(self.dropout(pooled)).float()  # type: ignore[no-any-return]

    def settings(self) -> dict[str, Any]:
        return super().settings() | {"kind": self.kind, "width": self.asked_width}
