"""Audio that libsndfile does not know (m4a, webm, aac, mp4, wma, amr, …), decoded by FFmpeg through PyAV."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from .errors import UserError

INSTALL = "what FFmpeg decodes is read where PyAV is installed: pip install 'mixvec[av]'"
PREROLL_S = 1.0
"""Decoding resumes so long before a place that is sought, as a codec overlaps its frames."""
SOUGHT_FROM_S = 20.0
"""A segment that starts earlier is decoded from the file's beginning."""
INDEXED = {"mov", "matroska", "asf", "avi"}
"""Containers that state the time of each packet. In others a place is only estimated, and all before it is decoded."""
OPTIONS = {"protocol_whitelist": "none"}
"""A playlist may make FFmpeg open other files and addresses; none is opened."""
NO_AUDIO = {"concat", "concatf", "hls", "dash", "image2", "tty"}


class FfmpegSound:
    """An open file: rate, channels and blocks of samples, as ``audio`` reads them."""

    frames: int | None = None
    """Containers state durations that decoding does not confirm."""

    def __init__(self, container: Any) -> None:
        if not container.streams.audio or {*container.format.name.split(",")} & NO_AUDIO:
            raise UserError("no audio stream")
        self.container, self.stream = container, container.streams.audio[0]
        if self.stream.codec_context is None:
            raise UserError("an audio stream that FFmpeg has no decoder for")
        self.rate_hz, self.channels = int(self.stream.rate or 0), int(self.stream.channels or 0)
        if not self.channels:
            raise UserError("an audio stream without channels")

    def blocks(self, start: int, count: int | None, block_frames: int) -> Iterator[np.ndarray]:
        """Samples (S, channels) from sample ``start`` on, ``count`` of them or all, as FFmpeg's frames are long."""
        import av

        at, first = 0, 0
        if start > SOUGHT_FROM_S * self.rate_hz and INDEXED & {*self.container.format.name.split(",")}:
            first = next(self.container.decode(self.stream)).samples
            begin = (self.stream.start_time or 0) * self.stream.time_base
            self.container.seek(
                int((begin + start / self.rate_hz - PREROLL_S) / self.stream.time_base), stream=self.stream
            )
            at = -1
        resampler = av.AudioResampler(format="fltp", layout=self.stream.layout, rate=self.rate_hz)
        for frame in self.container.decode(self.stream):
            if at < 0:  # times may be in milliseconds, while frames are of whole samples, mostly as many
                about = float((frame.pts or 0) * self.stream.time_base - begin) * self.rate_hz
                at = first + round((about - first) / frame.samples) * frame.samples
                at = at if abs(at - about) <= self.stream.time_base * self.rate_hz else round(about)
            for converted in resampler.resample(frame):
                block = converted.to_ndarray().T  # (S, channels)
                begin = max(0, start - at)
                end = len(block) if count is None else min(len(block), start + count - at)
                at += len(block)
                if begin < end:
                    yield block[begin:end]
            if count is not None and at >= start + count:
                return


@contextmanager
def ffmpeg_sound(file: Any) -> Iterator[FfmpegSound]:
    """A file that FFmpeg can decode.

    Raises:
        UserError: PyAV is not installed, or FFmpeg finds no audio in it or fails.
    """
    try:
        import av
    except ImportError as error:
        raise UserError(INSTALL) from error
    av.logging.set_level(None)
    try:
        with av.open(file, options=OPTIONS, metadata_errors="ignore") as container:
            yield FfmpegSound(container)
    except (av.FFmpegError, ValueError, EOFError) as error:
        raise UserError(f"FFmpeg: {getattr(error, 'strerror', None) or error}") from error
