"""What the tests of the readers share: small audio files, and the comparison of what was found with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from pretrain.sources import Corpus, Utterance, find_utterances

RATE = 16_000


def write(path: Path, seconds: float = 0.5, rate_hz: int = RATE) -> Path:
    """Noise that no other file has, in the format of the extension."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(list(path.name.encode()))
    kind = {".sph": "NIST", ".opus": "OGG"}.get(path.suffix)
    subtype = "OPUS" if path.suffix == ".opus" else None
    soundfile.write(path, rng.uniform(-0.5, 0.5, round(seconds * rate_hz)), rate_hz, format=kind, subtype=subtype)
    return path


def write_text(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def find(source: Any, *, labels: bool = True) -> Corpus:
    return find_utterances(source if isinstance(source, list) else str(source), "data.train", labels=labels)


def assert_reads(utterance: Utterance, path: Path, start_s: float = 0.0, stop_s: float | None = None) -> None:
    """``utterance`` sounds as this part of a 16 kHz file, sample for sample, and so does a part of it."""
    samples, rate_hz = soundfile.read(path, dtype="float32")
    assert rate_hz == RATE
    meant = samples[round(start_s * RATE) : None if stop_s is None else round(stop_s * RATE)]
    np.testing.assert_array_equal(utterance.read(), meant)
    assert utterance.duration_s == len(meant) / RATE
    np.testing.assert_array_equal(utterance.read(0.1, 0.05), meant[1_600:2_400])
