"""The probability, by the output of CTC, that a text has a given beginning.

Symbols: T frames, V vocabulary size, K hypotheses, C candidates. Token 0 is the blank.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

BLANK = 0


class PrefixScores:
    """CTC's probability that an utterance begins with given tokens (Watanabe et al. 2017, algorithm 2).

    The recursion over frames, r_t = p_t(c) (r_{t−1} + φ_{t−1}), is a cumulative sum once both sides are divided by
    Π p_t(c), so one call handles all frames, hypotheses and candidates. In float64, which is exact enough for that.
    """

    def __init__(self, log_probs: Tensor) -> None:
        """``log_probs``: (T, V) of one utterance."""
        self._x = log_probs.double()  # (T, V)
        self._sums = torch.nn.functional.pad(self._x.cumsum(0), (0, 0, 1, 0))  # (T + 1, V): Σ over s ≤ t

    def start(self) -> Tensor:
        """The state (1, 2, T + 1) of the empty prefix: log-probabilities of all alignments of the first t frames to it
        that end in a token, and in a blank."""
        blanks = self._sums[:, BLANK]
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
        new = _padded(torch.logcumsumexp(before - sums[..., :-1], dim=2) + sums[..., 1:])
        blanks = self._sums[:, BLANK]
        new_blank = _padded(torch.logcumsumexp(new[..., :-1] - blanks[:-1], dim=2) + blanks[1:])
        return torch.logsumexp(before + x, dim=2), torch.stack([new, new_blank], dim=2)

    def whole(self, state: Tensor) -> Tensor:
        """Log-probabilities (K,) that nothing follows the hypotheses of a state (K, 2, T + 1)."""
        return torch.logaddexp(state[:, 0, -1], state[:, 1, -1])


def _padded(x: Tensor) -> Tensor:
    """(…, T) to (…, T + 1): no token before the first frame."""
    return torch.nn.functional.pad(x, (1, 0), value=-math.inf)
