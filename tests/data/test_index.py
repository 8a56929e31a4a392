"""Headers are read once, several at a time, and kept in an index; whatever happens to it, the rows are the same."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import soundfile

from mixvec.audio import AudioHeader, audio_header
from mixvec.data import headers
from mixvec.data.index import Entry, index_path, load_index, save_index
from mixvec.data.readers.rows import Fault, Row
from mixvec.data.sources import Corpus, find_utterances
from tests.readers import write
from tests.runs import ROOT

Opens = list[str]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test has its own."""
    monkeypatch.setenv("MIXVEC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def opens(monkeypatch: pytest.MonkeyPatch) -> Opens:
    """The names of the files whose headers have been read."""
    names: Opens = []

    def counting(path: Any) -> AudioHeader:
        names.append(Path(path).name if isinstance(path, str) else "stored")
        return audio_header(path)

    monkeypatch.setattr(headers, "audio_header", counting)
    return names


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A dozen files of different lengths, one of which is no audio and one empty."""
    for number in range(10):
        write(tmp_path / "audio" / f"{number % 3}" / f"{number}.wav", 0.1 + number / 100)
    (tmp_path / "audio" / "0" / "noise.wav").write_bytes(b"this is no audio " * 20)
    write(tmp_path / "audio" / "1" / "empty.wav", 0.0)
    return tmp_path / "audio"


def find(source: Any) -> Corpus:
    return find_utterances(source if isinstance(source, list) else str(source), "data.train")


def one_after_another(folder: Path) -> tuple[list[tuple[str, float]], list[str]]:
    """The content of a folder, found one file at a time: sources and durations, and the names of unusable files."""
    kept, bad = [], []
    for path in sorted(folder.rglob("*.wav")):
        try:
            info = soundfile.info(path)
        except soundfile.LibsndfileError:
            info = None
        if info is not None and info.frames:
            kept.append((str(path), info.frames / info.samplerate))
        else:
            bad.append(path.name)
    return kept, bad


def check(corpus: Corpus, folder: Path) -> None:
    kept, bad = one_after_another(folder)
    assert [(u.source, u.duration_s) for u in corpus.utterances] == kept
    assert [Path(row["source"]).name for row in corpus.skipped] == bad


def test_order_reasons_and_formats_are_those_of_one_after_another(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(headers, "BATCH_ROWS", 2)
    monkeypatch.setattr(headers, "THREADS", 2)  # more batches than are read ahead
    write(folder / "2" / "other.wav", 0.2, 8_000)
    for corpus in (find(folder), find(folder)):
        check(corpus, folder)
        assert corpus.formats == {(16_000, 1): 10, (8_000, 1): 1}
        assert [row["reason"].removeprefix(row["source"]) for row in corpus.skipped] == [
            ": not audio that libsndfile can read (Format not recognised)", ": no audio in it",
        ]  # fmt: skip


def test_a_second_start_opens_what_is_new_or_changed_and_forgets_what_is_gone(folder: Path, opens: Opens) -> None:
    first = find(folder)
    assert sorted(opens) == sorted([*(f"{n}.wav" for n in range(10)), "noise.wav", "empty.wav"])
    opens.clear()
    second = find(f"{folder}/")
    assert opens == ["noise.wav"]  # what could not be read is tried again: another libsndfile may
    assert (second.utterances, second.skipped) == (first.utterances, first.skipped)
    opens.clear()
    write(folder / "1" / "1.wav", 0.5)  # another size
    state = (folder / "2" / "2.wav").stat()
    os.utime(folder / "2" / "2.wav", ns=(state.st_atime_ns, state.st_mtime_ns + 1))  # the same size, another time
    (folder / "0" / "0.wav").unlink()
    (folder / "0" / "noise.wav").unlink()
    write(folder / "2" / "new.wav", 0.3)
    third = find(folder)
    assert sorted(opens) == ["1.wav", "2.wav", "new.wav"]
    check(third, folder)
    assert len(load_index(index_path(str(folder), labels=False))) == 11
    opens.clear()
    check(find(folder), folder)
    assert opens == []


def test_a_source_is_known_by_its_absolute_path(folder: Path, opens: Opens, monkeypatch: pytest.MonkeyPatch) -> None:
    find(folder)
    opens.clear()
    monkeypatch.chdir(folder.parent)
    corpus = find("audio")
    assert opens == ["noise.wav"] and corpus.utterances[0].source == "audio/0/0.wav"
    assert index_path("audio", labels=False) == index_path(str(folder), labels=False)
    assert index_path("audio", labels=True) != index_path("audio", labels=False)


def test_names_that_are_no_text(folder: Path, opens: Opens) -> None:
    name = os.fsdecode(os.fsencode(folder) + b"/2/\xff\n \xe9.wav")
    os.rename(folder / "2" / "2.wav", name)
    assert name in [u.source for u in find(folder).utterances]
    opens.clear()
    assert name in [u.source for u in find(folder).utterances]
    assert opens == ["noise.wav"]


def test_a_tar_s_members_are_known_by_shard_and_offset(folder: Path, tmp_path: Path, opens: Opens) -> None:
    shard = tmp_path / "tars" / "a.tar"
    shard.parent.mkdir()
    with tarfile.open(shard, "w") as tar:
        tar.add(folder / "0", "0")
    first = find(shard.parent)
    assert len(opens) == 5
    opens.clear()
    second = find(shard.parent)
    assert opens == ["stored"]  # the one that is no audio
    assert (second.utterances, second.skipped) == (first.utterances, first.skipped)
    opens.clear()
    with tarfile.open(shard, "w") as tar:
        tar.add(folder / "1", "1")
    assert len(find(shard.parent).utterances) == 3 and len(opens) == 4


def test_a_long_file_in_many_rows_is_opened_once(folder: Path, opens: Opens, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headers, "BATCH_ROWS", 3)
    rows = '{"audio": "0/0.wav", "offset": 0.01, "duration": 0.02}\n{"audio": "0/noise.wav"}\n' * 20
    (folder / "m.jsonl").write_text(rows)
    corpus = find(folder / "m.jsonl")
    assert (len(corpus.utterances), len(corpus.skipped)) == (20, 20)
    assert sorted(opens) == ["0.wav", "noise.wav"]


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_index_is_rebuilt(folder: Path, opens: Opens, seed: int) -> None:
    """Cut, flipped, emptied, replaced, of another version: never an error, never a wrong length."""
    find(folder)
    path = index_path(str(folder), labels=False)
    assert path is not None
    whole, rng = path.read_bytes(), random.Random(seed)
    entries = load_index(path)
    for round_ in range(60):
        at = rng.randrange(len(whole))
        flipped = whole[:at] + bytes([whole[at] ^ 1 << rng.randrange(8)]) + whole[at + 1 :]
        path.write_bytes([whole[:at], flipped, rng.randbytes(at)][round_ % 3])
        assert load_index(path) in ({}, entries)
    for other in (b"", bytes(64), whole[:-9]):
        path.write_bytes(other)
        opens.clear()
        check(find(folder), folder)
        assert len(opens) == 12
    opens.clear()
    check(find(folder), folder)
    assert opens == ["noise.wav"] and load_index(path) == entries


def test_where_no_index_can_be_written_nothing_is_reported(
    folder: Path, cache: Path, opens: Opens, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.write_text("a file where the folder should be")  # permissions mean nothing to root, as whom tests may run
    for _ in range(2):
        opens.clear()
        check(find(folder), folder)
        assert len(opens) == 12
    cache.unlink()
    monkeypatch.setattr(os, "replace", lambda *paths: (_ for _ in ()).throw(PermissionError(13, "read-only")))
    check(find(folder), folder)
    assert {path.suffix for path in (cache / "index").iterdir()} == {".lock"}
    monkeypatch.delenv("MIXVEC_CACHE")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert index_path("x", labels=False) is None
    check(find(folder), folder)


def test_an_interrupted_search_keeps_what_it_found(folder: Path, opens: Opens, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headers, "BATCH_ROWS", 2)
    monkeypatch.setattr(headers, "THREADS", 1)

    def rows() -> Any:
        for number in (0, 3, 6, 9):
            yield Row(str(folder / "0" / f"{number}.wav"))
            yield Fault("x", "y")
        for number in (1, 4):
            yield Row(str(folder / "1" / f"{number}.wav"))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(headers.with_headers(rows(), str(folder), labels=False))
    known = {Path(place[0]).name for place in load_index(index_path(str(folder), labels=False))}
    assert known == set(opens) >= {"0.wav"}
    opens.clear()
    check(find(folder), folder)
    assert known.isdisjoint(opens)


WRITER = """
import sys
from pathlib import Path
from mixvec.audio import AudioHeader
from mixvec.data.index import Entry, load_index, save_index
path, mine = Path(sys.argv[1]), {(f"/{sys.argv[2]}/{n}", -1): Entry(n, n, AudioHeader(n, 1, 1)) for n in range(3000)}
for _ in range(30):
    save_index(path, mine)
    assert len(load_index(path)) == 3000, "a part"
"""


def test_writers_at_the_same_time_leave_a_whole_index(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), name], cwd=ROOT) for name in "ab"]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0]
    assert {place[0][:3] for place in load_index(path)} in ({"/a/"}, {"/b/"})
    assert [file.name for file in path.parent.iterdir()] == ["x"]


def test_an_index_holds_what_was_put_in(tmp_path: Path) -> None:
    entries = {("/a", -1): Entry(1, 2**62, AudioHeader(2**35, 44_100, 2)), ("/é", 512): Entry(0, -1, (0, 1, 8))}
    save_index(tmp_path / "x", entries)
    assert load_index(tmp_path / "x") == entries
    save_index(tmp_path / "x", {})
    assert load_index(tmp_path / "x") == {} == load_index(tmp_path / "gone")


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_reported_when_it_takes_long(
    folder: Path, terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find(folder)
    assert capsys.readouterr().err == ""
    for name in ("SILENT_S", "TERMINAL_EVERY_S", "LOG_EVERY_S"):
        monkeypatch.setattr(headers, name, 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    find(folder)
    line = capsys.readouterr().err
    assert "scanned 12 utterances in 0 s" in line
    assert line.startswith("\r") == terminal and line.endswith("\n")
    monkeypatch.setenv("RANK", "1")
    find(folder)
    assert capsys.readouterr().err == ""
