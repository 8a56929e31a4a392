"""What libsndfile does not know is read through PyAV, whole and in part; without it one line names what to install."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mixvec import UserError
from mixvec.audio import EXTENSIONS, audio_header, read_audio
from tests.av_files import write_av

KINDS = {"m4a": ("aac", "ipod"), "mp4": ("aac", "mp4"), "aac": ("aac", "adts"), "webm": ("libopus", "webm"),
         "mka": ("flac", "matroska"), "3gp": ("aac", "3gp"), "mov": ("pcm_s16le", "mov"),
         "ac3": ("ac3", "ac3")}  # fmt: skip


def tone(seconds: float, rate_hz: int) -> np.ndarray:
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    return 0.4 * np.sin(2 * np.pi * (300 + 10 * time_s) * time_s)  # rises, so that a shifted copy differs


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_whole_and_in_part(kind: str, tmp_path: Path) -> None:
    rate_hz = 48_000 if kind in ("webm", "ac3") else 16_000
    path = write_av(tmp_path / f"a.{kind}", tone(24.0, rate_hz), rate_hz, *KINDS[kind])
    assert path.suffix in EXTENSIONS
    whole, header = read_audio(path), audio_header(path)
    assert header.rate_hz == rate_hz and abs(header.frames / rate_hz - len(whole) / 16_000) < 1e-4
    assert abs(len(whole) - 24 * 16_000) < 2_500
    if kind not in ("aac", "ac3"):  # which state no delay of their coder
        meant = torch.from_numpy(tone(24.0, 16_000)).float()
        assert float((whole[8_000:360_000] - meant[8_000:360_000]).abs().max()) < 0.1
    for start_s in (2.0, 22.0):  # from the beginning, and sought
        part = read_audio(path, start_s, 1.5)
        middle = whole[round(start_s * 16_000) :][:24_000]
        torch.testing.assert_close(part[800:-800], middle[800:-800], rtol=0, atol=0.02)
    assert torch.equal(read_audio(io.BytesIO(path.read_bytes())), whole)


def test_a_cut_off_file_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = write_av(tmp_path / "a.webm", tone(4.0, 48_000), 48_000, "libopus", "webm")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    frames = audio_header(path).frames
    assert 40_000 < frames < 150_000 and len(read_audio(path)) == frames // 3


def test_what_neither_reads_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A playlist, which FFmpeg would follow to other files, is no audio either."""
    beside = write_av(tmp_path / "a.m4a", tone(1.0, 16_000), 16_000, "aac", "ipod")
    (tmp_path / "a.webm").write_bytes(bytes(range(256)) * 10)
    (tmp_path / "list.m3u8").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{beside}\n#EXT-X-ENDLIST\n")
    (tmp_path / "list.mp4").write_text(f"ffconcat version 1.0\nfile {beside}\n")
    for name in ("a.webm", "list.m3u8", "list.mp4"):
        with pytest.raises(UserError) as caught:
            read_audio(tmp_path / name)
        assert str(caught.value).startswith(f"{tmp_path / name}: ") and "\n" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"a\.m4a: .*mixvec\[av\]"):
        audio_header(beside)
