"""Heads on an encoder: characters with CTC, and one label per utterance.

Symbols: B batch, S samples, T frames, D model width, L layers, V vocabulary entries, N labels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from .config import EncoderConfig
from .encoder import build_encoder
from .output import EncoderOutput
from .padding import padding_mask

Layers = Literal["last", "weighted"]


class LayerChoice(nn.Module):
    """The frames a head reads: the last layer's, or a softmax-weighted sum of all L + 1 (SUPERB, arXiv 2105.01051)."""

    def __init__(self, num_layers: int, layers: Layers) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(num_layers + 1)) if layers == "weighted" else None

    def forward(self, output: EncoderOutput) -> Tensor:
        """To (B, T, D)."""
        if self.weights is None:
            return output.frames
        return torch.einsum("l,lbtd->btd", self.weights.softmax(0), torch.stack(output.layers))


class CtcRecognizer(nn.Module):
    """Speech to characters: an encoder, dropout, a linear layer and CTC (arXiv 2006.11477 section 3.2).

    Entry 0 of ``vocabulary`` is the blank ``[PAD]``; ``|`` stands for a space.
    """

    def __init__(
        self, config: EncoderConfig, vocabulary: list[str], layers: Layers = "last", dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.encoder = build_encoder(config)
        self.vocabulary, self.layers = list(vocabulary), layers
        self.choice = LayerChoice(config.num_layers, layers)
        self.norm = nn.LayerNorm(config.dim)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(config.dim, len(vocabulary))

    def head(self, encoded: EncoderOutput) -> Tensor:
        """Log-probabilities (B, T, V) in fp32 from the encoder's output."""
        return self.output(self.dropout(self.norm(self.choice(encoded)))).float().log_softmax(-1)  # type: ignore[no-any-return]

    def forward(self, waveforms: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Waveforms (B, S) and lengths (B,) to log-probabilities (B, T, V) and frame lengths (B,)."""
        encoded = self.encoder(waveforms, lengths)
        return self.head(encoded), encoded.lengths

    @torch.inference_mode()
    def transcribe(self, waveforms: Tensor, lengths: Tensor | None = None) -> list[str]:
        """Greedy text of each utterance of (B, S)."""
        log_probs, frames = self(waveforms, lengths)
        return self.decode(log_probs, frames)

    def decode(self, log_probs: Tensor, frame_lengths: Tensor) -> list[str]:
        """Greedy CTC: the best entry of each frame, repeats merged, blanks dropped. (B, T, V), (B,) to B texts."""
        best = log_probs.argmax(-1).cpu()
        texts = []
        for row, length in zip(best, frame_lengths.tolist(), strict=True):
            entries = torch.unique_consecutive(row[:length]).tolist()
            text = "".join(self.vocabulary[entry] for entry in entries if entry != 0)
            texts.append(" ".join(text.replace("|", " ").split()))
        return texts

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, revision: str | None = None) -> CtcRecognizer:
        """The recogniser of a hub folder or hub repository, in eval mode; errors as ``SpeechEncoder``'s."""
        from .hub import load_as

        return load_as(cls, name_or_path, revision)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a hub folder with the model, its vocabulary, preprocessor config and model card."""
        from .hub import save_folder

        save_folder(self, folder)


class Classifier(nn.Module):
    """One label per utterance: an encoder, attentive pooling over the real frames, a linear layer.

    pooled = Σ_t softmax_t(w · tanh(W x_t)) x_t  (arXiv 1703.03130 with one hop), then LayerNorm, dropout, linear.
    """

    def __init__(self, config: EncoderConfig, labels: list[str], layers: Layers = "last", dropout: float = 0.1) -> None:
        super().__init__()
        self.encoder = build_encoder(config)
        self.labels, self.layers = list(labels), layers
        self.choice = LayerChoice(config.num_layers, layers)
        self.score = nn.Sequential(nn.Linear(config.dim, config.dim // 2), nn.Tanh(), nn.Linear(config.dim // 2, 1))
        self.norm = nn.LayerNorm(config.dim)
        self.dropout = nn.Dropout(dropout)
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
        return self.head(self.encoder(waveforms, lengths))

    @torch.inference_mode()
    def understand(self, waveforms: Tensor, lengths: Tensor | None = None) -> list[dict[str, float]]:
        """Each utterance's labels with their probabilities, the likeliest first."""
        return self.rank(self(waveforms, lengths))

    def rank(self, logits: Tensor) -> list[dict[str, float]]:
        """Logits (B, N) to each utterance's labels with their probabilities, the likeliest first."""
        ranked = []
        for row in logits.softmax(-1).cpu():
            order = row.argsort(descending=True).tolist()
            ranked.append({self.labels[i]: float(row[i]) for i in order})
        return ranked

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, revision: str | None = None) -> Classifier:
        """The classifier of a hub folder or hub repository, in eval mode; errors as ``SpeechEncoder``'s."""
        from .hub import load_as

        return load_as(cls, name_or_path, revision)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a hub folder with the model, its labels, preprocessor config and model card."""
        from .hub import save_folder

        save_folder(self, folder)
