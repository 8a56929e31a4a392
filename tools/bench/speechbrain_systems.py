"""SpeechBrain's wav2vec 2.0: found where it is installed, and not measured yet."""

from __future__ import annotations

import speechbrain  # noqa: F401

from mixvec import UserError

from .cases import Case, Work


def update(case: Case, variant: str) -> Work:
    """
    Raises:
        UserError: always.
    """
    raise UserError("speechbrain is installed, but its recipe is not measured here yet")
