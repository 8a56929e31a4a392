"""From the output of CTC to words with their times and confidences: along its best path, of a given text, as it comes.

Symbols: T frames, V vocabulary size, U tokens. Token 0 is the blank.
"""

from __future__ import annotations

import warnings
from itertools import groupby, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchaudio.functional import forced_align

from .errors import UserError
from .model.vocabulary import PIECE_SPACE, SPACE


class Word(NamedTuple):
    """A word of a text, in the fields of JSON output."""

    word: str
    start_s: float
    end_s: float
    """From the first frame of its first token to the last of its last, up to some 0.1 s off the sound."""
    confidence: float
    """The mean probability of its tokens in their frames, 0 to 1; not calibrated."""


def align_words(
    log_probs: Tensor, text: str, vocabulary: list[str], start_s: float = 0.0, frame_s: float = 1.0,
    tokens: list[int] | None = None,
) -> list[Word]:  # fmt: skip
    """The words of a recogniser's text; none where the text needs more frames than there are.

    Args:
        log_probs: (T, V) of CTC.
        text: found by greedy search, whose path is known, or in another way, for which the best path is searched.
        start_s: where the first frame is.
        frame_s: seconds between frames.
        tokens: of the text, where they are known.
    """
    scores = log_probs.float()
    path: list[int] | None = scores.argmax(1).tolist()
    if _spelled(vocabulary[token] for token, _ in groupby(path or []) if token) != text:
        path = best_path(scores, tokens or tokens_of(text, vocabulary))
    if path is None:
        return []
    sure = scores[torch.arange(len(path)), torch.tensor(path)].exp()
    return words_along(path, sure.tolist(), vocabulary, start_s, frame_s)


def words_along(
    path: list[int], sure: list[float], vocabulary: list[str], start_s: float, frame_s: float
) -> list[Word]:
    """The words along a path of CTC, the token of each frame (T,) with its probability (T,)."""
    words: list[list[tuple[str, int, int, float]]] = [[]]
    end = 0
    for number, run in groupby(path):
        first, end = end, end + len(list(run))
        token = vocabulary[number] if number else ""
        if token == SPACE or token.startswith(PIECE_SPACE):
            words.append([])
        if letters := _spelled([token]):
            words[-1].append((letters, first, end, sum(sure[first:end]) / (end - first)))
    return [
        Word(
            "".join(letters),
            round(start_s + firsts[0] * frame_s, 3),
            round(start_s + ends[-1] * frame_s, 3),
            round(sum(means) / len(means), 3),
        )
        for letters, firsts, ends, means in (zip(*word, strict=True) for word in words if word)
    ]


def _spelled(tokens: Any) -> str:
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


def best_path(log_probs: Tensor, tokens: list[int]) -> list[int] | None:
    """The token, or the blank 0, of each frame (T,) on the most probable path of (T, V) that spells ``tokens``; None
    where the frames are too few, or there is nothing to spell."""
    repeats = sum(one == other for one, other in pairwise(tokens))  # between which CTC needs a blank
    if not tokens or len(tokens) + repeats > len(log_probs):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torchaudio 2.9 announces a removal that 2.11 took back
        path, _ = forced_align(log_probs.unsqueeze(0), torch.tensor([tokens]))
    return path[0].tolist()  # type: ignore[no-any-return]


def ctc_decoder() -> Any:
    """torchaudio's factory of beam searches.

    Raises:
        UserError: flashlight-text is not installed.
    """
    try:
        from torchaudio.models.decoder import ctc_decoder
    except ImportError as error:
        raise UserError(f"beam search needs flashlight-text: pip install flashlight-text ({error})") from error
    return ctc_decoder


def ctc_search(vocabulary_size: int, beam: int) -> Any:
    """torchaudio's ``CTCDecoder``: prefix search without a language model (Graves et al. 2006; Hannun et al., arXiv
    1408.2873, algorithm 1), exact where ``beam`` holds every prefix.

    Raises:
        UserError: flashlight-text is not installed.
    """
    return ctc_decoder()(
        lexicon=None, tokens=list(map(str, range(vocabulary_size))), lm=None, beam_size=beam,
        beam_size_token=min(beam, vocabulary_size), beam_threshold=float("inf"), log_add=True, blank_token="0",
        sil_token="0",
    )  # fmt: skip


class Transcript:
    """What has been recognised since the last pause.

    Example::

        transcript = Transcript(model.vocabulary)
        transcript.extend(log_probs)  # of each chunk
        print(transcript.words(0.0, 0.02))
    """

    def __init__(self, vocabulary: list[str], beam: int | None = None) -> None:
        self.vocabulary = vocabulary
        self.path: list[int] = []
        """The token of each frame that the model is surest of."""
        self._sure: list[float] = []
        self._search: Any = None if beam is None else ctc_search(len(vocabulary), beam)
        self._log_probs = torch.zeros(0, len(vocabulary))
        if self._search:
            self._search.decode_begin()

    @property
    def blanks(self) -> int:
        """Frames after the last token."""
        return next((n for n, token in enumerate(reversed(self.path)) if token), len(self.path))

    def extend(self, log_probs: Tensor) -> None:
        """Add the next frames, log-probabilities (T, V) in fp32 on the CPU."""
        values, tokens = log_probs.max(-1)
        self.path += tokens.tolist()
        self._sure += values.exp().tolist()
        if self._search and len(log_probs):
            self._log_probs = torch.cat([self._log_probs, log_probs])
            self._search.decode_step(log_probs.contiguous())

    def finish(self) -> None:
        """Add up the alignments that beam search has kept apart; no frames may follow."""
        if self._search and self.path:
            self._search.decode_end()

    def words(self, start_s: float, frame_s: float) -> list[Word]:
        """The words so far, the last of which may still grow; the arguments are those of ``align_words``."""
        if not (self._search and self.path):
            return words_along(self.path, self._sure, self.vocabulary, start_s, frame_s)
        best = self._search.get_final_hypothesis()[0]
        path, places = [0] * len(self.path), best.timesteps - 1  # flashlight counts the start as a frame
        for token, place in zip(best.tokens.tolist(), places.tolist(), strict=True):
            path[place] = token
        sure = self._log_probs[torch.arange(len(path)), torch.tensor(path)].exp()
        return words_along(path, sure.tolist(), self.vocabulary, start_s, frame_s)
