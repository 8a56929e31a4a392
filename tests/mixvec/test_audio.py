"""Reading audio: every format, rate and channel count gives the same sound; what cannot be read is named."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from mixvec import UserError
from mixvec.audio import EXTENSIONS, audio_header, read_audio
from mixvec.extents import Extent

ROOT = Path(__file__).resolve().parents[2]

FORMATS = {
    "wav": (None, 1e-4),
    "flac": (None, 1e-4),
    "aiff": (None, 1e-4),
    "au": (None, 1e-4),
    "ogg": ("VORBIS", 0.03),
    "opus": ("OPUS", 0.05),
    "mp3": (None, 0.05),
    "sph": (None, 1e-4),
}
CONTAINERS = {"opus": "OGG", "sph": "NIST"}


def tone(seconds: float, rate_hz: int, pitch_hz: float = 300.0) -> np.ndarray:
    """A sine (S,) that swells, so that a shifted or stretched copy differs."""
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    return (0.2 + 0.3 * time_s / seconds) * np.sin(2 * np.pi * pitch_hz * time_s)


def write(path: Path, samples: np.ndarray, rate_hz: int = 16_000) -> Path:
    kind = path.suffix[1:]
    subtype = FORMATS.get(kind, (None, 0))[0]
    soundfile.write(path, samples, rate_hz, format=CONTAINERS.get(kind, kind.upper()), subtype=subtype)
    return path


def expected(seconds: float) -> Tensor:
    return torch.from_numpy(tone(seconds, 16_000)).float()


def assert_same_sound(heard: Tensor, meant: Tensor, tolerance: float) -> None:
    """Equal but for the first and last 20 ms, where resampling and coding ring."""
    assert heard.dtype == torch.float32 and heard.dim() == 1
    assert abs(len(heard) - len(meant)) <= 2
    n = min(len(heard), len(meant))
    torch.testing.assert_close(heard[320 : n - 320], meant[320 : n - 320], rtol=0, atol=tolerance)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format(kind: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"a.{kind}", tone(1.0, 16_000))
    assert path.suffix in EXTENSIONS
    assert audio_header(path)[:2] == (16_000, 16_000)
    assert_same_sound(read_audio(path), expected(1.0), FORMATS[kind][1])


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 11_127, 22_050, 44_100, 48_000, 96_000])
def test_every_rate(rate_hz: int, tmp_path: Path) -> None:
    """11127 Hz, of old computers, shares no factor with 16 kHz."""
    path = write(tmp_path / "a.wav", tone(1.0, rate_hz), rate_hz)
    heard = read_audio(path)
    if rate_hz == 11_127:  # taken as 11130
        assert abs(len(heard) - 16_000) < 8
        heard = torch.nn.functional.interpolate(heard[None, None], 16_000, mode="linear")[0, 0]
    assert_same_sound(heard, expected(1.0), 2e-2 if rate_hz == 11_127 else 1e-4)


def test_channels_are_averaged(tmp_path: Path) -> None:
    left, right = tone(0.5, 16_000), tone(0.5, 16_000, 77.0)
    path = write(tmp_path / "a.wav", np.stack([left, right, right, left], axis=1), 16_000)
    torch.testing.assert_close(read_audio(path), torch.from_numpy((left + right) / 2).float(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg"])
def test_a_part_is_that_part_of_the_whole(kind: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"a.{kind}", tone(2.0, 16_000))
    whole = read_audio(path)
    assert torch.equal(read_audio(path, 0.5, 1.0), whole[8_000:24_000])
    assert torch.equal(read_audio(path, duration_s=0.25), whole[:4_000])
    assert torch.equal(read_audio(path, 1.75), whole[28_000:])
    assert torch.equal(read_audio(path, 1.75, 9.0), whole[28_000:])


@pytest.mark.parametrize("kind", FORMATS)
def test_read_in_blocks_equals_read_at_once(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in MP3, where what is read after seeking is not quite what is read on."""
    noise = tone(1.0, 16_000) + 0.1 * np.random.default_rng(0).standard_normal(16_000)
    path = write(tmp_path / f"a.{kind}", noise)
    whole, part = read_audio(path), read_audio(path, 0.1, 0.5)
    monkeypatch.setattr("mixvec.audio.BLOCK_FRAMES", 777)
    assert torch.equal(read_audio(path), whole) and torch.equal(read_audio(path, 0.1, 0.5), part)


def refusal(path: Path) -> str:
    """Why it cannot be read: one line that names it."""
    with pytest.raises(UserError) as caught:
        read_audio(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message.removeprefix(f"{path}: ")


def test_what_is_no_audio_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("this is no audio")
    (tmp_path / "empty.flac").write_bytes(b"")
    (tmp_path / "a.raw").write_bytes(bytes(100))
    assert refusal(tmp_path / "none.wav") == "no such file"
    assert refusal(tmp_path) == "a folder, not an audio file"
    for name in ("text.wav", "empty.flac", "a.raw"):
        assert refusal(tmp_path / name).startswith("not audio that libsndfile can read (")
        with pytest.raises(UserError, match=name):
            audio_header(tmp_path / name)
    with pytest.raises(UserError, match="stored audio: not audio"):
        read_audio(io.BytesIO(b"nothing of the kind"))


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e20])
def test_values_that_are_no_sound_are_refused(value: float, tmp_path: Path) -> None:
    """Not finite, or so large that their squares soon are not. Integers kept as floats are neither."""
    samples = tone(0.5, 16_000).astype(np.float32)
    samples[77] = value
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="FLOAT")
    assert refusal(tmp_path / "a.wav") == "holds values that cannot be sound (NaN, infinity or over 1e+10)"
    samples[77] = -(2.0**31)
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="FLOAT")
    assert read_audio(tmp_path / "a.wav").min() == -(2.0**31)


def test_no_samples_at_all(tmp_path: Path) -> None:
    write(tmp_path / "a.wav", np.zeros(0))
    assert refusal(tmp_path / "a.wav") == "no audio in it"
    path = write(tmp_path / "b.wav", tone(0.5, 16_000))
    for start_s, duration_s in [(0.5, None), (9.0, None), (0.0, 0.0)]:
        with pytest.raises(UserError, match="no audio in it"):
            read_audio(path, start_s, duration_s)


def test_rates_and_lengths_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rate of 10 Hz; 40 hours in 12 kB. Ten seconds of silence, the least that codecs write, may be."""
    path = write(tmp_path / "a.flac", tone(0.5, 16_000))
    content = bytearray(path.read_bytes())
    kept = int.from_bytes(content[18:26], "big") >> 36 & 0xFF  # after it frames in 36 bits, before it the rate in 20
    content[18:26] = (10 << 44 | kept << 36 | 8_000).to_bytes(8, "big")
    path.write_bytes(content)
    assert "10 Hz is too low" in refusal(path)
    content[18:26] = (16_000 << 44 | kept << 36 | 40 * 3600 * 16_000).to_bytes(8, "big")
    path.write_bytes(content)
    monkeypatch.setattr("mixvec.sound.extents", lambda file, size: [Extent(0, size)])
    assert refusal(path) == f"its header claims 40.0 h of audio, which {path.stat().st_size} bytes cannot hold"
    monkeypatch.undo()
    for kind in FORMATS:
        assert audio_header(write(tmp_path / f"silence.{kind}", np.zeros(480_000), 48_000)).rate_hz == 48_000
