"""The short form of `make compat`: this environment, in processes of their own, from folders, a hub and its cache."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.compat.__main__ import ENVIRONMENTS, publish, results
from tests.hub_server import HubServer


@pytest.mark.slow
@pytest.mark.parametrize("script", ["load_mixvec.py", "load_transformers.py"])
def test_published_models_load_in_a_fresh_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    assert script in {needed[0] for needed in ENVIRONMENTS.values()}
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "")  # publish sets it, and this puts it back
    with HubServer() as hub:
        publish(tmp_path, hub)
        found = results("here", Path(sys.executable), script, tmp_path, hub)
    assert len(found) == 2 and all(good for _, good in found), found
    assert all(" 26 models loaded" in line for line, _ in found)
