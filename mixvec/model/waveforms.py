"""What may be given where waveforms are wanted: tensors, arrays, lists, names of files; at 16 kHz or another rate.

Symbols: B batch, S samples.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
from torch import Tensor

from .mel import SAMPLE_RATE_HZ

Waveforms: TypeAlias = "Tensor | np.ndarray | str | os.PathLike[str] | Sequence[Any]"
"""A batch (B, S), one waveform (S,), the name of a file, or a sequence of these, whose lengths may differ."""
LOWEST_HZ, HIGHEST_HZ = 1_000, 1_000_000


class Sound:
    """Reading a file as a waveform (S,) at 16 kHz and resampling one from a rate in Hz, which the package provides."""

    reader: ClassVar[Callable[[str | os.PathLike[str]], Tensor] | None] = None
    resampler: ClassVar[Callable[[Tensor, int], Tensor] | None] = None


def batch_of(waveforms: Waveforms, lengths: Any, rate_hz: int | None) -> tuple[Tensor, Tensor | None]:
    """A padded batch (B, S) at 16 kHz and lengths (B,); a batch that is one already is returned as it is.

    Integers are scaled by their type's range, so that they are within ±1.

    Raises:
        ValueError: a row is empty, no waveform or not finite, or ``rate_hz`` is no rate; the message names the row.
    """
    if rate_hz is not None and (isinstance(rate_hz, bool) or not LOWEST_HZ <= rate_hz <= HIGHEST_HZ):
        raise ValueError(f"sampling_rate={rate_hz!r} must be a rate in Hz, {LOWEST_HZ} to {HIGHEST_HZ}")
    lengths = None if lengths is None else torch.as_tensor(lengths)
    ready = isinstance(waveforms, Tensor) and waveforms.dim() == 2 and waveforms.is_floating_point()
    if isinstance(waveforms, Tensor) and ready and rate_hz in (None, SAMPLE_RATE_HZ):
        return waveforms, lengths
    rows = _rows(waveforms)
    if lengths is not None and lengths.shape != (len(rows),):
        raise ValueError(f"lengths must be ({len(rows)},), one for each waveform, not {tuple(lengths.shape)}")
    made = []
    for number, row in enumerate(rows):
        waveform = _waveform(row, number, rate_hz)
        if lengths is not None:
            check_length(int(lengths[number]), len(waveform), 1, number)
            waveform = waveform[: int(lengths[number])]
        if not waveform.isfinite().all():
            raise ValueError(f"waveform {number} holds values that are not finite")
        if rate_hz not in (None, SAMPLE_RATE_HZ) and not isinstance(row, str | os.PathLike):
            waveform = _resampled(waveform, int(rate_hz or 0))
        made.append(waveform)
    return torch.nn.utils.rnn.pad_sequence(made, batch_first=True), torch.tensor([len(row) for row in made])


def check_length(length: int, samples: int, least: int, row: int) -> None:
    """
    Raises:
        ValueError: row ``row`` of a batch with ``samples`` cannot have ``length``, or is shorter than ``least``.
    """
    if length > samples or length < least:
        bounds = f"the batch has {samples}" if length > samples else f"at least {least} are needed; pad it with silence"
        raise ValueError(f"lengths[{row}]={length} samples: {bounds}")


def _rows(waveforms: Waveforms) -> Sequence[Any]:
    if isinstance(waveforms, str | os.PathLike):
        return [waveforms]
    if isinstance(waveforms, Tensor | np.ndarray):
        return [*waveforms] if waveforms.ndim == 2 else [waveforms]
    if not isinstance(waveforms, Sequence) or isinstance(waveforms, bytes):
        raise ValueError(f"waveforms must be arrays or names of files, not {type(waveforms).__name__}")
    if not waveforms:
        raise ValueError("waveforms is empty")
    return [waveforms] if np.isscalar(waveforms[0]) and not isinstance(waveforms[0], str) else waveforms


def _waveform(row: Any, number: int, rate_hz: int | None) -> Tensor:
    if isinstance(row, str | os.PathLike):
        if Sound.reader is None:
            raise ValueError(f"{os.fspath(row)}: reading files needs the package mixvec; give an array")
        if rate_hz is not None:
            raise ValueError(f"{os.fspath(row)}: a file states its own rate; leave out sampling_rate={rate_hz}")
        return Sound.reader(row)
    try:
        values = row if isinstance(row, Tensor) else torch.as_tensor(np.asarray(row))
    except (TypeError, ValueError) as error:
        raise ValueError(f"waveform {number} is no array of numbers ({error})") from error
    if values.dim() != 1 or not len(values) or values.is_complex() or values.dtype == torch.bool:
        raise ValueError(f"waveform {number} must be (S,) with at least one sample, not {tuple(values.shape)} of "
                         f"{values.dtype}")  # fmt: skip
    if values.is_floating_point():
        return values.float()
    if values.dtype == torch.int64:
        raise ValueError(f"waveform {number} holds 64-bit integers, whose scale is unknown; give floats within ±1")
    span = torch.iinfo(values.dtype)
    middle = (span.max + 1) / 2 if span.min == 0 else 0.0  # unsigned samples are around it
    return (values.double() - middle).div(span.max + 1 - middle).float()


def _resampled(waveform: Tensor, rate_hz: int) -> Tensor:
    if Sound.resampler is not None:
        return Sound.resampler(waveform, rate_hz)
    try:  # where the published code runs without mixvec, torchaudio may be missing
        from torchaudio.functional import resample
    except ImportError as error:
        raise ValueError(f"audio at {rate_hz} Hz: give it at 16000 Hz, or install torchaudio") from error

    return resample(waveform, rate_hz, SAMPLE_RATE_HZ)  # type: ignore[no-any-return]
