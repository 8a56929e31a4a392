"""A folder on the loopback interface over HTTP, for fsspec to read: with ranges, or without as ``http.server`` is.

    with WebServer(tmp_path) as web:
        find(f"{web.url}/audio")
        assert web.log[0].startswith("GET /audio")

``web.log`` has every request as "METHOD /path RANGE"; ``web.sent`` counts the bytes of all answers. ``web.faults`` is
a list of ``[regex, times, kind]``: the next ``times`` requests that match meet ``"503"`` (any status), ``"drop"`` (the
connection closes unanswered) or ``"cut"`` (after half of the answer).
"""

from __future__ import annotations

import base64
import functools
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # a client that has gone is no fault of the server
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class WebServer:
    """``url`` is its address. With ``login`` ("user:password") and ``token`` (``?token=``) it asks for these."""

    def __init__(self, folder: Path, *, ranges: bool = True, stamps: bool = True, login: str = "", token: str = ""):
        self.folder, self.ranges, self.stamps, self.login, self.token = folder, ranges, stamps, login, token
        self.log: list[str] = []
        self.faults: list[list[object]] = []
        self.sent = 0
        self.lock = threading.Lock()

    def __enter__(self) -> WebServer:
        web = self

        class Handler(_Handler):
            server_web = web

        handler = functools.partial(Handler, directory=str(self.folder))
        self._server = _Server(("127.0.0.1", 0), handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def fault(self, request: str) -> str | None:
        """Note a request, and say which fault it shall meet."""
        with self.lock:
            self.log.append(request)
            for fault in self.faults:
                pattern, times, kind = str(fault[0]), int(str(fault[1])), str(fault[2])
                if times > 0 and re.search(pattern, request):
                    fault[1] = times - 1
                    return kind
        return None

    @contextmanager
    def counted(self) -> Iterator[list[int]]:
        """Bytes sent and requests answered in a ``with`` block."""
        sent, asked, found = self.sent, len(self.log), [0, 0]
        yield found
        found[:] = [self.sent - sent, len(self.log) - asked]


class _Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server_web: WebServer

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        web, span = self.server_web, self.headers.get("Range", "")
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
        stamp = f'"{path.stat().st_mtime_ns}-{len(content)}"'
        headers = {"ETag": stamp} if web.stamps else {}
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", span) if web.ranges else None
        if match is None:
            return self._answer(200, content, kind == "cut", **headers)
        first, last = int(match[1]), min(int(match[2]), len(content) - 1)
        if first > last:
            return self._answer(416, b"")
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        return self._answer(206, content[first : last + 1], kind == "cut", **headers)

    def _answer(self, status: int, body: bytes, cut: bool = False, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        try:
            self.wfile.write(body[: len(body) // 2] if cut else body)
            with self.server_web.lock:
                self.server_web.sent += len(body)
        except OSError:
            self.close_connection = True
        self.close_connection = self.close_connection or cut

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on stderr: ``web.log`` has it."""
