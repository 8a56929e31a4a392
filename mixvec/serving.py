"""``mixvec serve``: a WebSocket server on loopback for many streams at once, and a page that records in the browser.

A client connects to ``/listen`` and sends raw PCM (s16le, 16 kHz, mono) in binary messages, then ``{"end": true}``. It
gets JSON texts, each a ``mixvec.listening.Result``, then the connection is closed; after ``{"error": …}`` with a code.
Chunks of clients whose states have equal shapes are computed as one batch. A client that sends faster than it is
computed is not read until its audio is; one that does not read is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from aiohttp import WSCloseCode, WSMsgType, web

from .errors import UserError
from .listening import Listener, Result, Session

LOOPBACK = "127.0.0.1"
MAX_MESSAGE_BYTES = 1 << 17  # 4 s of audio
AHEAD_S = 4.0
"""Audio of a client that may wait to be computed; until it is, nothing more is read."""
STALL_S, SHUTDOWN_S = 20.0, 10.0
"""Time for a client to take a result, and for all to take their last one when the server ends."""
PAGE = Path(__file__).with_name("listen.html")


@dataclass(frozen=True)
class Limits:
    """What a server allows; raises ``UserError`` for a limit that cannot be."""

    clients: int = 64
    session_s: float = 3600.0
    idle_s: float = 60.0

    def __post_init__(self) -> None:
        if self.clients < 1 or self.session_s <= 0 or self.idle_s <= 0:
            raise UserError(f"--max-clients {self.clients}, --max-minutes {self.session_s / 60:g} and --idle-s "
                            f"{self.idle_s:g} must be above 0")  # fmt: skip


class Refused(Exception):
    """Why a session ends early, and the closing code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Client:
    """A connection: audio that waits to be computed, and results that wait to be sent."""

    def __init__(self, listener: Listener, request: web.Request, socket: web.WebSocketResponse) -> None:
        self.session, self.request, self.socket = Session(listener), request, socket
        self.most_bytes = round(2 * AHEAD_S * listener.rate_hz)
        self.incoming = bytearray()
        self.ended = self.finished = self.failed = False
        self.moved, self.waiting = asyncio.Event(), asyncio.Event()
        self.results: deque[Result] = deque()
        self.receiver: asyncio.Task[None] | None = None

    def ready(self) -> bool:
        """Whether a chunk can be computed; what has come is handed to the session for that."""
        if not self.session.ready and self.incoming:
            samples = np.frombuffer(bytes(self.incoming), "<i2").astype(np.float32) / 32768
            self.session.feed(torch.from_numpy(samples))
            self.incoming.clear()
            self.moved.set()
        if self.ended and not self.incoming:
            self.session.close()
        return self.session.ready and not self.failed

    def deliver(self, results: list[Result]) -> None:
        """Queue results; a partial one that was not sent yet is replaced."""
        for result in results:
            if self.results and not self.results[-1].final:
                self.results.pop()
            self.results.append(result)
        self.finished = self.session.done
        self.waiting.set()

    async def send(self) -> None:
        """Send results as they come, to the last; raises ``TimeoutError`` where the client does not take them."""
        while not (self.finished or self.failed) or self.results:
            await self.waiting.wait()
            self.waiting.clear()
            while self.results:
                row = self.results.popleft().plain()
                if not row["final"]:
                    del row["words"]
                await asyncio.wait_for(self.socket.send_json(row), STALL_S)


class Server:
    """The streams of all clients on one listener; its model runs in a thread of its own."""

    def __init__(self, listener: Listener, limits: Limits) -> None:
        self.listener, self.limits = listener, limits
        self.clients: list[Client] = []
        self.connections, self.closing = 0, False
        self.work = asyncio.Event()
        self.pool = ThreadPoolExecutor(1, "mixvec-serve")

    def app(self) -> web.Application:
        """The page at ``/``, the WebSocket at ``/listen``."""
        app = web.Application()
        app.add_routes([web.get("/", self.page), web.get("/listen", self.listen)])
        app.cleanup_ctx.append(self.computing)
        app.on_shutdown.append(self.shut_down)
        return app

    async def computing(self, _: web.Application) -> Any:
        """Compute while the application runs."""
        task = asyncio.create_task(self.compute())
        yield
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        self.pool.shutdown()

    async def compute(self) -> None:
        """One chunk of every client that has one, again and again."""
        loop = asyncio.get_running_loop()
        while True:
            await self.work.wait()
            self.work.clear()
            while ready := [client for client in self.clients if client.ready()]:
                sessions = [client.session for client in ready]
                try:
                    found = await loop.run_in_executor(self.pool, self.listener.advance, sessions)
                except Exception:
                    logging.exception("mixvec serve: %d streams failed", len(ready))
                    for client in ready:
                        client.failed = True
                        client.deliver([])
                    continue
                for client, results in zip(ready, found, strict=True):
                    client.deliver(results)

    async def page(self, request: web.Request) -> web.StreamResponse:
        """The page that records."""
        self.check(request)
        return web.FileResponse(PAGE, headers={"Cache-Control": "no-store"})

    def check(self, request: web.Request) -> None:
        """Refuse pages of other sites, which a browser would let connect to loopback."""
        origin = request.headers.get("Origin")
        names = {"localhost", LOOPBACK}
        if request.url.host not in names or origin not in (None, f"{request.scheme}://{request.host}"):
            raise web.HTTPForbidden(text="only pages of this server may connect\n")

    async def listen(self, request: web.Request) -> web.StreamResponse:
        """One stream, from its first sample to its last result."""
        self.check(request)
        if self.closing or self.connections >= self.limits.clients:
            raise web.HTTPServiceUnavailable(text=f"{self.connections} clients are connected, the most at a time\n")
        self.connections += 1
        try:
            socket = web.WebSocketResponse(max_msg_size=MAX_MESSAGE_BYTES, compress=False, timeout=STALL_S / 4)
            await socket.prepare(request)
            client = Client(self.listener, request, socket)
            self.clients.append(client)
            try:
                await self.serve(client)
            finally:
                client.failed = True
                self.clients.remove(client)
        finally:
            self.connections -= 1
        return socket

    async def serve(self, client: Client) -> None:
        """Receive and send; close with the code that fits."""
        sender = asyncio.create_task(client.send())
        client.receiver = asyncio.create_task(self.receive(client))
        refused: Refused | None = None
        try:
            done, _ = await asyncio.wait([sender, client.receiver], return_when=asyncio.FIRST_COMPLETED)
            if client.receiver in done:
                if client.receiver.cancelled():
                    refused = Refused("the server ends", WSCloseCode.GOING_AWAY)
                elif isinstance(error := client.receiver.exception(), Refused):
                    refused = error
                elif error:
                    return  # the client has vanished
                client.ended = True
                self.work.set()
            await sender
            if client.failed:
                refused = Refused("this stream failed", WSCloseCode.INTERNAL_ERROR)
            if refused:
                await asyncio.wait_for(client.socket.send_json({"error": str(refused)}), STALL_S)
            await client.socket.close(code=refused.code if refused else WSCloseCode.OK)
        except (TimeoutError, asyncio.TimeoutError, ConnectionError):
            pass  # it takes nothing any more
        finally:
            for task in (sender, client.receiver):
                task.cancel()
            await asyncio.gather(sender, client.receiver, return_exceptions=True)

    async def receive(self, client: Client) -> None:
        """Take audio until the client ends it; raises ``Refused``, or ``ConnectionError`` where the client is gone."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + self.limits.session_s
        while True:
            while len(client.incoming) > client.most_bytes:
                client.moved.clear()
                await client.moved.wait()
            if client.request.transport is None:
                raise ConnectionError  # what it sent before is of no use to anyone
            left_s = end_s - loop.time()
            try:
                message = await client.socket.receive(timeout=max(1e-3, min(self.limits.idle_s, left_s)))
            except asyncio.TimeoutError:
                over, idle = f"{self.limits.session_s / 60:g} minutes, the longest", f"{self.limits.idle_s:g} s"
                why = f"the session took {over}" if loop.time() >= end_s else f"no audio for {idle}"
                raise Refused(why, WSCloseCode.POLICY_VIOLATION) from None
            if message.type is WSMsgType.BINARY:
                if len(message.data) % 2:
                    raise Refused(f"a message of {len(message.data)} bytes, an odd number; audio is s16le",
                                  WSCloseCode.UNSUPPORTED_DATA)  # fmt: skip
                client.incoming += message.data
                self.work.set()
            elif message.type is WSMsgType.TEXT:
                if message.data.replace(" ", "") == '{"end":true}':
                    return
                raise Refused(f'text {message.data[:20]!r}; audio comes in binary messages, its end is {{"end": true}}',
                              WSCloseCode.UNSUPPORTED_DATA)  # fmt: skip
            else:
                raise ConnectionError

    async def shut_down(self, _: web.Application) -> None:
        """End every stream with its last result."""
        self.closing = True
        for client in self.clients:
            if client.receiver:
                client.receiver.cancel()
        deadline = asyncio.get_running_loop().time() + SHUTDOWN_S
        while self.connections and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.02)


async def serve(listener: Listener, limits: Limits, port: int) -> None:
    """Serve on loopback until Ctrl-C or SIGTERM; prints the address.

    Raises:
        UserError: the port cannot be used.
    """
    runner = web.AppRunner(Server(listener, limits).app(), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, LOOPBACK, port)
        try:
            await site.start()
        except (OSError, OverflowError) as error:
            raise UserError(f"--port {port}: cannot be used ({getattr(error, 'strerror', None) or error}); choose "
                            "another, or 0 for a free one") from error  # fmt: skip
        ended = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, ended.set)
        print(f"http://{LOOPBACK}:{runner.addresses[0][1]}/ (Ctrl-C ends it)", flush=True)
        await ended.wait()
    finally:
        await runner.cleanup()
