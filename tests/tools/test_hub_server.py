"""The loopback hub does for the real client what a hub does: whole round trips, its errors, and faults on demand."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from requests.exceptions import ChunkedEncodingError, ConnectionError

from tests.hub_server import HubServer

NAME = "org/model"
CARD = "---\nlicense: apache-2.0\npipeline_tag: automatic-speech-recognition\n---\n# A model\n"
FILES = {
    "README.md": CARD.encode(),
    "config.json": b'{"dim": 8}',
    "model.safetensors": bytes(range(256)) * 40,
    "deep/er/notes.txt": b"hello",
    "empty.txt": b"",
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer(token="secret") as server:
        server.attach(monkeypatch)
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        path = tmp_path / "model" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "model"


def client(hub: HubServer, token: str | bool = "secret") -> HfApi:
    api = HfApi(token=token)
    assert api.endpoint == hub.url
    return api


@pytest.fixture
def uploaded(hub: HubServer, folder: Path) -> str:
    """The id of the commit that holds FILES."""
    client(hub).create_repo(NAME)
    return str(client(hub).upload_folder(repo_id=NAME, folder_path=folder).oid)


def test_a_folder_comes_back_as_it_went(hub: HubServer, uploaded: str, tmp_path: Path) -> None:
    assert hub.files(NAME) == FILES
    assert len(hub.titles(NAME)) == 1
    assert sum(line.startswith("PUT /lfs/") for line in hub.log) == 1  # the weights; the rest is in the commit
    target = snapshot_download(NAME, local_dir=tmp_path / "down", cache_dir=tmp_path / "cache")
    assert {name: (Path(target) / name).read_bytes() for name in FILES} == FILES
    file = hf_hub_download(NAME, "config.json", cache_dir=tmp_path / "cache", revision=uploaded)
    assert Path(file).read_bytes() == FILES["config.json"]


def test_a_repository_describes_itself(hub: HubServer, uploaded: str) -> None:
    info = client(hub, token=False).model_info(NAME)
    assert (info.id, info.sha, info.private) == (NAME, uploaded, False)
    assert info.pipeline_tag == "automatic-speech-recognition"
    assert sorted(sibling.rfilename for sibling in info.siblings or []) == sorted(FILES)
    tree = {entry.path: entry for entry in client(hub).list_repo_tree(NAME)}
    assert set(tree) == {"README.md", "config.json", "deep", "empty.txt", "model.safetensors"}
    assert tree["model.safetensors"].size == len(FILES["model.safetensors"])
    assert [entry.path for entry in client(hub).list_repo_tree(NAME, "deep")] == ["deep/er"]
    assert sorted(client(hub).list_repo_files(NAME)) == sorted(FILES)


def test_an_unchanged_folder_makes_no_commit_and_old_commits_stay(
    hub: HubServer, uploaded: str, folder: Path, tmp_path: Path
) -> None:
    client(hub).upload_folder(repo_id=NAME, folder_path=folder)
    assert len(hub.titles(NAME)) == 1
    (folder / "config.json").write_text("{}")
    (folder / "deep/er/notes.txt").unlink()
    client(hub).upload_folder(repo_id=NAME, folder_path=folder, commit_message="second", delete_patterns="deep/*")
    assert hub.titles(NAME)[1:] == ["second"]
    assert hub.files(NAME)["config.json"] == b"{}"
    assert not any(name.startswith("deep/") for name in hub.files(NAME))
    assert hub.files(NAME, uploaded) == FILES
    client(hub).upload_file(repo_id=NAME, path_or_fileobj=b"x", path_in_repo="deep/er/again.txt")
    client(hub).delete_folder("deep", repo_id=NAME)
    assert set(hub.files(NAME)) == set(FILES) - {"deep/er/notes.txt"}
    assert sum(line.startswith("PUT /lfs/") for line in hub.log) == 1  # the weights did not go again


def test_creating_twice_is_refused_unless_allowed(hub: HubServer) -> None:
    assert client(hub).create_repo(NAME, private=True).repo_id == NAME
    assert client(hub).create_repo(NAME, exist_ok=True).repo_id == NAME
    with pytest.raises(HfHubHTTPError, match="409"):
        client(hub).create_repo(NAME)
    assert client(hub).create_repo("alone").repo_id == "user/alone"
    assert hub.repos[NAME].private


def test_what_is_missing_is_told_apart(hub: HubServer, uploaded: str, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with pytest.raises(RepositoryNotFoundError):
        snapshot_download("org/nothing", cache_dir=cache)
    with pytest.raises(RepositoryNotFoundError):
        client(hub).model_info("org/nothing")
    with pytest.raises(EntryNotFoundError):
        hf_hub_download(NAME, "nothing.json", cache_dir=cache)
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download(NAME, "config.json", revision="v9", cache_dir=cache)
    with pytest.raises(EntryNotFoundError):
        list(client(hub).list_repo_tree(NAME, "nowhere"))


@pytest.mark.parametrize("token", [False, "wrong"])
def test_writing_and_private_reading_need_the_token(hub: HubServer, folder: Path, token: str | bool) -> None:
    with pytest.raises(HfHubHTTPError, match="401"):
        client(hub, token).create_repo(NAME)
    client(hub).create_repo(NAME, private=True)
    with pytest.raises(HfHubHTTPError, match="401"):
        client(hub, token).upload_folder(repo_id=NAME, folder_path=folder)
    with pytest.raises(RepositoryNotFoundError):
        client(hub, token).model_info(NAME)
    assert client(hub).model_info(NAME).private
    assert hub.files(NAME) == {}


@pytest.mark.parametrize(("kind", "error"), [("503", HfHubHTTPError), ("drop", ConnectionError)])
def test_a_fault_at_the_commit_leaves_what_was(
    hub: HubServer, uploaded: str, folder: Path, kind: str, error: type[Exception]
) -> None:
    (folder / "config.json").write_text("{}")
    hub.faults = [["POST .*/commit/main", 1, kind]]
    with pytest.raises(error):
        client(hub).upload_folder(repo_id=NAME, folder_path=folder)
    assert hub.files(NAME) == FILES
    client(hub).upload_folder(repo_id=NAME, folder_path=folder)  # the fault was for once
    assert hub.files(NAME)["config.json"] == b"{}"


def test_a_download_cut_off_half_way_fails_and_then_succeeds(hub: HubServer, uploaded: str, tmp_path: Path) -> None:
    hub.faults = [["GET .*/model.safetensors", 1, "drop_mid"]]
    with pytest.raises(ChunkedEncodingError):
        hf_hub_download(NAME, "model.safetensors", cache_dir=tmp_path)
    path = hf_hub_download(NAME, "model.safetensors", cache_dir=tmp_path)
    assert Path(path).read_bytes() == FILES["model.safetensors"]
    assert hub.log.count(f"GET /{NAME}/resolve/main/model.safetensors") == 2


def test_a_part_of_a_file_may_be_asked_for(hub: HubServer, uploaded: str) -> None:
    url = f"{hub.url}/{NAME}/resolve/main/model.safetensors"
    for span, expected in (("bytes=5-9", slice(5, 10)), ("bytes=10000-", slice(10_000, None))):
        with urllib.request.urlopen(urllib.request.Request(url, headers={"Range": span})) as response:
            assert response.status == 206
            assert response.read() == FILES["model.safetensors"][expected]


def test_weights_that_never_arrived_cannot_be_committed(hub: HubServer, uploaded: str, folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"new weights")
    hub.faults = [["POST /lfs/verify", 1, "500"]]
    with pytest.raises(RuntimeError, match=r"Error while uploading 'model\.safetensors'"):
        client(hub).upload_folder(repo_id=NAME, folder_path=folder)
    lost = {"key": "lfsFile", "value": {"path": "model.safetensors", "algo": "sha256", "oid": "0" * 64, "size": 3}}
    url, headers = f"{hub.url}/api/models/{NAME}/commit/main", {"Authorization": "Bearer secret"}
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(urllib.request.Request(url, json.dumps(lost).encode(), headers))
    assert hub.files(NAME) == FILES
