"""When the words of a text are spoken, and how sure a recogniser is of each, along the best path of CTC.

Symbols: T frames, V vocabulary size, U tokens.
"""

from __future__ import annotations

from itertools import groupby
from typing import NamedTuple

import numpy as np
from torch import Tensor

from .model.vocabulary import PIECE_SPACE, SPACE


class Word(NamedTuple):
    """A word of a text."""

    text: str
    first_frame: int
    end_frame: int
    """The frame after its last."""
    confidence: float
    """The mean probability of its tokens in their frames, 0 to 1."""


def align_words(log_probs: Tensor, text: str, vocabulary: list[str]) -> list[Word]:
    """The words of a recogniser's text; none where the text needs more frames than there are.

    Args:
        log_probs: (T, V) of CTC, whose blank is token 0.
        text: found by greedy search, whose path is known, or in another way, for which the best path is searched.
    """
    scores = log_probs.float().numpy()
    path = scores.argmax(1)
    if _spelled([vocabulary[token] for token, _ in groupby(path) if token]) != text:
        found = best_path(scores, tokens_of(text, vocabulary))
        if found is None:
            return []
        path = found
    words: list[list[tuple[str, int, int, float]]] = [[]]
    end = 0
    for number, run in groupby(path.tolist()):
        first, end = end, end + len(list(run))
        token = vocabulary[number] if number else ""
        if token == SPACE or token.startswith(PIECE_SPACE):
            words.append([])
        if letters := _spelled([token]):
            words[-1].append((letters, first, end, float(np.exp(scores[first:end, number]).mean())))
    return [
        Word("".join(letters), firsts[0], ends[-1], sum(sure) / len(sure))
        for letters, firsts, ends, sure in (zip(*word, strict=True) for word in words if word)
    ]


def _spelled(tokens: list[str]) -> str:
    return " ".join("".join(tokens).replace(SPACE, " ").replace(PIECE_SPACE, " ").split())


def tokens_of(text: str, vocabulary: list[str]) -> list[int]:
    """The tokens (U,) of a text: characters, or of pieces the longest that fit; what has no token is left out."""
    numbers = {token: number for number, token in enumerate(vocabulary) if number}
    left = text.replace(" ", SPACE) if SPACE in numbers else PIECE_SPACE + text.replace(" ", PIECE_SPACE)
    longest, tokens = max(map(len, numbers)), []
    while left:
        size = next((n for n in range(min(longest, len(left)), 0, -1) if left[:n] in numbers), 0)
        tokens += [numbers[left[:size]]] if size else []
        left = left[max(1, size) :]
    return tokens


def best_path(log_probs: np.ndarray, tokens: list[int]) -> np.ndarray | None:
    """The token, or the blank 0, of each frame (T,) on the most probable path of (T, V) that spells ``tokens`` (Viterbi
    search over the states of Graves et al. 2006, equation 6); None where the frames are too few."""
    labels = np.array([0, *(number for token in tokens for number in (token, 0))])  # blanks around all
    emitted = log_probs[:, labels]  # (T, 2 U + 1)
    skips = np.where((labels[2:] != 0) & (labels[2:] != labels[:-2]), 0.0, -np.inf)
    score = np.full(len(labels), -np.inf)
    score[:2] = emitted[0, :2]
    back = np.zeros(emitted.shape, np.uint8)  # how many states the best way to each came forward
    for frame in range(1, len(emitted)):
        ways = np.full((3, len(labels)), -np.inf)
        ways[0], ways[1, 1:], ways[2, 2:] = score, score[:-1], score[:-2] + skips
        back[frame] = ways.argmax(0)
        score = ways.max(0) + emitted[frame]
    state = len(labels) - 1 - int(len(labels) > 1 and score[-2] > score[-1])
    if score[state] == -np.inf:
        return None
    path = np.zeros(len(emitted), np.int64)
    for frame in range(len(emitted) - 1, -1, -1):
        path[frame] = labels[state]
        state -= int(back[frame, state])
    return path
