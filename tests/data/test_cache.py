"""The cache of what was learnt from files: damage, processes and threads."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mixvec.data.cache import Cache
from tests.runs import ROOT


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a cache of the test's own."""
    monkeypatch.setenv("MIXVEC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache/found.sqlite"


def test_a_row_of_another_type_is_not_known(cache: Path) -> None:
    """What a flipped bit in a record's header makes of a value: nothing, a text or a number."""
    written = Cache()
    written.put({b"a": b"one", b"b": b"two"})
    written.close()
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
    cache.close()
"""


@pytest.mark.slow
def test_writers_at_the_same_time_lose_nothing() -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, name], cwd=ROOT) for name in "ab"]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0]
    found = Cache().get([b"%d" % n for n in range(199)])
    assert len(found) == 199 and set(found.values()) <= {b"a" * 99, b"b" * 99}


def test_threads_share_a_cache() -> None:
    """No thread frees a statement of SQLite's while another one uses it."""
    cache, keys = Cache(), [b"%d" % number for number in range(25_600)]
    done: list[Future[Any]] = []
    switching_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(16) as pool:
            for first in [*range(0, 25_600, 256)] * 4:
                done.append(pool.submit(cache.get, keys[first : first + 256]))
                done.append(pool.submit(cache.put, dict.fromkeys(keys[first : first + 256], b"x" * 24)))
    finally:
        sys.setswitchinterval(switching_s)
    assert [future.exception() for future in done if future.exception()] == []
    assert all(len(cache.get(keys[first : first + 256])) == 256 for first in range(0, 25_600, 256))
