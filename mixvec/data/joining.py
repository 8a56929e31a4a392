"""``data.join_s``: neighbouring utterances joined to longer ones, since a model that is trained on short clips loses
accuracy on long ones.

Neighbours follow each other in the order of the corpus and are segments of one recording, or of one speaker, or, where
rows name no speaker, files of one folder. Each is in one joined utterance, in every epoch in the same one.
"""

from __future__ import annotations

from pathlib import PurePath

import numpy as np

from .sources import Corpus
from .utterances import Utterance

OVERLAP_S = 0.01
"""By how much a segment may begin before the end of the one before, as rounded times do."""


def join_neighbours(corpus: Corpus, join_s: float) -> str | None:
    """Join the neighbours of ``corpus``, in order, as many as ``join_s`` seconds hold; what it did, for the log."""
    firsts, counts, total_s = list[int](), list[int](), 0.0
    before: Utterance | None = None
    for number, utterance in enumerate(corpus.utterances):
        if before and total_s + utterance.duration_s <= join_s and _follows(before, utterance):
            counts[-1] += 1
            total_s += utterance.duration_s
        else:
            firsts.append(number)
            counts.append(1)
            total_s = utterance.duration_s
        before = utterance
    found = len(corpus.utterances)
    if len(firsts) == found:
        return None
    corpus.utterances = corpus.utterances.joined(np.array(firsts), np.array(counts))
    return f"{found:,} utterances are joined to {len(firsts):,} of up to {join_s:g} s (data.join_s)"


def _follows(one: Utterance, other: Utterance) -> bool:
    """Whether ``other`` is a neighbour of ``one``, which precedes it in the corpus."""
    if one.corpus_number != other.corpus_number or (one.text is None) != (other.text is None):
        return False
    if one.source == other.source:
        return other.start_s >= one.start_s + one.duration_s - OVERLAP_S
    if one.speaker or other.speaker:
        return one.speaker == other.speaker
    files = one.stored is None and other.stored is None
    return files and PurePath(one.source).parent == PurePath(other.source).parent
