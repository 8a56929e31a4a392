"""CTC and attention together, for recognition and for slots.

Symbols: B batch, S samples, T frames, U tokens of a text, D model width, H heads, V vocabulary size, K hypotheses,
C candidates. Token 0 is CTC's blank.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .ctc import CtcModel, CtcRecognizer, SlotTagger
from .encoder import sinusoidal_positions
from .noise import Dropout
from .padding import padding_mask
from .protocol import Encoder, EncoderOutput
from .task_model import Layers

Keys = tuple[Tensor, Tensor]
"""Keys and values, each (B, H, T or U, D/H)."""
END = 0
"""CTC's blank, which is begin and end of a text to the decoder."""
END_RATIO = 1.5
"""γ: a text may end where log p(end) ≥ γ max log p(token) (Hannun et al., arXiv 1904.02619, with attention alone; here
p is of both). An end that smoothed labels make possible would else outweigh all that it leaves out."""
CANDIDATES = 40
"""Tokens tried after each hypothesis, those that attention finds likeliest; all of an alphabet, as a rule."""


class Attention(nn.Module):
    """Multi-head attention of one sequence to another, or to its own past."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query, self.key_value, self.out = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)

    def keys(self, x: Tensor) -> Keys:
        """What (B, T, D) offers to be attended to."""
        key, value = self.key_value(x).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return key, value

    def forward(self, x: Tensor, keys: Keys, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """x (B, U, D) to (B, U, D); ``mask`` (B, 1, 1, T) is True where there is something to attend to."""
        query = self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, H, U, D/H)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, *keys, attn_mask=mask, is_causal=causal, dropout_p=dropout)
        return self.out(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class DecoderLayer(nn.Module):
    """Self-attention to the past, attention to the frames, feed-forward, each after a LayerNorm on a residual path."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self.past, self.frames = Attention(dim, heads, dropout), Attention(dim, heads, dropout)
        self.feed_forward = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, frames: Keys, mask: Tensor | None, past: Keys | None = None) -> tuple[Tensor, Keys]:
        """x (B, U, D), a whole text or, with ``past``, the token that follows, to (B, U, D) and the past's new keys."""
        normed = self.norms[0](x)
        own = self.past.keys(normed)
        if past is not None:
            own = torch.cat([past[0], own[0]], dim=2), torch.cat([past[1], own[1]], dim=2)
        x = x + self.dropout(self.past(normed, own, causal=past is None))
        x = x + self.dropout(self.frames(self.norms[1](x), frames, mask))
        return x + self.dropout(self.feed_forward(self.norms[2](x))), own


class PrefixScores:
    """CTC's probability, by log-probabilities (T, V), that an utterance begins with given tokens (Watanabe et al. 2017,
    algorithm 2).

    The recursion over frames, r_t = p_t(c) (r_{t−1} + φ_{t−1}), is a cumulative sum once both sides are divided by
    Π p_t(c), so one call handles all frames, hypotheses and candidates. In float64, which is exact enough for that.
    """

    def __init__(self, log_probs: Tensor) -> None:
        self._x = log_probs.double()  # (T, V)
        self._sums = F.pad(self._x.cumsum(0), (0, 0, 1, 0))  # (T + 1, V): Σ over s ≤ t

    def start(self) -> Tensor:
        """The state (1, 2, T + 1) of the empty prefix: log-probabilities of all alignments of the first t frames to it
        that end in a token, and in a blank."""
        blanks = self._sums[:, 0]
        return torch.stack([torch.full_like(blanks, -math.inf), blanks]).unsqueeze(0)

    def extend(self, state: Tensor, last: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
        """Extend every hypothesis by every candidate.

        Args:
            state: (K, 2, T + 1).
            last: (K,) each hypothesis's last token; 0 where it has none.
            candidates: (K, C) tokens, not 0.

        Returns:
            log-probabilities (K, C) of these beginnings, and their states (K, C, 2, T + 1).
        """
        spoken, blank = state.unsqueeze(1).unbind(2)  # (K, 1, T + 1)
        either = torch.logaddexp(spoken, blank)
        repeats = (candidates == last.unsqueeze(1)).unsqueeze(2)  # the same token again needs a blank between
        before = torch.where(repeats, blank, either)[..., :-1]  # (K, C, T): φ_{t−1}
        x, sums = self._x.T[candidates], self._sums.T[candidates]  # (K, C, T), (K, C, T + 1)
        begin = torch.full_like(x[..., :1], -math.inf)  # no token before the first frame
        new = torch.cat([begin, torch.logcumsumexp(before - sums[..., :-1], dim=2) + sums[..., 1:]], dim=2)
        blanks = self._sums[:, 0]
        new_blank = torch.logcumsumexp(new[..., :-1] - blanks[:-1], dim=2) + blanks[1:]
        new_blank = torch.cat([begin, new_blank], dim=2)
        return torch.logsumexp(before + x, dim=2), torch.stack([new, new_blank], dim=2)

    def whole(self, state: Tensor) -> Tensor:
        """Log-probabilities (K,) that nothing follows the hypotheses of a state (K, 2, T + 1)."""
        return torch.logaddexp(state[:, 0, -1], state[:, 1, -1])


class Hypotheses(NamedTuple):
    """K texts that are not yet at their end."""

    tokens: list[list[int]]
    attention: Tensor
    """(K,) log-probabilities that attention gives their tokens."""
    ctc: Tensor
    """(K, 2, T + 1), see ``PrefixScores``."""
    joint: Tensor
    """(K,) what both together give a text that begins so."""
    past: list[Keys] | None
    """Each layer's keys; None before the first token."""


class HybridModel(CtcModel):
    """CTC and a transformer decoder on one encoder (Watanabe et al. 2017, IEEE JSTSP 11(8)), trained together.

    The search is for the text y with the largest λ log p_ctc(y | x) + (1 − λ) log p_att(y | x) of those that may end
    (``END_RATIO``; with λ = 1, of all). Neither grows as a text gets longer, so a search ends where no hypothesis can
    overtake the best that is complete.
    """

    def __init__(
        self, encoder: Encoder, vocabulary: list[str], layers: Layers = "last", dropout: float = 0.1,
        decoder_layers: int = 3, ctc_weight: float = 0.3, beam: int = 4,
    ) -> None:  # fmt: skip
        """``ctc_weight``: λ. ``beam``: hypotheses kept in a search; 1 is greedy."""
        super().__init__(encoder, vocabulary, layers, dropout)
        self.ctc_weight, self.beam = ctc_weight, beam
        dim, heads = encoder.dim, encoder.heads
        self.embedding = nn.Embedding(len(vocabulary), dim)
        nn.init.normal_(self.embedding.weight, std=dim**-0.5)
        self.decoder = nn.ModuleList(DecoderLayer(dim, heads, dropout) for _ in range(decoder_layers))
        self.decoder_norm = nn.LayerNorm(dim)
        self.decoder_output = nn.Linear(dim, len(vocabulary))

    def settings(self) -> dict[str, Any]:
        own = {"decoder_layers": len(self.decoder), "ctc_weight": self.ctc_weight, "beam": self.beam}
        return super().settings() | own

    def attend(self, encoded: EncoderOutput, texts: Tensor) -> Tensor:
        """Logits (B, U + 1, V) in fp32 of what follows each token of ``texts`` (B, U), and of what comes first.

        After a text's own end they mean nothing; what comes before does not depend on it.
        """
        frames, mask = self._frames(encoded), padding_mask(encoded.lengths, encoded.frames.shape[1])
        begun = F.pad(texts, (1, 0), value=END)
        x = self._embed(begun, 0)  # (B, U + 1, D)
        for layer in self._layers():
            x, _ = layer(x, layer.frames.keys(frames), mask[:, None, None, :])
        return self.decoder_output(self.decoder_norm(x)).float()  # type: ignore[no-any-return]

    @torch.no_grad()
    def found(self, encoded: EncoderOutput) -> list[list[int]]:
        """The tokens of each utterance, by the search over both."""
        frames, log_probs = self._frames(encoded), self.head(encoded)
        rows = zip(frames, log_probs, encoded.lengths.tolist(), strict=True)
        return [self.search(own[:length], ctc[:length])[0] for own, ctc, length in rows]

    def search(self, frames: Tensor, log_probs: Tensor) -> tuple[list[int], float]:
        """The best tokens of one utterance, and their score; where none may end, those of all texts.

        Args:
            frames: (T, D), what the decoder attends to.
            log_probs: (T, V) of CTC.
        """
        keys = [layer.frames.keys(frames.unsqueeze(0)) for layer in self._layers()]
        scores, share = PrefixScores(log_probs), self.ctc_weight
        open_ = Hypotheses([[]], frames.new_zeros(1).float(), scores.start(), frames.new_zeros(1).double(), None)
        best: tuple[list[int], float] = [], -math.inf
        spare = best  # the best of those that may not end
        for _ in range(len(frames) + 1):
            following, past = self._step(open_, keys)
            total = open_.attention.unsqueeze(1) + following  # (K, V)
            ends = (1 - share) * total[:, END].double() + (share * scores.whole(open_.ctc) if share else 0.0)
            likely = total[:, 1:].topk(min(CANDIDATES, total.shape[1] - 1), dim=1)
            candidates = likely.indices + 1  # (K, C)
            last = torch.tensor([own[-1] if own else 0 for own in open_.tokens], device=frames.device)
            begun, states = scores.extend(open_.ctc, last, candidates)
            joint = (1 - share) * likely.values.double() + (share * begun if share else 0.0)
            if float(ends.max()) > spare[1]:
                spare = open_.tokens[int(ends.argmax())], float(ends.max())
            if share < 1:
                follows = joint.amax(1) - open_.joint
                ends = ends.masked_fill(ends - open_.joint < END_RATIO * follows, -math.inf)
            if float(ends.max()) > best[1]:
                best = open_.tokens[int(ends.argmax())], float(ends.max())
            value, chosen = joint.flatten().topk(min(self.beam, joint.numel()))
            chosen = chosen[value > best[1]]  # the others can only fall further
            if len(chosen) == 0:
                break
            row, column = chosen // joint.shape[1], chosen % joint.shape[1]
            new = zip(row.tolist(), candidates[row, column].tolist(), strict=True)
            tokens = [[*open_.tokens[k], token] for k, token in new]
            kept = [(key[row], value[row]) for key, value in past]
            open_ = Hypotheses(tokens, likely.values[row, column], states[row, column], value[: len(row)], kept)
        return best if best[1] > -math.inf else spare

    def _step(self, open_: Hypotheses, frames: list[Keys]) -> tuple[Tensor, list[Keys]]:
        """Log-probabilities (K, V) of what follows each hypothesis, and the layers' keys with its last token."""
        count, length = len(open_.tokens), len(open_.tokens[0])
        last = [[own[-1] if own else END] for own in open_.tokens]
        x = self._embed(torch.tensor(last, device=open_.attention.device), length)  # (K, 1, D)
        past = []
        for number, layer in enumerate(self._layers()):
            shared = frames[number][0].expand(count, -1, -1, -1), frames[number][1].expand(count, -1, -1, -1)
            x, own = layer(x, shared, None, open_.past[number] if open_.past else None)
            past.append(own)
        return self.decoder_output(self.decoder_norm(x[:, 0])).float().log_softmax(-1), past

    def _layers(self) -> list[DecoderLayer]:
        return cast("list[DecoderLayer]", list(self.decoder))

    def _frames(self, encoded: EncoderOutput) -> Tensor:
        return self.dropout(self.head_norm(self.choice(encoded)))  # type: ignore[no-any-return]

    def _embed(self, tokens: Tensor, first: int) -> Tensor:
        """Tokens (B, U), the first of which is at position ``first``, to (B, U, D)."""
        width = self.embedding.embedding_dim
        positions = sinusoidal_positions(first + tokens.shape[1], width, tokens.device)[first:]
        return self.dropout(self.embedding(tokens) * math.sqrt(width) + positions)  # type: ignore[no-any-return]


class HybridRecognizer(HybridModel, CtcRecognizer):
    """Speech to text with CTC and attention together."""


class HybridTagger(HybridModel, SlotTagger):
    """Speech to an intent, a text and its slots, where a decoder generates the tagged text beside CTC."""
