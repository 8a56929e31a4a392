"""A server on the loopback interface, in a thread, whose requests can be made to fail.

``log`` has every request as text. ``faults`` is a list of ``[regex, times, kind]``: the next ``times`` requests that
match meet ``"503"`` (any status), ``"drop"`` (the connection closes unanswered) or ``"cut"`` (it closes after half of
the answer).
"""

from __future__ import annotations

import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

from typing_extensions import Self


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # a client that has gone is no fault of the server
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class Handler(BaseHTTPRequestHandler):
    """Answers the requests to one ``Loopback``."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for the client's acknowledgement of its headers

    def respond(self, status: int, body: bytes, headers: dict[str, str], cut: bool = False) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if cut else body)
        self.close_connection = self.close_connection or cut

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on stderr: ``Loopback.log`` has it."""


class Loopback:
    """``url`` is its address within a ``with`` block."""

    handler: type[Handler]

    def __init__(self) -> None:
        self.log: list[str] = []
        self.faults: list[list[object]] = []
        self.lock = threading.Lock()

    def __enter__(self) -> Self:
        self._server = _Server(("127.0.0.1", 0), type("Handler", (self.handler,), {"loopback": self}))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def fault(self, request: str) -> str | None:
        """Note a request; the fault that it shall meet."""
        with self.lock:
            self.log.append(request)
            for fault in self.faults:
                pattern, times, kind = str(fault[0]), int(str(fault[1])), str(fault[2])
                if times > 0 and re.search(pattern, request):
                    fault[1] = times - 1
                    return kind
        return None
