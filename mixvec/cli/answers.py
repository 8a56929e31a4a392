"""From clips to answers: reading ahead, finding the speech, cutting long recordings, batching by length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..gate import FLOOR_DB, FRAME_S, Span, find_speech, levels_of
from ..model.frontend import SAMPLE_RATE_HZ
from .inputs import Clip
from .predictor import Prediction, Predictor

WINDOW_S = 120.0
"""Audio that is read ahead, so that clips of similar length share a batch."""
BATCH_S = 60.0
"""Padded audio in a batch; what is longer is a batch of its own."""
LONGEST_S, SHORTEST_S = 20.0, 1.0
"""Bounds of the parts of a recording that is cut in its pauses. The longest part of a shorter one is all of it."""


@dataclass
class Answer:
    """A clip with the predictions for its parts: one of all of it, one of each part it was cut into, or none where no
    part is speech."""

    clip: Clip
    seconds: float
    spans_s: list[Span]
    predictions: list[Prediction] = field(default_factory=list)

    @property
    def speech(self) -> bool:
        return bool(self.spans_s)


def answers(
    clips: Iterable[Clip | UserError], predictor: Predictor, *, gate: bool, cut: bool
) -> Iterator[Answer | UserError]:
    """The answer for each clip, in order; an error in place of each that cannot be read.

    Args:
        gate: whether silence gets no prediction.
        cut: whether recordings over ``LONGEST_S`` are cut in their pauses.
    """
    window: list[tuple[Answer, Tensor] | UserError] = []
    waiting_s, enough_s = 0.0, 0.0  # the first clip is answered at once, to see that all is well
    for clip in clips:
        entry = _read(clip, gate, cut)
        window.append(entry)
        waiting_s += 0.0 if isinstance(entry, UserError) else entry[0].seconds
        if waiting_s >= enough_s:
            yield from _answered(window, predictor)
            window, waiting_s, enough_s = [], 0.0, WINDOW_S
    yield from _answered(window, predictor)


def _read(clip: Clip | UserError, gate: bool, cut: bool) -> tuple[Answer, Tensor] | UserError:
    if isinstance(clip, UserError):
        return clip
    try:
        waveform = clip.read()
    except UserError as error:
        return error
    seconds = len(waveform) / SAMPLE_RATE_HZ
    return Answer(clip, seconds, _spans(waveform, seconds, gate, cut and seconds > LONGEST_S)), waveform


def _spans(waveform: Tensor, seconds: float, gate: bool, cut: bool) -> list[Span]:
    """What is answered of a waveform (S,): parts of speech by its energy, all of it, or nothing; seconds from, to."""
    whole = [(0.0, seconds)]
    if not (gate or cut):
        return whole
    levels_db = levels_of(waveform.numpy(), SAMPLE_RATE_HZ)
    if seconds < SHORTEST_S / 2:  # too short for the gate's context of frames
        speech = whole if float(np.max(levels_db, initial=FLOOR_DB)) > FLOOR_DB else []
    else:
        shortest_s = min(SHORTEST_S, FRAME_S * len(levels_db))
        speech = find_speech(levels_db, shortest_s, LONGEST_S if cut else 3 * seconds)
    if not speech:
        return [] if gate else whole
    return speech if cut else whole


def _answered(window: list[tuple[Answer, Tensor] | UserError], predictor: Predictor) -> Iterator[Answer | UserError]:
    """The window's answers with their predictions; similar lengths are computed together."""
    parts: list[tuple[Answer, int, Tensor]] = []
    for entry in window:
        if not isinstance(entry, UserError):
            parts += [(entry[0], number, entry[1][round(begin * SAMPLE_RATE_HZ) : round(end * SAMPLE_RATE_HZ)])
                      for number, (begin, end) in enumerate(entry[0].spans_s)]  # fmt: skip
    parts.sort(key=lambda part: len(part[2]))
    made: dict[tuple[int, int], Prediction | UserError] = {}
    while parts:
        fitting = (n for n in range(len(parts), 1, -1) if n * len(parts[n - 1][2]) <= BATCH_S * SAMPLE_RATE_HZ)
        count = next(fitting, 1)
        batch, parts = parts[:count], parts[count:]
        found = _predicted([waveform for _, _, waveform in batch], predictor)
        made |= {(id(answer), number): one for (answer, number, _), one in zip(batch, found, strict=True)}
    for entry in window:
        if isinstance(entry, UserError):
            yield entry
            continue
        answer, fault = entry[0], None
        for number in range(len(answer.spans_s)):
            one = made[id(answer), number]
            if isinstance(one, UserError):
                fault = UserError(f"{answer.clip.name}: {one}")
            else:
                answer.predictions.append(one)
        yield fault or answer


def _predicted(waveforms: list[Tensor], predictor: Predictor) -> list[Prediction | UserError]:
    """The predictions; one by one where they do not fit into memory together."""
    try:
        return [*predictor.predict(waveforms)]
    except (RuntimeError, MemoryError) as error:
        full = isinstance(error, MemoryError | torch.cuda.OutOfMemoryError) or "can't allocate memory" in str(error)
        if not full:
            raise
    if len(waveforms) > 1:
        return [_predicted([waveform], predictor)[0] for waveform in waveforms]
    seconds = len(waveforms[0]) / SAMPLE_RATE_HZ
    return [UserError(f"{seconds:.0f} s of audio do not fit into memory; cut it into parts")]
