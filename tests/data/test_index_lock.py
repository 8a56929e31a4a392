"""Of several that look through a source at a time, as the ranks of one machine do, one opens its files."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from mixvec.audio import AudioHeader, audio_header
from mixvec.data import headers
from mixvec.data import index_lock as turns
from mixvec.data.index import index_path, load_index
from mixvec.data.index_lock import Turn
from mixvec.data.sources import Corpus, find_utterances
from mixvec.parent import follow_parent
from tests.readers import write

FILES = 6


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Its index is the test's own."""
    monkeypatch.setenv("MIXVEC_CACHE", str(tmp_path / "cache"))
    for number in range(FILES):
        write(tmp_path / "audio" / f"{number}.wav", 0.1 + number / 100)
    return tmp_path / "audio"


def lock_of(folder: Path) -> Path:
    path = index_path(str(folder), labels=False)
    assert path is not None
    return path.with_suffix(".lock")


def find(folder: Path) -> Corpus:
    return find_utterances(str(folder), "data.train")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []
    monkeypatch.setattr(headers, "audio_header", lambda path: names.append(str(path)) or audio_header(path))
    return names


def waits(monkeypatch: pytest.MonkeyPatch, do: Callable[[], Any]) -> None:
    """Let ``do`` be done between two looks at the lock, in place of the pause."""
    monkeypatch.setattr(turns, "sleep", lambda _: do())


def test_the_second_waits_for_the_first_and_opens_nothing(
    folder: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting, found = Event(), []
    second = Thread(target=lambda: (found.append(find(folder)), waiting.set()))
    waits(monkeypatch, waiting.set)

    def while_another_starts(path: Any) -> AudioHeader:
        opened.append(str(path))
        if second.ident is None:
            second.start()
        assert waiting.wait(20)
        return audio_header(path)

    monkeypatch.setattr(headers, "THREADS", 1)
    monkeypatch.setattr(headers, "audio_header", while_another_starts)
    first = find(folder)
    second.join(20)
    assert len(opened) == FILES and len(load_index(index_path(str(folder), labels=False))) == FILES
    assert found[0].utterances == first.utterances


def test_nobody_waits_for_one_that_was_killed(folder: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel lets go of its lock."""
    lock_of(folder).parent.mkdir(parents=True)
    ready, told = os.pipe()
    other = os.fork()
    if other == 0:
        follow_parent(signal.SIGKILL)
        held = lock_of(folder).open("a")
        fcntl.flock(held, fcntl.LOCK_EX)
        os.write(told, b"1")
        signal.pause()
        os._exit(0)
    assert os.read(ready, 1) == b"1"
    paused: list[int] = []

    def kill() -> None:
        if not paused:
            os.kill(other, signal.SIGKILL)
            os.waitpid(other, 0)
        paused.append(1)

    waits(monkeypatch, kill)
    assert len(find(folder).utterances) == FILES == len(opened)
    assert len(paused) == 1


def test_one_that_shows_no_life_is_not_waited_for_and_one_that_does_is(
    folder: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a clock that moves while the second waits. A stopped process holds its lock, and so may one on a dead disk."""
    path, clock, at_work = index_path(str(folder), labels=False), [0.0], 5
    assert path is not None
    monkeypatch.setattr(turns, "monotonic", lambda: clock[0])
    first = Turn(path, str(folder))
    first.take()

    def pause() -> None:
        clock[0] += 0.9 * turns.PATIENCE_S
        if clock[0] < at_work * turns.PATIENCE_S:
            os.utime(lock_of(folder), ns=(0, int(clock[0] * 1e9)))  # as the first does, on a clock of seconds

    waits(monkeypatch, pause)
    assert len(find(folder).utterances) == FILES == len(opened)
    assert at_work * turns.PATIENCE_S < clock[0] < (at_work + 3) * turns.PATIENCE_S
    assert capsys.readouterr().err == f"waiting for another process that looks through {folder}\n"
    before = lock_of(folder).stat().st_mtime_ns
    first.go_on()
    assert lock_of(folder).stat().st_mtime_ns != before, "a sign of life"
    first.close()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_where_there_are_no_locks_each_looks_for_itself(
    number: int, folder: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    waits(monkeypatch, lambda: pytest.fail("waits for nobody"))
    assert len(find(folder).utterances) == FILES == len(opened)


def test_the_turn_ends_with_the_search(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However it ends; nothing is left waiting for it in this process or another."""
    waits(monkeypatch, lambda: pytest.fail("waits for nobody"))
    search = headers.with_headers(iter([headers.Row(str(folder / "0.wav"))]), str(folder), labels=False)
    next(search)
    search.close()
    monkeypatch.setattr(sys.modules["mixvec.data.headers"], "_keep", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        find(folder)
    monkeypatch.undo()
    monkeypatch.setenv("MIXVEC_CACHE", str(folder.parent / "cache"))
    waits(monkeypatch, lambda: pytest.fail("waits for nobody"))
    assert len(find(folder).utterances) == FILES
