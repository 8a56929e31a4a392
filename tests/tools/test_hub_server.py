"""The loopback hub does for the real client what a hub does: round trips, refusals, and a fault on demand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from requests.exceptions import ConnectionError

from tests.hub_server import HubServer

NAME = "org/model"
FILES = {"README.md": b"# A model\n", "model.safetensors": bytes(range(256)) * 40, "deep/er/notes.txt": b"hello",
         "empty.txt": b""}  # fmt: skip


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


@pytest.fixture
def uploaded(hub: HubServer, folder: Path) -> str:
    """The id of the commit that holds FILES."""
    HfApi(token="secret").create_repo(NAME)
    return str(HfApi(token="secret").upload_folder(repo_id=NAME, folder_path=folder).oid)


def test_a_folder_comes_back_as_it_went(hub: HubServer, uploaded: str, tmp_path: Path) -> None:
    assert hub.files(NAME) == FILES and len(hub.titles(NAME)) == 1
    assert sum(line.startswith("PUT /lfs/") for line in hub.log) == 1  # the weights; the rest is in the commit
    target = snapshot_download(NAME, local_dir=tmp_path / "down", cache_dir=tmp_path / "cache")
    assert {name: (Path(target) / name).read_bytes() for name in FILES} == FILES
    info = HfApi(token=False).model_info(NAME)
    assert (info.id, info.sha, info.private) == (NAME, uploaded, False)
    assert sorted(sibling.rfilename for sibling in info.siblings or []) == sorted(FILES)


def test_an_unchanged_folder_makes_no_commit_and_old_commits_stay(hub: HubServer, uploaded: str, folder: Path) -> None:
    api = HfApi(token="secret")
    api.upload_folder(repo_id=NAME, folder_path=folder)
    assert len(hub.titles(NAME)) == 1
    (folder / "README.md").write_text("{}")
    api.upload_folder(repo_id=NAME, folder_path=folder, commit_message="second", delete_patterns="deep/*")
    assert hub.titles(NAME)[1:] == ["second"] and hub.files(NAME, uploaded) == FILES
    assert hub.files(NAME)["README.md"] == b"{}"
    assert sum(line.startswith("PUT /lfs/") for line in hub.log) == 1  # the weights did not go again
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo(NAME)


@pytest.mark.parametrize("token", [False, "wrong"])
def test_writing_and_private_reading_need_the_token(hub: HubServer, folder: Path, token: str | bool) -> None:
    HfApi(token="secret").create_repo(NAME, private=True)
    with pytest.raises(HfHubHTTPError, match="401"):
        HfApi(token=token).upload_folder(repo_id=NAME, folder_path=folder)
    with pytest.raises(RepositoryNotFoundError):
        HfApi(token=token).model_info(NAME)
    assert HfApi(token="secret").model_info(NAME).private and hub.files(NAME) == {}


@pytest.mark.parametrize(("kind", "error"), [("503", HfHubHTTPError), ("drop", ConnectionError)])
def test_a_fault_at_the_commit_leaves_what_was(
    hub: HubServer, uploaded: str, folder: Path, kind: str, error: type[Exception]
) -> None:
    (folder / "README.md").write_text("{}")
    hub.faults = [["POST .*/commit/main", 1, kind]]
    with pytest.raises(error):
        HfApi(token="secret").upload_folder(repo_id=NAME, folder_path=folder)
    assert hub.files(NAME) == FILES
    HfApi(token="secret").upload_folder(repo_id=NAME, folder_path=folder)  # the fault was for once
    assert hub.files(NAME)["README.md"] == b"{}"
