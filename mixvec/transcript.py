"""From the output of CTC, as it comes, to words with times: greedy, or by prefix beam search.

Symbols: T frames, V vocabulary size. Token 0 is the blank.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .errors import UserError

BLANK = 0


class Word(NamedTuple):
    """A word of a stream."""

    word: str
    start_s: float
    end_s: float
    """Where CTC's peaks of its first and its last token are, which is up to some 0.1 s off the sound."""
    confidence: float
    """The geometric mean of the probabilities of its tokens, each at its peak; not calibrated."""


@dataclass
class Peak:
    """A token as CTC outputs it: its first and last frame, and its highest log-probability."""

    token: int
    first: int
    last: int
    log_prob: float


def ctc_search(vocabulary_size: int, beam: int) -> Any:
    """torchaudio's ``CTCDecoder``: prefix search without a language model (Graves et al. 2006; Hannun et al., arXiv
    1408.2873, algorithm 1), exact where ``beam`` holds every prefix.

    Raises:
        UserError: flashlight-text is not installed.
    """
    return ctc_decoder()(
        lexicon=None, tokens=list(map(str, range(vocabulary_size))), lm=None, beam_size=beam,
        beam_size_token=min(beam, vocabulary_size), beam_threshold=float("inf"), log_add=True, blank_token=str(BLANK),
        sil_token=str(BLANK),
    )  # fmt: skip


def ctc_decoder() -> Any:
    """torchaudio's factory of searches.

    Raises:
        UserError: flashlight-text is not installed.
    """
    try:
        from torchaudio.models.decoder import ctc_decoder
    except ImportError as error:
        raise UserError(f"beam search needs flashlight-text: pip install flashlight-text ({error})") from error
    return ctc_decoder


class Transcript:
    """What has been recognised since the last pause.

    Example::

        transcript = Transcript(model.vocabulary, model.space)
        transcript.extend(log_probs)  # of each chunk
        print(transcript.words(0.0, 0.02))
    """

    def __init__(self, vocabulary: list[str], space: str, beam: int | None = None) -> None:
        self.vocabulary, self.space, self.frames, self.blanks = vocabulary, space, 0, 0
        self.peaks: list[Peak] = []
        """Of the best hypothesis so far."""
        self._last = BLANK
        self._search: Any = None if beam is None else ctc_search(len(vocabulary), beam)
        self._log_probs: list[Tensor] = []
        if self._search:
            self._search.decode_begin()

    def extend(self, log_probs: Tensor) -> None:
        """Add the next frames, log-probabilities (T, V) in fp32 on the CPU.

        ``frames`` counts all frames, ``blanks`` those after the last token that the model was surest of.
        """
        values, tokens = log_probs.max(-1)
        for token, value in zip(tokens.tolist(), values.tolist(), strict=True):
            if token != BLANK and token == self._last and self._search is None:
                self.peaks[-1].last = self.frames
                self.peaks[-1].log_prob = max(self.peaks[-1].log_prob, value)
            elif token != BLANK and self._search is None:
                self.peaks.append(Peak(token, self.frames, self.frames, value))
            self.blanks = self.blanks + 1 if token == BLANK else 0
            self._last = token
            self.frames += 1
        if self._search and len(log_probs):
            self._log_probs.append(log_probs)
            self._search.decode_step(log_probs.contiguous())
            self.peaks = self._searched()

    def finish(self) -> None:
        """Add up the alignments that beam search has kept apart; no frames may follow."""
        if self._search and self._log_probs:
            self._search.decode_end()
            self.peaks = self._searched()

    def _searched(self) -> list[Peak]:
        best, log_probs = self._search.get_final_hypothesis()[0], torch.cat(self._log_probs)
        places = [place - 1 for place in best.timesteps.tolist()]  # flashlight counts the start as a frame
        return [
            Peak(token, place, place, float(log_probs[place, token]))
            for token, place in zip(best.tokens.tolist(), places, strict=True)
        ]

    def words(self, start_s: float, frame_s: float) -> list[Word]:
        """The words so far, the last of which may still grow.

        Args:
            start_s: where the first frame is. frame_s: seconds between frames.
        """
        found: list[tuple[str, list[Peak]]] = []
        open_word = False
        for peak in self.peaks:
            for letter in self.vocabulary[peak.token].replace(self.space, " "):
                if letter.isspace():
                    open_word = False
                elif open_word:
                    text, peaks = found[-1]
                    found[-1] = text + letter, peaks if peaks[-1] is peak else [*peaks, peak]
                else:
                    found.append((letter, [peak]))
                    open_word = True
        return [
            Word(
                text,
                round(start_s + peaks[0].first * frame_s, 3),
                round(start_s + (peaks[-1].last + 1) * frame_s, 3),
                round(math.exp(sum(peak.log_prob for peak in peaks) / len(peaks)), 3),
            )
            for text, peaks in found
        ]
