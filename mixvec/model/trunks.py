"""Trunks of probing heads, between the frames and their pooling or labels: those of SUPERB and MP3S.

Symbols: B batch, T frames, D model width, W the trunk's own width. BatchNorm of the papers, which sees the
whole batch and its padding, is replaced by LayerNorm over channels: an utterance gives the same alone and in a batch.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from .output import EncoderOutput
from .padding import padding_mask, zero_padding
from .task_model import LayerChoice, Layers
from .tdnn import ContextNet, Ecapa, XVector

Kind = Literal["own", "linear", "lstm", "contextnet", "xvector", "ecapa"]
WIDTHS = {"linear": 256, "lstm": 1024, "contextnet": 640, "xvector": 512, "ecapa": 512}
"""W in the papers. linear: SUPERB (arXiv 2105.01051), the projection before its mean over time. lstm: SUPERB's ASR, a
projection and two bidirectional LSTM layers. contextnet, xvector and ecapa: MP3S (arXiv 2306.00452)."""
FRAMEWISE = ("own", "linear")
"""Trunks in which a frame sees no other, as a stream needs."""
STATISTICS = ("xvector", "ecapa")
"""Trunks that are followed by mean and standard deviation over time; the others are followed by the mean."""


class Linear(nn.Module):
    """Each frame to W channels."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.project = nn.Linear(dim, width)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, D), lengths (B,) to (B, T, W)."""
        return self.project(x)  # type: ignore[no-any-return]


class Lstm(nn.Module):
    """Each frame to W channels, then two bidirectional LSTM layers of W each way, with dropout 0.2 between them."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.width = 2 * width
        self.project = nn.Linear(dim, width)
        self.lstm = nn.LSTM(width, width, num_layers=2, bidirectional=True, dropout=0.2, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, D), lengths (B,) to (B, T, 2 W)."""
        real = lengths.clamp(min=1).cpu()  # an utterance without frames cannot be packed
        packed = pack_padded_sequence(self.project(x), real, batch_first=True, enforce_sorted=False)
        made, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=x.shape[1])
        return zero_padding(made, padding_mask(lengths, x.shape[1]))


class TrunkChoice(LayerChoice):
    """The frames a probing head reads: the choice of layers, then its trunk."""

    def __init__(self, dim: int, num_layers: int, layers: Layers, kind: Kind, width: int | None) -> None:
        """
        Raises:
            ValueError: there is no such kind, or ``width`` does not suit it.
        """
        super().__init__(num_layers, layers)
        makers: dict[str, Any] = {
            "linear": Linear, "lstm": Lstm, "contextnet": ContextNet, "xvector": XVector, "ecapa": Ecapa,
        }  # fmt: skip
        if kind != "own" and kind not in makers:
            raise ValueError(f"head.kind={kind} is unknown; choose own or one of {', '.join(makers)}")
        if width is not None and (width < 8 or width % 8):
            raise ValueError(f"head.width={width} must be a multiple of 8")
        self.trunk = None if kind == "own" else makers[kind](dim, width or WIDTHS[kind])
        self.width: int = dim if self.trunk is None else self.trunk.width

    def forward(self, output: EncoderOutput) -> Tensor:
        """To (B, T, ``width``)."""
        x = super().forward(output)
        return x if self.trunk is None else self.trunk(x, output.lengths)
