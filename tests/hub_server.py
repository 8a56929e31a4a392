"""A model hub on the loopback interface, in a thread and in memory, for the real client to talk to.

    with HubServer(token="secret") as hub:
        hub.attach(monkeypatch)  # a new process needs only HF_ENDPOINT=hub.url instead
        api = HfApi(token="secret")
        api.create_repo("org/name")
        api.upload_folder(repo_id="org/name", folder_path=folder)
        assert hub.files("org/name")["config.json"] == b"{}"

It answers what huggingface_hub 0.36.2 asks while it creates a repository, uploads a folder (small files inside the
commit, large ones by LFS first), lists, describes and downloads: each commit is atomic and keeps the ones before.
Models and data sets. Not there: branches, pull requests, the Xet protocol, rate limits.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from pytest import MonkeyPatch

from tests.hub_store import HubStore, Request, as_json
from tests.loopback import Handler, Loopback


class _Handler(Handler):
    loopback: HubServer

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        kind = self.loopback.fault(f"{self.command} {url.path}")
        if kind == "drop":
            self.close_connection = True
            return
        if kind not in (None, "cut"):
            answer = as_json({"error": "a fault that the test asked for"}, int(str(kind)))
        else:
            method = "GET" if self.command == "HEAD" else self.command
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
            request = Request(method, url.path, url.query, token, self.headers.get("Range"), body)
            answer = self.loopback.answer(request)
        self.respond(answer.status, answer.body, answer.headers, kind == "cut")

    do_GET = do_HEAD = do_POST = do_PUT = _serve


class HubServer(Loopback, HubStore):
    """The hub. ``url`` is its address; with a ``token``, writing and all of a private repository need that token."""

    handler = _Handler

    def __init__(self, token: str | None = None, user: str = "user") -> None:
        Loopback.__init__(self)
        HubStore.__init__(self, token, user)

    def attach(self, monkeypatch: MonkeyPatch) -> None:
        """Make the client in this process, already imported, take this hub for its own.

        ``HfApi(endpoint=hub.url)`` alone is not enough: after an upload the client parses the commit's address by
        its own endpoint, and fails. The functions bound when it was imported (``huggingface_hub.upload_folder``)
        stay with the old one: use ``HfApi()``, ``snapshot_download`` or ``hf_hub_download``.
        """
        template = self.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", self.url)
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.file_download.HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        monkeypatch.setenv("HF_ENDPOINT", self.url)
