"""Sources that fsspec opens: the same utterances as on disk, and no more of them fetched than is needed."""

from __future__ import annotations

import gzip
import json
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import soundfile

from mixvec.cli.inputs import Clip, clips_of
from mixvec.data.batches import LoaderConfig, Updates
from mixvec.data.sources import find_utterances
from tests.readers import (
    FORMS,
    TEXTS,
    assert_reads,
    find,
    kaldi,
    lhotse,
    nemo,
    parquet,
    webdataset,
    write,
    write_text,
)
from tests.web_server import WebServer

pytestmark = pytest.mark.usefixtures("remote")
NAMES = ["b 1", "b2", "ç", "d", "a"]


def named(folder: Path, url: str) -> None:
    """The manifests below ``folder`` name by ``url`` what they named by path."""
    for path in [path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".flac", ".tar")]:
        old, packed = path.read_bytes(), path.suffix == ".gz"
        new = (gzip.decompress(old) if packed else old).replace(str(folder).encode(), url.encode())
        path.write_bytes(gzip.compress(new) if packed else new)


def uploaded(folder: Path, url: str) -> str:
    """``folder`` as it is, put at ``url``."""
    fs, root = fsspec.url_to_fs(url)
    for path in folder.rglob("*"):
        if path.is_file():
            fs.pipe(f"{root}/{path.relative_to(folder)}", path.read_bytes())
    return url


def read_counts(web: WebServer, utterance: Any, start_s: float, duration_s: float) -> tuple[int, int]:
    """Bytes and requests that a part of an utterance costs."""
    with web.counted() as cost:
        assert len(utterance.read(start_s, duration_s)) == round(duration_s * 16_000)
    return cost[0], cost[1]


@pytest.mark.parametrize("protocol", ["memory", "file", "http", "local"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_utterances(
    tmp_path: Path, web: WebServer, form: Callable[[list[Path], Path], Path], protocol: str
) -> None:
    """Texts and samples in the same order, from disk and through a URL; each travels to workers as a few names."""
    site = tmp_path / "site"
    audio = [write(site / f"{name}.flac", 0.3 + 0.1 * i) for i, name in enumerate(NAMES)]
    if form in (kaldi, nemo, lhotse):
        audio[0] = write(site / "b_1.flac", 0.3)
    source = form(audio, site / "own").relative_to(site)
    top = {"memory": "memory://x", "file": f"file://{site}", "http": web.url, "local": str(site)}[protocol]
    if protocol in ("memory", "http"):
        named(site, top)
    if protocol == "memory":
        uploaded(site, top)
    corpus = find(f"{top}/{source}")
    assert corpus.skipped == []
    assert [u.text for u in corpus.utterances] == TEXTS
    for utterance, path in zip(corpus.utterances, audio, strict=True):
        assert_reads(utterance, path)
        assert len(pickle.dumps(utterance)) < 1_000
        assert_reads(pickle.loads(pickle.dumps(utterance)), path)


def test_folders_files_patterns_and_lists(tmp_path: Path, web: WebServer) -> None:
    for name in ("x/a.wav", "x/b c.flac", "y/de/ep/c#1.wav", "y/.hidden.wav", ".z/d.wav", "y/notes.txt", "v1.0/e.wav"):
        path = tmp_path / "site" / name
        write(path) if path.suffix != ".txt" else write_text(path, "no audio")
    uploaded(tmp_path / "site", "memory://top")
    for top in ("memory://top", web.url):
        for source, expected in (
            ("", ["e", "a", "b c", "c#1"]), ("/y", ["c#1"]), ("/v1.0/", ["e"]), ("/x/a.wav", ["a"]),
            ("/*/*.wav", ["e", "a"]), ("/x/*", ["a", "b c"]),
        ):  # fmt: skip
            corpus = find(top + source, labels=False)
            names = [str(u.stored.holder.path).rpartition("/")[2].partition(".")[0] for u in corpus.utterances]
            assert [name.replace("%20", " ").replace("%23", "#") for name in names] == expected, source
            for utterance in corpus.utterances:
                assert len(utterance.read()) == 8_000
    write_text(tmp_path / "site" / "m.csv", "file_name", "y/de/ep/c#1.wav", "../x/b c.flac", "x/b c.flac")
    corpus = find(f"{web.url}/m.csv")
    assert [len(u.read()) for u in corpus.utterances] == [8_000] * 3
    corpus = find([f"{web.url}/x", str(tmp_path / "site" / "y"), "memory://top/v1.0/e.wav"], labels=False)
    assert [len(u.read()) for u in corpus.utterances] == [8_000] * 4
    assert corpus.name == "x, y, e.wav"


def test_a_local_manifest_may_name_urls(tmp_path: Path, web: WebServer) -> None:
    path = write(tmp_path / "site" / "a b.wav", 2.0)
    uploaded(tmp_path / "site", "memory://store")
    sources = [f"{web.url}/a%20b.wav", f"file://{path}", "memory://store/a b.wav", str(path), "memory://store/no.wav"]
    rows = [{"audio_filepath": source, "offset": 0.5, "duration": 1.0} for source in sources]
    corpus = find(write_text(tmp_path / "m.jsonl", *map(json.dumps, rows)))
    assert len(corpus.utterances) == 4
    for utterance in corpus.utterances:
        assert_reads(utterance, path, 0.5, 1.5)
    (fault,) = corpus.skipped
    assert fault["reason"].startswith("memory://store/no.wav: no such file or folder")
    cut = {"type": "MonoCut", "recording": {"sources": [{"type": "url", "source": sources[0]}]}}
    (utterance,) = find(write_text(tmp_path / "cuts.jsonl", json.dumps(cut))).utterances
    assert_reads(utterance, path)


def test_commands_read_urls(tmp_path: Path, web: WebServer) -> None:
    write(tmp_path / "site" / "a b.wav")
    clip, gone = clips_of([f"{web.url}/a%20b.wav", f"{web.url}/gone.wav"])
    assert isinstance(clip, Clip) and len(clip.read()) == 8_000 and str(clip.place) == "a b"
    assert "gone.wav: no such file or folder" in str(gone)


@pytest.mark.parametrize("protocol", ["memory", "http"])
def test_official_layouts(tmp_path: Path, web: WebServer, protocol: str) -> None:
    site = tmp_path / "site"
    write(site / "LibriSpeech/dev-clean/84/12/84-12-0.flac")
    write_text(site / "LibriSpeech/dev-clean/84/12/84-12.trans.txt", "84-12-0 GO", "84-12-1 GONE")
    write(site / "aishell/wav/train/S1/BAC1.wav")
    write_text(site / "aishell/transcript/all.txt", "BAC1 你 好")
    write(site / "slurp/audio/slurp_real/a.flac")
    row = {"sentence": "hi", "intent": "greet", "recordings": [{"file": "a.flac"}, {"file": "b.flac"}]}
    write_text(site / "slurp/dataset/slurp/train.jsonl", json.dumps(row))
    top = web.url if protocol == "http" else uploaded(site, "memory://all")
    for source in ("LibriSpeech/dev-clean", "aishell/wav/train", "slurp/dataset/slurp/train.jsonl"):
        here, there = find(site / source), find(f"{top}/{source}")
        ((one,), (other,)) = here.utterances, there.utterances
        assert one.text and (one.text, one.label) == (other.text, other.label)
        assert len(there.skipped) == len(here.skipped)
        np.testing.assert_array_equal(one.read(), other.read())


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "tar"])
def test_a_part_of_a_long_file_is_all_that_is_fetched(tmp_path: Path, web: WebServer, kind: str) -> None:
    path = tmp_path / "site" / f"long.{'wav' if kind == 'tar' else kind}"
    path.parent.mkdir()
    with soundfile.SoundFile(path, "w", 16_000, 1) as file:
        for second in range(600):
            file.write(np.random.default_rng(second).uniform(-0.3, 0.3, 16_000))
    if kind == "tar":
        with tarfile.open(tmp_path / "site" / "shard.tar", "w") as tar:
            tar.add(write(tmp_path / "short.wav"), arcname="a.wav")
            tar.add(path, arcname="b.wav")
    source = tmp_path / "site" / "shard.tar" if kind == "tar" else path
    whole = source.stat().st_size
    with web.counted() as cost:
        utterance = find(f"{web.url}/{source.name}").utterances[-1]
    assert cost[0] < min(1 << 20, whole / 3)
    (*_, local) = find(source).utterances
    np.testing.assert_array_equal(utterance.read(301.3, 5.0), local.read(301.3, 5.0))
    sent, requests = read_counts(web, utterance, 301.3, 5.0)
    assert sent < whole / 10 + (1 << 19) and requests <= 6
    assert read_counts(web, utterance, 0.0, 590.0)[1] <= 16


def test_the_index_knows_remote_files(tmp_path: Path, web: WebServer) -> None:
    """By size and etag: what has not changed is not opened again, in folders, tars and Parquet."""
    site = tmp_path / "site"
    audio = [write(site / "audio" / f"{name}.flac", 0.3) for name in NAMES]
    webdataset(audio, site / "tars"), parquet(audio, site / "table")
    for source, most in (("audio", 0), ("tars", 110_000), ("table", 60_000)):
        first = find(f"{web.url}/{source}", labels=False)
        asked = len(web.log)
        with web.counted() as cost:
            again = find(f"{web.url}/{source}", labels=False)
        assert again.utterances == first.utterances and len(again.utterances) == 5
        assert cost[0] <= most, source
        assert not [line for line in web.log[asked:] if "GET" in line and ".flac" in line]
    write(site / "audio" / "a.flac", 0.7)
    asked = len(web.log)
    changed = find(f"{web.url}/audio", labels=False)
    assert [line.split()[1] for line in web.log[asked:] if "bytes=" in line] == ["/audio/a.flac"]
    assert [u.duration_s for u in changed.utterances] == [0.7, 0.3, 0.3, 0.3, 0.3]
    web.stamps = False  # from now on the server tells sizes only
    for _ in range(2):
        asked = len(web.log)
        find(f"{web.url}/audio", labels=False)
        assert len([line for line in web.log[asked:] if "bytes=" in line]) == 5


def test_workers_read_after_the_main_process_did(tmp_path: Path, web: WebServer) -> None:
    """They are forked from a process whose file systems have threads, sessions and locks of their own."""
    for number in range(12):
        write(tmp_path / "site" / f"{number}.flac", 0.4)
    corpus = find_utterances(web.url, "data.train")
    assert all(len(u.read()) == 6_400 for u in corpus.utterances)
    updates: Updates[int] = Updates(corpus, len, LoaderConfig(1.2, 1.2, crop_s=1.0, min_s=0.1, workers=2, seed=0))
    for _ in range(2):
        eight = [parts for _, (_, parts) in zip(range(8), updates.start(), strict=False)]
        assert [sum(part.batch for part in parts) for parts in eight] == [3] * 8
        assert all(len(u.read()) == 6_400 for u in corpus.utterances)
