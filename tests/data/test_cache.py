"""The cache of what was learnt from files, in the threads of one process."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mixvec.data import cache


def test_threads_share_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread waits for SQLite's lock while another one of this process has it."""
    monkeypatch.setenv("MIXVEC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "WAIT_S", 0.0)
    found, keys = cache.Cache(), [b"%d" % number for number in range(25_600)]
    done: list[Future[Any]] = []
    with ThreadPoolExecutor(16) as pool:
        for first in range(0, 25_600, 256):
            done.append(pool.submit(found.get, keys[first : first + 256]))
            done.append(pool.submit(found.put, dict.fromkeys(keys[first : first + 256], b"x" * 24)))
    assert [future.exception() for future in done if future.exception()] == []
    assert found.path is not None
    assert all(len(found.get(keys[first : first + 256])) == 256 for first in range(0, 25_600, 256))
