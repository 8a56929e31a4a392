"""Every kind of bad input by its name, through a whole run: read all the same, skipped with its reason, or refused."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from mixvec import UserError
from tests.pretrain.test_archives import tar
from tests.readers import find, write, write_text
from tests.runs import finetune, pretrain

SECONDS, RATE = 1.5, 16_000
GOOD = [f"good {number}.flac" for number in range(4)]
KEYS = ("run.updates=2", "batch.update_s=90", "batch.max_s=90", "data.min_s=1")


def noise(path: Path, rate_hz: int = RATE, channels: int = 1, scale: float = 0.3) -> Path:
    """Speech would do no better: all that is looked at is whether it is read."""
    samples = scale * np.random.default_rng(0).uniform(-1, 1, (round(SECONDS * rate_hz), channels))
    plain = path.with_name(f"plain{path.suffix}")
    soundfile.write(plain, samples, rate_hz)
    return plain.rename(path)


def cut(path: Path, share: float) -> None:
    content = noise(path).read_bytes()
    path.write_bytes(content[: round(len(content) * share)])


def as_another(kind: str, path: Path) -> None:
    noise(path.with_suffix(kind)).rename(path)


def with_value(path: Path, value: float) -> None:
    samples = np.full(round(SECONDS * RATE), 0.1, np.float32)
    samples[77] = value
    soundfile.write(path, samples, RATE, subtype="FLOAT")


def claiming(hours: int, path: Path) -> None:
    content = bytearray(noise(path).read_bytes())
    stated = int.from_bytes(content[18:26], "big")  # of which the last 36 bits are FLAC's count of frames
    content[18:26] = (stated >> 36 << 36 | hours * 3600 * RATE).to_bytes(8, "big")
    path.write_bytes(content)


READ: dict[str, Callable[[Path], Any]] = {
    "eight channels.wav": lambda path: noise(path, channels=8),
    "4 kHz.wav": lambda path: noise(path, 4_000),
    "192 kHz.flac": lambda path: noise(path, 192_000),
    "an mp3.wav": lambda path: as_another(".mp3", path),
    "a flac.ogg": lambda path: as_another(".flac", path),
    " spaces  in it .wav": noise,
    "a line\nbreak.flac": noise,
    os.fsdecode(b"no UTF-8 \xff\xe9.wav"): noise,
    "truncated, over a second left.wav": lambda path: cut(path, 0.8),
}
"""What is unusual and yet read."""
NOT_AUDIO = "not audio that libsndfile can read (Format not recognised)"
SKIPPED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated.flac": (lambda path: cut(path, 0.5), "not audio that libsndfile can read"),
    "truncated, half a second left.wav": (lambda path: cut(path, 0.3), "0.45 s is under data.min_s"),
    "truncated.ogg": (lambda path: cut(path, 0.5), "no audio in it"),
    "truncated.mp3": (lambda path: cut(path, 0.5), "could be decoded"),
    "zero length.wav": (lambda path: path.write_bytes(b""), NOT_AUDIO),
    "header only.wav": (lambda path: soundfile.write(path, np.zeros(0), RATE), "no audio in it"),
    "header only.flac": (lambda path: soundfile.write(path, np.zeros(0), RATE), NOT_AUDIO),
    "a text.flac": (lambda path: path.write_text("this is no audio " * 99), NOT_AUDIO),
    "a line\nbreak, \udcff, no audio.wav": (lambda path: path.write_text("?"), NOT_AUDIO),
    "NaN.wav": (lambda path: with_value(path, np.nan), "holds values that are no sound"),
    "infinity.wav": (lambda path: with_value(path, -np.inf), "holds values that are no sound"),
    "zeros.flac": (lambda path: noise(path, scale=0.0), "silent: all samples read are the same"),
    "zeros at 8 kHz.wav": (lambda path: noise(path, 8_000, scale=0.0), "silent: all samples read are the same"),
    "40 hours.flac": (lambda path: claiming(40, path), "its header claims 40.0 h of audio"),
}
"""What is skipped, and why."""


@pytest.fixture(scope="module")
def skipped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One run over a folder of all of these: what its skipped.jsonl says, by the file's name."""
    at = tmp_path_factory.mktemp("bad")
    (at / "audio").mkdir()
    for name in GOOD:
        noise(at / "audio" / name)
    for name, make in [*READ.items(), *((name, made) for name, (made, _) in SKIPPED.items())]:
        make(at / "audio" / name)
    (at / "audio" / "a loop").symlink_to(at / "audio")
    assert pretrain(at, at / "run", f"data.train={at}/audio", *KEYS) == 0
    rows = [json.loads(line) for line in (at / "run/skipped.jsonl").read_text().splitlines()]
    epoch_0 = [row for row in rows if row.get("epoch", 0) == 0]
    assert len({row["source"] for row in epoch_0}) == len(epoch_0), "each once"
    return {Path(row["source"]).name: row["reason"] for row in epoch_0}


@pytest.mark.parametrize("name", SKIPPED)
def test_skipped_with_its_reason(skipped: dict[str, str], name: str) -> None:
    assert SKIPPED[name][1] in skipped[name] and name in skipped[name]


def test_all_else_is_read(skipped: dict[str, str]) -> None:
    """What is unusual, and what is whole: once, though a link leads in a loop."""
    assert sorted(skipped) == sorted(SKIPPED)
