"""What goes wrong with remote sources: one clear line, tried again where that may help, and never a secret in it."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import fsspec
import pytest

from mixvec import UserError
from mixvec.data.batches import LoaderConfig, Updates
from mixvec.data.config import DataConfig
from mixvec.data.readers import ranges
from mixvec.data.sources import Corpus
from mixvec.training.config import changed_keys, write_config
from pretrain.config import PretrainConfig
from tests.readers import assert_reads, find, parquet, webdataset, write, write_text
from tests.web_server import WebServer

pytestmark = pytest.mark.usefixtures("remote")


def updates_of(corpus: Corpus, workers: int = 0) -> Updates[int]:
    return Updates(corpus, len, LoaderConfig(10.0, 10.0, crop_s=1.0, min_s=0.1, workers=workers, seed=0))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("foo://x/y", r"foo://x/y: Protocol not known: foo"),
        ("gs://bucket/x", r"gs://bucket/x: Please install gcsfs to access Google Storage"),
        ("zip://a.wav::memory://x.zip", r"file systems inside others are not read"),
        ("memory://gone/x", r"memory://gone/x: no such file or folder"),
        ("http://127.0.0.1:9/a.wav", r"http://127\.0\.0\.1:9/a\.wav: Cannot connect to host 127\.0\.0\.1:9"),
        ("http://127.0.0.1:9/folder", r"Cannot connect to host"),
        ("URL/gone.jsonl", r"/gone\.jsonl: no such file or folder"),
        ("URL/gone", r"/gone: no such file or folder"),
        ("URL/empty", r"/empty: no files in this folder; its server has to list it, or name a manifest in it"),
        ("URL/set", r"/set: a datasets directory is mapped into memory, so it has to be on disk; copy it, or write"),
        ("URL/set/data.arrow", r"data\.arrow: a datasets directory is mapped"),
        ("URL/m.jsonl", r"m\.jsonl:2: not JSON"),
        ("URL/bad.jsonl.gz", r"bad\.jsonl\.gz: not gzip that can be read to its end"),
        ("URL/bad.tar", r"bad\.tar: not an uncompressed tar"),
        ("URL/bad.tar.gz", r"bad\.tar\.gz: a compressed tar cannot be read in place"),
        ("URL/bad.parquet", r"bad\.parquet: not Parquet that can be read"),
        ("URL/bad.wav", r"no readable audio in it; 1 skipped, the first: .*/bad\.wav: not audio that libsndfile can"),
        ("URL/names.jsonl", r"1 skipped, the first: http://127.0.0.1:\d+/gone\.wav: no such file or folder"),
    ],
)
def test_a_fault_of_the_source_is_one_line(tmp_path: Path, web: WebServer, source: str, message: str) -> None:
    site = tmp_path / "site"
    write_text(site / "m.jsonl", '{"audio": "a.wav"}', "{")
    write_text(site / "names.jsonl", '{"audio": "gone.wav"}')
    write_text(site / "set/dataset_info.json", "{}"), write_text(site / "set/data.arrow", "x")
    (site / "empty").mkdir()
    for name in ("bad.jsonl.gz", "bad.tar", "bad.tar.gz", "bad.parquet", "bad.wav"):
        (site / name).write_bytes(b"none of these " * 100)
    with pytest.raises(UserError, match=message) as caught:
        find(source.replace("URL", web.url))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("data.train=") or ".jsonl" in source or "bad" in source


@pytest.mark.parametrize(("fault", "times"), [("503", 2), ("drop", 1), ("cut", 2), ("429", 1)])
def test_what_may_yet_go_well_is_tried_again(
    tmp_path: Path, web: WebServer, monkeypatch: pytest.MonkeyPatch, fault: str, times: int
) -> None:
    monkeypatch.setattr(ranges, "WAITS_S", (0.0, 0.0))
    path = write(tmp_path / "site" / "a.flac", 16.0)
    web.faults = [[r"HEAD", 1, fault], [r"GET .*bytes=", times, fault]]
    (utterance,) = find(f"{web.url}/a.flac", labels=False).utterances
    assert [count for _, count, _ in web.faults] == [0, 0]
    web.faults = [[r"GET /$", times, fault]]
    assert find(web.url, labels=False).utterances == [utterance]
    assert fault == "cut" or web.faults[0][1] == 0
    web.faults = [[r"bytes=[1-9]", times, fault]]
    assert_reads(utterance, path)
    assert web.faults[0][1] == 0


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("503", "the server answers HTTP 503"), ("403", r"no permission to read it (HTTP 403); are the credentials"),
        ("404", "no such file or folder"), ("drop", "Server disconnected"), ("cut", "payload is not completed"),
    ],
)  # fmt: skip
def test_a_file_that_fails_in_mid_run_is_skipped(
    tmp_path: Path, web: WebServer, capfd: pytest.CaptureFixture[str], fault: str, why: str
) -> None:
    """With its name and the reason; what libsndfile's callbacks meet prints no traceback."""
    for name in "abc":
        write(tmp_path / "site" / f"{name}.wav", 12.0)
    corpus = find(web.url, labels=False)
    web.faults = [[r"/b.wav bytes=[1-9]", 99, fault]]
    for workers in (0, 2):
        parts = list(updates_of(corpus, workers).once())
        assert sum(part.batch for part in parts) == 2
        ((skipped,),) = [part.skipped for part in parts if part.skipped]
        assert skipped["source"] == f"{web.url}/b.wav"
        assert skipped["reason"].startswith(f"{web.url}/b.wav: ") and why in skipped["reason"]
    assert "Traceback" not in capfd.readouterr().err


def test_a_file_that_has_shrunk_or_gone(tmp_path: Path) -> None:
    fs = fsspec.filesystem("memory")
    whole = write(tmp_path / "a.wav", 20.0).read_bytes()
    for name in "ab":
        fs.pipe(f"/shop/{name}.wav", whole)
    first, second = find("memory://shop", labels=False).utterances
    fs.pipe("/shop/a.wav", whole[:300_000])
    fs.rm("/shop/b.wav")
    assert len(first.read(1.0, 2.0)) == 32_000
    with pytest.raises(UserError, match=r"^memory://shop/a\.wav: cut off: \d+ of \d+ bytes came from byte \d+ on$"):
        first.read(8.0, 4.0)
    with pytest.raises(UserError, match=r"^memory://shop/b\.wav: no such file or folder"):
        second.read()


def test_a_server_without_ranges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's own http.server is one: audio files are fetched whole, up to a bound; tars are refused."""
    site = tmp_path / "site"
    audio = [write(site / "audio" / f"{name}.wav", 10.0) for name in "abcde"]
    webdataset(audio, site / "tars"), parquet(audio, site / "table")
    write_text(site / "m.jsonl", *(json.dumps({"audio": f"audio/{path.name}"}) for path in audio))
    with WebServer(site, ranges=False) as web:
        for source in ("audio", "m.jsonl", "table"):
            corpus = find(f"{web.url}/{source}", labels=False)
            for utterance, path in zip(corpus.utterances, audio, strict=True):
                assert_reads(utterance, path)
        with pytest.raises(UserError, match=r"tars/shard-000000\.tar: its server sends no ranges"):
            find(f"{web.url}/tars", labels=False)
        monkeypatch.setattr(ranges, "LARGEST_WHOLE_BYTES", 300_000)
        (utterance, *_) = find(f"{web.url}/audio", labels=False).utterances
        with pytest.raises(UserError, match=r"a\.wav: its server sends no ranges"):
            utterance.read(8.0, 1.0)


@pytest.mark.parametrize("secret", ["login", "token"])
def test_secrets_stay_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], secret: str
) -> None:
    """They open the files, and are in no name, message, index or configuration."""
    site = tmp_path / "site"
    paths = [write(site / f"{name}.wav", 12.0) for name in "ab"]
    write_text(site / "m.jsonl", '{"audio": "a.wav"}', '{"audio": "b.wav"}')
    with tarfile.open(site / "s.tar", "w") as tar:
        for path in paths:
            tar.add(path, arcname=path.name)
    given = {"login": {"login": "me:geheim"}, "token": {"token": "token=geheim"}}[secret]
    with WebServer(site, **given) as web:
        top = web.url.replace("//", "//me:geheim@") if secret == "login" else web.url
        end = "" if secret == "login" else "?token=geheim"
        told = []
        for name in ("a.wav", "s.tar") if secret == "token" else ("m.jsonl", "s.tar", ""):
            corpus = find(f"{top}/{name}{end}", labels=False)
            assert len(corpus.utterances[0].read()) == 192_000
            told += [corpus.name, *(f"{u} {u.source}" for u in corpus.utterances)]
            again = find(f"{top}/{name}{end}", labels=False)
            assert again.utterances == corpus.utterances
            web.faults = [[r"bytes=[1-9]", 99, "500"]]
            told += [str(part.skipped) for part in updates_of(corpus).once()]
            assert "HTTP 500" in told[-1] and "***" in told[-1]
            web.faults = []
        for name in ("gone.wav", "gone.jsonl", "gone"):
            with pytest.raises(UserError, match=r"no such file or folder|no permission") as caught:
                find(f"{top}/{name}{end}", labels=False)
            told.append(str(caught.value))
        with pytest.raises(UserError, match=r"no permission to read it \(HTTP 401\)") as caught:
            find(f"{web.url}/a.wav?geheim")
        told.append(str(caught.value))
        first, renewed, other = (
            PretrainConfig(data=DataConfig(train=f"{top}/{name}.jsonl{end}".replace("geheim", word)))
            for name, word in (("m", "geheim"), ("m", "neu"), ("n", "geheim"))
        )
        told.append(write_config(first, tmp_path / "config.yaml"))
        assert "***" in told[-1]
        assert changed_keys(first, renewed) == []
        assert len(changed_keys(first, other)) == 1
    told.append(capfd.readouterr().err)
    told += [path.read_bytes().decode(errors="replace") for path in (tmp_path / "cache").rglob("*.arrow")]
    assert [text for text in told if "geheim" in text] == []
