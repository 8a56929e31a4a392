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

``hub.faults`` is a list of ``[regex, times, kind]``: the next ``times`` requests whose "METHOD /path" matches the regex
meet ``"503"`` (any status), ``"drop"`` (the connection closes unanswered) or ``"drop_mid"`` (after half of the answer).
``hub.log`` has every request as "METHOD /path".
"""

from __future__ import annotations

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import urlsplit

from pytest import MonkeyPatch

from tests.hub_store import HubStore, Request, as_json


class HubServer(HubStore):
    """The hub. ``url`` is its address; with a ``token``, writing and all of a private repository need that token."""

    def __init__(self, token: str | None = None, user: str = "user") -> None:
        super().__init__(token, user)
        self.faults: list[list[object]] = []
        self.log: list[str] = []

    def __enter__(self) -> HubServer:
        hub = self

        class Handler(_Handler):
            server_hub = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def attach(self, monkeypatch: MonkeyPatch) -> None:
        """Make the client in this process, already imported, take this hub for its own.

        ``HfApi(endpoint=hub.url)`` alone is not enough: after an upload the client parses the commit's address by
        its own endpoint, and fails. The functions bound when it was imported (``huggingface_hub.upload_folder``)
        stay with the old one: use ``HfApi()``, ``snapshot_download`` or ``hf_hub_download``.
        """
        template = self.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", self.url)
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.file_download.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setenv("HF_ENDPOINT", self.url)

    def fault(self, request: str) -> str | None:
        """Note a request, and say which fault it shall meet."""
        with self._lock:
            self.log.append(request)
            for fault in self.faults:
                pattern, times, kind = str(fault[0]), int(str(fault[1])), str(fault[2])
                if times > 0 and re.search(pattern, request):
                    fault[1] = times - 1
                    return kind
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for the client's acknowledgement of its headers
    server_hub: HubServer

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        kind = self.server_hub.fault(f"{self.command} {url.path}")
        if kind == "drop":
            self.close_connection = True
            return
        if kind is not None and kind != "drop_mid":
            answer = as_json({"error": "a fault that the test asked for"}, int(kind))
        else:
            method = "GET" if self.command == "HEAD" else self.command
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
            request = Request(method, url.path, url.query, token, self.headers.get("Range"), body)
            answer = self.server_hub.answer(request)
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body[: len(answer.body) // 2] if kind == "drop_mid" else answer.body)
        self.close_connection = self.close_connection or kind == "drop_mid"

    do_GET = do_HEAD = do_POST = do_PUT = _serve

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on stderr: ``hub.log`` has it."""
