"""What the tests of remote sources share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from mixvec.data.readers import ranges
from tests.web_server import WebServer


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An index and a memory file system of the test's own; nothing is tried again, and nothing is copied to disk."""
    monkeypatch.setenv("MIXVEC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(ranges, "WAITS_S", ())
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    yield
    assert list((tmp_path / "temporary").iterdir()) == []
    fsspec.filesystem("memory").store.clear()


@pytest.fixture
def web(tmp_path: Path) -> Iterator[WebServer]:
    """``tmp_path/site`` over HTTP."""
    with WebServer(tmp_path / "site") as server:
        yield server
