"""Audio is read to its true end, whatever its header states, and the header that the index keeps agrees with that."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from mixvec import UserError
from mixvec.audio import audio_header, read_audio

RATE_HZ, FRAMES = 16_000, 24_000
NOISE = np.random.default_rng(0).uniform(-0.3, 0.3, FRAMES)


def coded(kind: str, subtype: str | None = None, samples: np.ndarray = NOISE, **options: object) -> bytearray:
    data = io.BytesIO()
    soundfile.write(data, samples, RATE_HZ, format=kind, subtype=subtype, **options)
    return bytearray(data.getvalue())


def lying(kind: str, mark: bytes, skip: int, form: str, size: int) -> bytearray:
    """A file of that format, ``size`` written ``skip`` bytes after the last ``mark`` in its header."""
    content = coded(kind)
    at = content[:5000].rindex(mark) + skip
    content[at : at + struct.calcsize(form)] = struct.pack(form, size)
    return content


def frames_read(path: Path, tolerance: float = 1e-6) -> int:
    """What reading gives, after a check that the header, stored bytes and a segment to the end agree with it."""
    whole = read_audio(path)
    assert audio_header(path).frames == len(whole) and audio_header(path)[1:] == (RATE_HZ, 1)
    assert torch.equal(read_audio(io.BytesIO(path.read_bytes())), whole)
    assert audio_header(io.BytesIO(path.read_bytes())).frames == len(whole)
    start_s = (len(whole) - 4_000) / RATE_HZ
    torch.testing.assert_close(read_audio(path, start_s), whole[-4_000:], rtol=0, atol=tolerance)
    return len(whole)


LIES = {
    "wav": ("WAV", b"data", 4, "<I"),
    "wavex": ("WAVEX", b"data", 4, "<I"),
    "aiff": ("AIFF", b"SSND", 4, ">I"),
    "aiff-frames": ("AIFF", b"COMM", 10, ">I"),
    "au": ("AU", b".snd", 8, ">I"),
    "caf": ("CAF", b"data", 4, ">q"),
    "rf64": ("RF64", b"ds64", 16, "<Q"),
    "w64": ("W64", b"data", 16, "<q"),
}


@pytest.mark.parametrize("size", [0, 1_000, 1_001, 2**31 - 1, 2**32 - 1, -1])
@pytest.mark.parametrize("kind", LIES)
def test_sizes_that_a_dead_recorder_left(kind: str, size: int, tmp_path: Path) -> None:
    form = LIES[kind][-1]
    bits = 8 * struct.calcsize(form)
    value = size % 2**bits if form.isupper() else size
    if kind == "w64" and size < 0:
        return  # libsndfile takes it for no W64 at all
    path = tmp_path / f"a.{kind[:3]}"
    path.write_bytes(lying(*LIES[kind], value))
    assert frames_read(path) == FRAMES


def test_chunks_after_the_samples_are_no_audio(tmp_path: Path) -> None:
    """Also after samples of an odd number of bytes, with and without a byte between, and where the last is cut off."""
    path, tag = tmp_path / "a.wav", b"LIST" + struct.pack("<I", 26) + b"INFOICMT\x0e\0\0\0A comment here"
    path.write_bytes(coded("WAV") + tag)
    assert frames_read(path) == FRAMES
    odd = coded("WAV", "PCM_U8", NOISE[:-1])[: 44 + FRAMES - 1]
    for between in (b"\0", b""):
        path.write_bytes(odd + between + tag)
        assert frames_read(path) == FRAMES - 1
    path.write_bytes(coded("WAV") + bytes(3_000))
    assert frames_read(path) == FRAMES


@pytest.mark.parametrize("kind", ["WAV", "AIFF", "AU", "CAF", "RF64"])
def test_joined_files_that_cannot_be_read_on_are_refused(kind: str, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(coded(kind) * 2)
    for read in (read_audio, audio_header):
        with pytest.raises(UserError, match=r"a\.bin: several files"):
            read(tmp_path / "a.bin")


@pytest.mark.parametrize("frames", [0, 1_000, 10**6])
def test_flac_of_any_stated_length(frames: int, tmp_path: Path) -> None:
    content = coded("FLAC")
    packed = int.from_bytes(content[18:26], "big")
    content[18:26] = (packed >> 36 << 36 | frames).to_bytes(8, "big")
    (tmp_path / "a.flac").write_bytes(content)
    assert frames_read(tmp_path / "a.flac") == FRAMES


def test_a_right_flac_is_not_decoded_for_its_length(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Also a long one, whose frames have numbers of several bytes, and one that ends in silence."""
    monkeypatch.setattr(soundfile.SoundFile, "read", None)
    for samples in (NOISE, np.resize(NOISE, 10**6), np.concatenate([NOISE, np.zeros(50_000)]), NOISE[:50]):
        (tmp_path / "a.flac").write_bytes(coded("FLAC", samples=samples))
        assert audio_header(tmp_path / "a.flac").frames == len(samples)


def test_a_right_flac_whose_end_has_no_frame_header_is_not_decoded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A frame of over 64 KiB, and a long tag; among so many random bytes two look like the beginning of a header."""
    monkeypatch.setattr(soundfile.SoundFile, "read", None)
    for seed in range(4):
        rng = np.random.default_rng(seed)
        wide = coded("FLAC", "PCM_24", rng.uniform(-1, 1, (12_288, 8)))
        for content, frames in ((wide, 12_288), (coded("FLAC") + rng.bytes(1 << 17), FRAMES)):
            (tmp_path / "a.flac").write_bytes(content)
            assert audio_header(tmp_path / "a.flac").frames == frames


def mp3(mode: str = "CONSTANT", samples: np.ndarray = NOISE) -> bytearray:
    """With a Xing or Info header."""
    return coded("MP3", samples=samples, bitrate_mode=mode, compression_level=0.5)


VARIED = np.concatenate([NOISE, 0.01 * NOISE, np.zeros(FRAMES), NOISE])
PICTURE = b"ID3\x04\0\0\0\x0f\x20\0" + b"\xff\xfb\x90\x00" * 62_464
"""An ID3 tag of 15 · 2^14 + 32 · 2^7 bytes that looks like frames."""


@pytest.mark.parametrize("make", [
    lambda own: own[own.find(own[:2], 4) :],  # without its first frame, which is the Xing header
    lambda own: PICTURE + own,
    lambda own: PICTURE + own[own.find(own[:2], 4) :],
    lambda own: own + b"TAG" + bytes(125),
])  # fmt: skip
@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
def test_mp3_without_a_length_or_with_tags(mode: str, make: object, tmp_path: Path) -> None:
    (tmp_path / "a.mp3").write_bytes(make(mp3(mode, VARIED)))  # type: ignore[operator]
    assert abs(frames_read(tmp_path / "a.mp3", 0.3) - len(VARIED)) < 4_000


def test_joined_and_cut_mp3(tmp_path: Path) -> None:
    path, one = tmp_path / "a.mp3", mp3("VARIABLE", VARIED)
    path.write_bytes(one + mp3() + PICTURE + one)
    assert abs(frames_read(path, 0.3) - 2 * len(VARIED) - FRAMES) < 12_000
    path.write_bytes(one[: len(one) // 2])
    assert 10_000 < frames_read(path, 0.3) < len(VARIED) - 10_000


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_chained_ogg(subtype: str, tmp_path: Path) -> None:
    """Streams of the same number too, and a segment over the border between two."""
    path, one = tmp_path / "a.ogg", coded("OGG", subtype)
    path.write_bytes(one + one + coded("OGG", subtype, NOISE[:8_000]))
    assert frames_read(path) == 2 * FRAMES + 8_000
    whole = read_audio(path)
    assert torch.equal(whole[:FRAMES], whole[FRAMES : 2 * FRAMES])
    torch.testing.assert_close(read_audio(path, 1.25, 0.5), whole[20_000:28_000], rtol=0, atol=1e-3)
    long = coded("OGG", subtype, np.resize(NOISE, 10 * FRAMES))
    path.write_bytes(one + long[: len(long) // 2])
    assert 4 * FRAMES < frames_read(path, 1e-3) < 8 * FRAMES


def test_chained_streams_of_different_rates_are_refused(tmp_path: Path) -> None:
    other = io.BytesIO()
    soundfile.write(other, NOISE, 8_000, format="OGG", subtype="VORBIS")
    (tmp_path / "a.ogg").write_bytes(coded("OGG", "VORBIS") + other.getvalue())
    with pytest.raises(UserError, match=r"a\.ogg: joined of streams"):
        audio_header(tmp_path / "a.ogg")


@pytest.mark.parametrize(("kind", "subtype"), [("WAV", "GSM610"), ("AIFF", "GSM610"), ("AU", "G721_32")])
def test_what_cannot_be_sought_is_read_from_its_beginning(kind: str, subtype: str, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(coded(kind, subtype))
    assert abs(frames_read(tmp_path / "a.bin") - FRAMES) < 400


def test_reading_on_seeks_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """python-soundfile seeks around each read of a file that calls itself seekable; ``sound.py`` has it not do so."""
    (tmp_path / "a.ogg").write_bytes(coded("OGG", "VORBIS"))
    monkeypatch.setattr(soundfile.SoundFile, "seek", None)
    assert len(read_audio(tmp_path / "a.ogg")) == FRAMES
