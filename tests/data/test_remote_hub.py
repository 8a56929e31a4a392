"""Data sets of the hub: in place by ``hf://``, whatever their form, and by name as datasets loads them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import HfApi, HfFileSystem

from mixvec import UserError
from tests.hub_server import HubServer
from tests.readers import TEXTS, assert_reads, audiofolder, find, parquet, webdataset, write, write_text

NAMES = ["b 1", "b2", "ç", "d", "a"]


def hub_with(monkeypatch: pytest.MonkeyPatch, hub: HubServer, folder: Path, name: str) -> None:
    hub.attach(monkeypatch)
    HfFileSystem.clear_instance_cache()  # they keep the address of the hub before
    monkeypatch.setattr("datasets.config.HF_ENDPOINT", hub.url)
    api = HfApi(token="secret")
    api.create_repo(name, repo_type="dataset")
    api.upload_folder(repo_id=name, repo_type="dataset", folder_path=folder)


@pytest.mark.usefixtures("remote")
@pytest.mark.parametrize("form", [parquet, webdataset, audiofolder])
def test_a_data_set_of_the_hub_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: Callable[[list[Path], Path], Path]
) -> None:
    audio = [write(tmp_path / "site" / f"{name}.flac", 0.3) for name in NAMES]
    form(audio, tmp_path / "site" / "own")
    with HubServer(token="secret") as hub:
        hub_with(monkeypatch, hub, tmp_path / "site", "org/speech")
        corpus = find("hf://datasets/org/speech@main/own")
        assert [u.text for u in corpus.utterances] == TEXTS
        for utterance, path in zip(corpus.utterances, audio, strict=True):
            assert_reads(utterance, path)
        bare = find("hf://datasets/org/speech", labels=False)
        assert len(bare.utterances) == 5
        more = write(tmp_path / "new" / "e.flac", 0.3)
        HfApi(token="secret").upload_file(
            path_or_fileobj=more, path_in_repo="e.flac", repo_id="org/speech", repo_type="dataset"
        )
        assert len(find("hf://datasets/org/speech", labels=False).utterances) == 6  # no listing is older than a search
        with pytest.raises(UserError, match=r"hf://datasets/org/none: no such file or folder"):
            find("hf://datasets/org/none")


def test_a_data_set_of_the_hub_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    audio = [write(tmp_path / f"{name}.flac", 0.3) for name in NAMES]
    parquet(audio, tmp_path / "own")
    card = "---\nconfigs:\n- config_name: de\n  data_files:\n  - split: odd\n    path: data/*.parquet\n---\n"
    with HubServer(token="secret") as hub:
        hub_with(monkeypatch, hub, tmp_path / "own", "org/plain")
        write_text(tmp_path / "own" / "README.md", card)
        hub_with(monkeypatch, hub, tmp_path / "own", "org/configured")
        for name in ("org/plain", "org/configured:de/odd", "org/configured:/odd"):
            corpus = find(name)
            assert [u.text for u in corpus.utterances] == TEXTS
            for path, utterance in zip(audio, corpus.utterances, strict=True):
                assert_reads(utterance, path)
        for name, why in (("org/configured:fr/odd", "'fr' not found"), ("org/configured:de", 'Unknown split "train"')):
            with pytest.raises(UserError, match=f"{name}: .*{why}"):
                find(name)
