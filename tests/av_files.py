"""Audio in the containers that PyAV writes."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np


def write_av(path: Path, samples: np.ndarray, rate_hz: int, codec: str, container: str) -> Path:
    """Mono samples (S,), coded."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream(codec, rate=rate_hz, layout="mono")
        resampler = av.AudioResampler(stream.codec_context.codec.audio_formats[0].name, "mono", rate_hz)
        waiting = av.AudioFifo()
        frame = av.AudioFrame.from_ndarray(samples[None].astype(np.float32), format="fltp", layout="mono")
        frame.rate, frame.pts = rate_hz, 0
        for converted in resampler.resample(frame):
            waiting.write(converted)
        at, size = 0, stream.codec_context.frame_size or 1024
        while piece := waiting.read(size) or waiting.read(size, partial=True):
            piece.pts, at = at, at + piece.samples
            file.mux(stream.encode(piece))
        file.mux(stream.encode(None))
    return path
