"""Of several processes that scan a source at a time, as the ranks of one machine do, one opens its files."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from mixvec.audio import AudioHeader, audio_header
from mixvec.data import headers, index
from mixvec.data.readers.rows import Row
from mixvec.data.sources import Corpus
from tests.data.test_index import check, find
from tests.readers import write
from tests.runs import ROOT


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten files, with an index of their own."""
    monkeypatch.setenv("MIXVEC_CACHE", str(tmp_path / "cache"))
    for number in range(10):
        write(tmp_path / "audio" / f"{number % 3}" / f"{number}.wav", 0.1 + number / 100)
    return tmp_path / "audio"


HOLDER = """
import sys, time
from mixvec.data.index import IndexLock, index_path
lock = IndexLock(index_path(sys.argv[1], labels=False), sys.argv[1])
lock.acquire()
print("ready", flush=True)
time.sleep(600)
"""


@pytest.fixture
def holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock of the folder's index."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.wait()


def test_one_waits_for_another_that_scans_the_source_until_it_ends(
    folder: Path, holder: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed, even: the kernel releases its lock."""
    monkeypatch.setattr(index, "SILENT_S", 0.0)
    found: list[Corpus] = []
    waiting = Thread(target=lambda: found.append(find(folder)))
    waiting.start()
    waiting.join(1.0)
    assert waiting.is_alive() and not found
    assert str(folder) in capsys.readouterr().err
    holder.kill()
    waiting.join(30)
    check(found[0], folder)


def test_of_two_at_a_time_one_opens_the_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes, one of which is this: it waits at its first file until the other waits for it."""
    lines = ["import sys", "from mixvec.data import headers, index", "from mixvec.data.sources import find_utterances",
             "index.SILENT_S = 0.0", "headers.audio_header = lambda path: sys.exit(f'opened {path}')",
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


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_where_there_are_no_locks_nobody_waits(
    number: int, folder: Path, holder: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    check(find(folder), folder)


def test_the_lock_is_released_however_the_search_ends(folder: Path) -> None:
    for _ in range(2):  # a lock that was left would make the second wait for ever
        search = headers.with_headers(iter([Row(str(folder / "0" / "0.wav"))]), str(folder), labels=False)
        next(search)
        search.close()

        def failing() -> Any:
            yield Row(str(folder / "0" / "0.wav"))
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            list(headers.with_headers(failing(), str(folder), labels=False))
