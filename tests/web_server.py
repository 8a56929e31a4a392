"""A folder on the loopback interface over HTTP, for fsspec to read: with ranges, or without as ``http.server`` is.

    with WebServer(tmp_path) as web:
        find(f"{web.url}/audio")
        assert web.log[0].startswith("GET /audio")

``web.log`` has every request as "METHOD /path RANGE"; ``web.sent`` counts the bytes of all answers.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

from tests.loopback import Handler, Loopback


class _Handler(Handler, SimpleHTTPRequestHandler):
    loopback: WebServer

    def __init__(self, *args: Any) -> None:
        super().__init__(*args, directory=str(self.loopback.folder))

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        web, span = self.loopback, self.headers.get("Range", "")
        kind = web.fault(f"{self.command} {self.path} {span}".strip())
        if kind == "drop":
            self.close_connection = True
            return None
        login = base64.b64encode(web.login.encode()).decode()
        if kind not in (None, "cut"):
            return self._answer(int(str(kind)), b"")
        if (web.login and self.headers.get("Authorization") != f"Basic {login}") or web.token not in self.path:
            return self._answer(401, b"")
        self.path = self.path.partition("?")[0]
        path = Path(self.translate_path(self.path))
        if path.is_dir() and not self.path.endswith("/"):
            return self._answer(301, b"", Location=self.path + "/")
        if path.is_dir():
            found = self.list_directory(str(path))  # sends its own headers
            if found is not None and self.command == "GET":
                self.wfile.write(found.read())
            return None
        if not path.is_file():
            return self._answer(404, b"")
        content = path.read_bytes()
        headers = {"ETag": f'"{path.stat().st_mtime_ns}-{len(content)}"'} if web.stamps else {}
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", span) if web.ranges else None
        if match is None:
            return self._answer(200, content, kind == "cut", **headers)
        first, last = int(match[1]), min(int(match[2]), len(content) - 1)
        if first > last:
            return self._answer(416, b"")
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        return self._answer(206, content[first : last + 1], kind == "cut", **headers)

    def _answer(self, status: int, body: bytes, cut: bool = False, **headers: str) -> None:
        with suppress(OSError):  # the client has gone
            self.respond(status, body, headers, cut)
            with self.loopback.lock:
                self.loopback.sent += len(body) if self.command == "GET" else 0


class WebServer(Loopback):
    """``url`` is its address. With ``login`` ("user:password") and ``token`` (``?token=``) it asks for these."""

    handler = _Handler

    def __init__(self, folder: Path, *, ranges: bool = True, login: str = "", token: str = "") -> None:
        super().__init__()
        self.folder, self.ranges, self.login, self.token = folder, ranges, login, token
        self.stamps = True
        self.sent = 0

    @contextmanager
    def counted(self) -> Iterator[list[int]]:
        """Bytes sent and requests answered in a ``with`` block."""
        sent, asked, found = self.sent, len(self.log), [0, 0]
        yield found
        found[:] = [self.sent - sent, len(self.log) - asked]
