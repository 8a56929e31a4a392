"""Headers are read once, several at a time, and kept in the cache; whatever happens to it, the rows are the same."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import soundfile

from mixvec.audio import AudioHeader, audio_header
from mixvec.data import headers
from mixvec.data.cache import Cache, cache_folder
from mixvec.data.readers.rows import Row
from mixvec.data.sources import Corpus, find_utterances
from tests.readers import write
from tests.runs import ROOT

Opens = list[str]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test has its own."""
    monkeypatch.setenv("MIXVEC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "found.sqlite"


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
    return find_utterances(str(source), "data.train")


def check(corpus: Corpus, folder: Path) -> None:
    """The content of the folder, as it is found one file at a time."""
    kept, bad = [], []
    for path in sorted(folder.rglob("*.wav")):
        try:
            info = soundfile.info(os.fsencode(path))
        except soundfile.LibsndfileError:
            info = None
        if info is not None and info.frames:
            kept.append((str(path), info.frames / info.samplerate))
        else:
            bad.append(path.name)
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
        assert ["noise.wav" in row["reason"] for row in corpus.skipped] == [True, False]


def test_a_second_start_opens_what_is_new_or_changed(
    folder: Path, opens: Opens, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = os.fsdecode(os.fsencode(folder) + b"/2/\xff\n \xe9.wav")  # no text
    os.rename(folder / "2" / "8.wav", name)
    first = find(folder)
    assert len(opens) == len(set(opens)) == 12 and name in [u.source for u in first.utterances]
    opens.clear()
    second = find(f"{folder}/")
    assert opens == ["noise.wav"]  # what could not be read is tried again: another libsndfile may
    assert (second.utterances, second.skipped) == (first.utterances, first.skipped)
    monkeypatch.chdir(folder.parent)
    assert find("audio").utterances[0].source == "audio/0/0.wav" and opens == ["noise.wav"] * 2
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


def test_a_long_file_in_many_rows_is_opened_once(folder: Path, opens: Opens, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headers, "BATCH_ROWS", 3)
    rows = '{"audio": "0/0.wav", "offset": 0.01, "duration": 0.02}\n{"audio": "0/noise.wav"}\n' * 20
    (folder / "m.jsonl").write_text(rows)
    corpus = find(folder / "m.jsonl")
    assert (len(corpus.utterances), len(corpus.skipped)) == (20, 20)
    assert sorted(opens) == ["0.wav", "noise.wav"]


def test_a_damaged_cache_is_never_an_error_and_never_a_wrong_length(folder: Path, cache: Path, opens: Opens) -> None:
    find(folder)
    whole, rng = cache.read_bytes(), random.Random(0)
    for round_ in range(60):
        at = rng.randrange(len(whole))
        flipped = bytearray(whole)
        for place in (at, *(rng.randrange(len(whole)) for _ in range(20))):
            flipped[place] ^= 1 << rng.randrange(8)
        cache.write_bytes([whole[:at], bytes(flipped), rng.randbytes(at)][round_ % 3])
        check(find(folder), folder)
    cache.write_bytes(bytes(64))
    find(folder)
    opens.clear()
    check(find(folder), folder)
    assert opens == ["noise.wav"]


def test_where_no_cache_can_be_written_nothing_is_reported(
    folder: Path, cache: Path, opens: Opens, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.parent.write_text("a file where the folder should be")  # permissions mean nothing to root
    for _ in range(2):
        opens.clear()
        check(find(folder), folder)
        assert len(opens) == 12
    monkeypatch.delenv("MIXVEC_CACHE")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert cache_folder() is None
    check(find(folder), folder)


def test_an_interrupted_search_keeps_what_it_found(folder: Path, opens: Opens, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headers, "BATCH_ROWS", 2)
    monkeypatch.setattr(headers, "THREADS", 1)

    def rows() -> Any:
        yield from (Row(str(folder / f"{number % 3}" / f"{number}.wav")) for number in range(5))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(headers.with_headers(rows(), str(folder)))
    known = set(opens)
    assert known >= {"0.wav"}
    opens.clear()
    check(find(folder), folder)
    assert known.isdisjoint(opens)


def test_progress_is_reported_when_it_takes_long(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find(folder)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(headers, "SILENT_S", 0.0)
    find(folder)
    assert "scanned: 12.0 utterances" in capsys.readouterr().err
    monkeypatch.setenv("RANK", "1")
    find(folder)
    assert capsys.readouterr().err == ""


HOLDER = """
import sys, time
from mixvec.data.cache import scanning
with scanning(sys.argv[1]):
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that scans the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.wait()


def test_one_waits_for_another_that_scans_the_source_until_it_ends(
    folder: Path, holder: subprocess.Popen[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed, even: the kernel releases its lock."""
    found: list[Corpus] = []
    waiting = Thread(target=lambda: found.append(find(folder)))
    waiting.start()
    waiting.join(1.0)
    assert waiting.is_alive() and not found
    assert str(folder) in capsys.readouterr().err
    holder.kill()
    waiting.join(30)
    check(found[0], folder)


def test_of_two_at_a_time_one_opens_the_files(folder: Path, opens: Opens, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes, one of which is this: it waits at its first file until the other waits for it."""
    (folder / "0" / "noise.wav").unlink()
    lines = ["import sys", "from mixvec.data import headers", "from mixvec.data.sources import find_utterances",
             "headers.audio_header = lambda path: sys.exit(f'opened {path}')",
             "print(len(find_utterances(sys.argv[1], 'data.train').utterances))"]  # fmt: skip
    command = [sys.executable, "-c", "\n".join(lines), str(folder)]
    other: list[subprocess.Popen[str]] = []

    def start(path: Any) -> AudioHeader:
        if not other:
            other.append(subprocess.Popen(command, cwd=ROOT, stdout=-1, stderr=-1, text=True))
            assert other[0].stderr is not None and str(folder) in other[0].stderr.readline()
        return audio_header(path)

    monkeypatch.setattr(headers, "THREADS", 1)
    monkeypatch.setattr(headers, "audio_header", start)
    check(find(folder), folder)
    out, err = other[0].communicate(timeout=60)
    assert (out, err, other[0].returncode) == ("10\n", "", 0)


def test_where_there_are_no_locks_nobody_waits(
    folder: Path, holder: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    check(find(folder), folder)


def test_the_lock_is_released_however_the_search_ends(folder: Path) -> None:
    for _ in range(2):  # a lock that was left would make the second wait for ever
        search = headers.with_headers(iter([Row(str(folder / "0" / "0.wav"))]), str(folder))
        next(search)
        search.close()


def test_a_row_of_another_type_is_not_known(cache: Path) -> None:
    """What a flipped bit in a record's header makes of a value: nothing, a text or a number."""
    Cache().put({b"a": b"one", b"b": b"two"})
    database = sqlite3.connect(cache, isolation_level=None)
    for value in ("NULL", "'text'", "7", "1.5"):
        database.execute(f"UPDATE found SET value = {value} WHERE key = ?", (b"a",))
        assert Cache().get([b"a", b"b"]) == {b"b": b"two"}


WRITER = """
import sys
from mixvec.data.cache import Cache
for keys in ([b"%d" % n for n in range(first, first + 100)] for first in range(100)):
    cache = Cache()
    cache.put(dict.fromkeys(keys, sys.argv[1].encode() * 99))
    assert set(cache.get(keys).values()) <= {b"a" * 99, b"b" * 99}, "a part"
"""


@pytest.mark.slow
def test_writers_at_the_same_time_lose_nothing() -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, name], cwd=ROOT) for name in "ab"]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0]
    found = Cache().get([b"%d" % n for n in range(199)])
    assert len(found) == 199 and set(found.values()) <= {b"a" * 99, b"b" * 99}
