"""What finding and reading remote audio costs, in requests and bytes."""

from __future__ import annotations

import io
import json
import random
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mixvec.data import headers
from mixvec.data.readers.ranges import _Ranges
from mixvec.extents import Window
from tests.readers import find, write, write_text
from tests.web_server import WebServer

pytestmark = pytest.mark.usefixtures("remote")


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_a_short_ogg_is_fetched_about_once(tmp_path: Path, web: WebServer, subtype: str) -> None:
    """Its beginning, its last 128 KiB, which have its length, and the rest."""
    (tmp_path / "site").mkdir()
    samples = np.random.default_rng(0).uniform(-0.3, 0.3, (80 if subtype == "VORBIS" else 105) * 16_000)
    soundfile.write(tmp_path / "site/a.ogg", samples, 16_000, format="OGG", subtype=subtype)
    size = (tmp_path / "site/a.ogg").stat().st_size
    assert 5 << 16 < size < 3 << 17
    with web.counted() as cost:
        (utterance,) = find(f"{web.url}/a.ogg", labels=False).utterances
    assert cost[0] <= size + (1 << 17) and cost[1] <= 4
    with web.counted() as cost:
        assert len(utterance.read()) == len(samples)
    assert cost[0] <= size + (1 << 17) and cost[1] <= 3


def test_reading_nothing_requests_nothing(tmp_path: Path, web: WebServer) -> None:
    size = write(tmp_path / "site/a.wav").stat().st_size
    with web.counted() as cost:
        assert _Ranges(f"{web.url}/a.wav", 0, size).read(0) == b""
    assert cost == [0, 0]

    class Whole(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            assert size
            return super().read(size)

    with Window(Whole(b"content"), 3, 4) as window:
        assert window.read() == b"tent" and window.read() == b""


def test_large_members_beside_the_audio_of_a_tar_are_not_read(tmp_path: Path, web: WebServer) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "large.txt").write_bytes(b"x" * (4 << 20))
    with tarfile.open(tmp_path / "site/s.tar", "w") as tar:
        for name in "abc":
            tar.add(write(tmp_path / f"{name}.wav"), arcname=f"{name}.wav")
            tar.add(tmp_path / "large.txt", arcname=f"{name}.txt")
        tar.add(write(tmp_path / "d.wav"), arcname="d.wav")
    with web.counted() as cost:
        corpus = find(f"{web.url}/s.tar", labels=False)
    assert len(corpus.utterances) == 1 and "a.txt is too large" in corpus.reasons(3)
    assert cost[0] < 3 << 20


def test_a_remote_file_of_many_rows_is_opened_once(
    tmp_path: Path, web: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However far apart its rows are, and where the server sends nothing by which the cache would know it."""
    monkeypatch.setattr(headers, "KNOWN_PLACES", 2)
    monkeypatch.setattr(headers, "BATCH_ROWS", 3)
    web.stamps = False
    names = [write(tmp_path / "site" / f"{number}.wav").name for number in range(12)] * 4
    random.Random(0).shuffle(names)
    rows = [{"audio": f"{web.url}/{name}", "offset": 0.1, "duration": 0.2} for name in names]
    assert len(find(write_text(tmp_path / "m.jsonl", *map(json.dumps, rows))).utterances) == 48
    assert len([line for line in web.log if "bytes=" in line]) == 12
