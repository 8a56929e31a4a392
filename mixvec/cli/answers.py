"""From clips to answers: reading ahead, finding the speech, cutting long recordings, batching by length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..gate import FLOOR_DB, FRAME_S, find_speech, levels_of
from .inputs import Clip
from .predictor import Prediction, Predictor

WINDOW_S = 120.0
"""Audio that is read ahead, so that clips of similar length share a batch."""
BATCH_S = 60.0
"""Padded audio in a batch; what is longer is a batch of its own."""
LONGEST_S, SHORTEST_S = 20.0, 1.0
"""Bounds of the parts of a recording that is cut in its pauses. The longest part of a shorter one is all of it."""
BELOW_DB = 35.0
"""Frames so far under a recording's loud level are a pause."""

Span = tuple[float, float]


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
        window.append(_read(clip, predictor.sample_rate_hz, gate, cut) if isinstance(clip, Clip) else clip)
        last = window[-1]
        waiting_s += 0.0 if isinstance(last, UserError) else last[0].seconds
        if waiting_s >= enough_s:
            yield from _answered(window, predictor)
            window, waiting_s, enough_s = [], 0.0, WINDOW_S
    yield from _answered(window, predictor)


def _read(clip: Clip, rate_hz: int, gate: bool, cut: bool) -> tuple[Answer, Tensor] | UserError:
    try:
        waveform = clip.read()
    except UserError as error:
        return error
    seconds = len(waveform) / rate_hz
    cut, whole = cut and seconds > LONGEST_S, [(0.0, seconds)]
    spans_s = speech_of(waveform, rate_hz, cut) if gate or cut else whole
    if not spans_s:
        return Answer(clip, seconds, [] if gate else whole), waveform
    return Answer(clip, seconds, spans_s if cut else whole), waveform


def speech_of(waveform: Tensor, rate_hz: int, cut: bool) -> list[Span]:
    """Where a waveform (S,) holds speech, by its energy: seconds from, to; in parts of at most ``LONGEST_S``, or with
    ``cut`` False of any length."""
    seconds = len(waveform) / rate_hz
    levels_db = levels_of(waveform.numpy(), round(FRAME_S * rate_hz))
    if seconds < SHORTEST_S / 2:  # too short for the gate's context of frames
        return [(0.0, seconds)] if float(np.max(levels_db, initial=FLOOR_DB)) > FLOOR_DB else []
    longest_s = LONGEST_S if cut else seconds + 1.0
    bounds_s = find_speech(levels_db, FRAME_S, min(SHORTEST_S, FRAME_S * len(levels_db)), longest_s, BELOW_DB)
    return [(begin, end) for begin, end in bounds_s.tolist()]


def _answered(window: list[tuple[Answer, Tensor] | UserError], predictor: Predictor) -> Iterator[Answer | UserError]:
    """The window's answers with their predictions; similar lengths are computed together."""
    rate_hz = predictor.sample_rate_hz
    parts: list[tuple[int, int, Tensor]] = []
    for number, entry in enumerate(window):
        if not isinstance(entry, UserError):
            answer, waveform = entry
            parts += [(number, part, waveform[round(begin * rate_hz) : round(end * rate_hz)])
                      for part, (begin, end) in enumerate(answer.spans_s)]  # fmt: skip
    parts.sort(key=lambda part: len(part[2]))
    found: dict[tuple[int, int], Prediction | UserError] = {}
    while parts:
        count = max(1, next((n for n in range(len(parts), 0, -1)
                             if n * len(parts[n - 1][2]) <= BATCH_S * rate_hz), 1))  # fmt: skip
        batch, parts = parts[:count], parts[count:]
        made_now = _predicted([part[2] for part in batch], predictor)
        found |= {(number, part): one for (number, part, _), one in zip(batch, made_now, strict=True)}
    for number, entry in enumerate(window):
        if isinstance(entry, UserError):
            yield entry
            continue
        answer, _ = entry
        made = [found[number, part] for part in range(len(answer.spans_s))]
        answer.predictions = [one for one in made if isinstance(one, Prediction)]
        failed = [one for one in made if isinstance(one, UserError)]
        yield UserError(f"{answer.clip.name}: {failed[0]}") if failed else answer


def _predicted(waveforms: list[Tensor], predictor: Predictor) -> list[Prediction | UserError]:
    """The predictions; one by one where they do not fit into memory together."""
    try:
        return [*predictor.predict(waveforms)]
    except (RuntimeError, MemoryError) as error:
        if not _out_of_memory(error):
            raise
    if len(waveforms) > 1:
        return [_predicted([waveform], predictor)[0] for waveform in waveforms]
    seconds = len(waveforms[0]) / predictor.sample_rate_hz
    return [UserError(f"{seconds:.0f} s of audio do not fit into memory; cut it into parts")]


def _out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError | torch.cuda.OutOfMemoryError) or "can't allocate memory" in str(error)
