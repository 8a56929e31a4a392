"""The constants of ``encoder.normalise=fixed``, measured before the first update."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from accelerate.utils import broadcast

from ..errors import UserError
from ..model.frontend import UNMEASURED_GAIN, FrontEnd
from .run import Run

SAMPLE_S = 600.0
"""Seconds of training audio that they are measured on."""


def measure_normalisation(run: Run, encoder: Any, sample: Callable[[float], Iterator[Any]]) -> None:
    """Measure the constants of a front end that has none yet, on the main rank, for all; then log it.

    A resumed run and a pretrained encoder keep theirs.

    Args:
        sample: gives the micro-batches of so many seconds of training audio, always the same.

    Raises:
        UserError: that audio is silent.
    """
    front = getattr(encoder, "front_end", None)
    if not isinstance(front, FrontEnd) or not front.fixed or float(front.gain) != UNMEASURED_GAIN:
        return

    def measure() -> float:
        parts = list(sample(SAMPLE_S))
        batches = [
            (part.batch.waveforms.to(front.gain.device), part.batch.lengths.to(front.gain.device)) for part in parts
        ]
        try:
            front.measure(batches)
        except ValueError as error:
            raise UserError(f"data.train: {error}") from None
        return sum(float(part.seconds) for part in parts)

    seconds = run.on_main(measure)
    for constants in front.buffers(recurse=False):
        broadcast(constants)
    run.log.print(f"encoder.normalise=fixed: constants measured on {seconds / 60:.1f} min of data.train")
