"""Streams from afar: a data set of the hub by its name, tars and Parquet over HTTP; as on disk, and resumed."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from mixvec import UserError
from mixvec.data.readers import ranges
from tests.data.test_remote_hub import hub_with
from tests.data.test_stream import clips, stream, tars, updates_of
from tests.hub_server import HubServer
from tests.readers import dataset, write
from tests.web_server import WebServer


def parquets(folder: Path, shards: int, each: int) -> Path:
    folder.mkdir(parents=True)
    for shard in range(shards):
        audio = [write(folder / f"{shard}-{n}.flac", 0.4 + n / 10) for n in range(each)]
        dataset(audio).to_parquet(str(folder / f"train-{shard:05}-of-{shards:05}.parquet"), batch_size=3)
        for path in audio:
            path.unlink()
    return folder


@pytest.mark.parametrize("workers", [0, 1])
def test_a_data_set_of_the_hub_streams_shard_by_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    parquets(tmp_path / "set", 3, 6)
    with HubServer(token="secret") as hub:
        hub_with(monkeypatch, hub, tmp_path / "set", "org/streamed")
        updates = updates_of("org/streamed", workers=workers)
        whole = stream(updates, 8)
        one_epoch = {name for rows in clips(whole) for name, _, _ in rows}
        assert one_epoch == {f"streamed[{shard}][{row}]" for shard in range(3) for row in range(6)}
        again = stream(updates_of("org/streamed", workers=workers), 5, whole[2][0])
        assert clips(again) == clips(whole)[3:]
        with pytest.raises(UserError, match=r"data\.train=org/none: no such folder, and no data set of that name"):
            updates_of("org/none")


@pytest.mark.usefixtures("remote")
@pytest.mark.parametrize("form", ["tar", "parquet"])
def test_shards_over_http_are_those_on_disk(tmp_path: Path, web: WebServer, form: str) -> None:
    folder = tmp_path / "site" / "set"
    tars(folder, 3, 6) if form == "tar" else parquets(folder, 3, 6)
    local = clips(stream(updates_of(folder), 6))
    whole = stream(updates_of(f"{web.url}/set", workers=1), 6)
    assert clips(whole) == local
    assert clips(stream(updates_of(f"{web.url}/set"), 3, whole[2][0])) == local[3:]


@pytest.mark.usefixtures("remote")
def test_a_server_that_fails_in_mid_stream_is_one_line(
    tmp_path: Path, web: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hiccup is tried again; a server that stays away ends the run, which goes on from its place."""
    monkeypatch.setattr(ranges, "WAITS_S", (0.01, 0.01))
    folder = tars(tmp_path / "site" / "set", 3, 6)
    local = clips(stream(updates_of(folder), 6))
    web.faults = [[r"001\.tar", 2, "drop"]]
    whole = stream(updates_of(f"{web.url}/set"), 6)
    assert clips(whole) == local and web.faults[0][1] == 0
    web.faults = [[r"\d\.tar", 10_000, "503"]]
    skipped = []
    with pytest.raises(UserError, match=r"http://127\.0\.0\.1:\d+/set/00\d\.tar: the server answers HTTP 503"):
        for _, loaded in updates_of(f"{web.url}/set").start(whole[1][0]):
            skipped += [row for part in loaded for row in part.skipped]
    web.faults = []
    assert clips(stream(updates_of(f"{web.url}/set"), 4, whole[1][0])) == local[2:]
    with tarfile.open(folder / "000.tar") as tar:
        assert len(tar.getnames()) == 6, "nothing was written to"
