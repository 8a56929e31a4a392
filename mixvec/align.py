"""When the words of a text are spoken, and how sure a recogniser is of each: CTC forced alignment by torchaudio.

Symbols: T frames, V vocabulary size, U tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .model.vocabulary import PIECE_SPACE, SPACE


class Word(NamedTuple):
    """A word of a text."""

    text: str
    first_frame: int
    end_frame: int
    """The frame after its last."""
    confidence: float
    """The mean probability of its tokens on the alignment, 0 to 1."""


def tokens_of(text: str, log_probs: Tensor, vocabulary: list[str]) -> list[int]:
    """The tokens (U,) of a recogniser's text: its characters or, in a vocabulary of pieces, those of greedy search."""
    if SPACE in vocabulary:
        numbers = {token: number for number, token in enumerate(vocabulary)}
        return [numbers[c] for c in text.replace(" ", SPACE) if c in numbers]
    return [token for token in torch.unique_consecutive(log_probs.argmax(-1)).tolist() if token != 0]


def align_words(log_probs: Tensor, tokens: list[int], vocabulary: list[str]) -> list[Word]:
    """The words of a text along the most probable alignment of its tokens.

    Args:
        log_probs: (T, V) of CTC, whose blank is token 0.
        tokens: (U,) of the text. Where they need more frames than there are, no word is returned.
    """
    from torchaudio.functional import forced_align, merge_tokens

    repeats = sum(a == b for a, b in zip(tokens, tokens[1:], strict=False))
    if not tokens or len(tokens) + repeats > len(log_probs):
        return []
    path, scores = forced_align(log_probs.float().unsqueeze(0), torch.tensor([tokens], dtype=torch.int32))
    words: list[list[tuple[str, int, int, float]]] = [[]]
    for span in merge_tokens(path[0], scores[0].exp()):
        token = vocabulary[span.token]
        if token == SPACE or token.startswith(PIECE_SPACE):
            words.append([])
        if spelled := token.replace(PIECE_SPACE, "").replace(SPACE, ""):
            words[-1].append((spelled, span.start, span.end, float(span.score)))
    return [
        Word("".join(spelled), starts[0], ends[-1], sum(sure) / len(sure))
        for spelled, starts, ends, sure in (zip(*word, strict=True) for word in words if word)
    ]
