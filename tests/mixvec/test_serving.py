"""`mixvec serve` over real sockets: many clients, and those that vanish, send garbage, stall or flood."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
import torch
from aiohttp import web

from mixvec.listening import ListenConfig, Listener
from mixvec.serving import LOOPBACK, MAX_MESSAGE_BYTES, Limits, Server
from tests.commands import Run
from tests.test_architecture import ROOT
from tests.tones import TONE_MODEL, loaded, pcm, sound

TEXTS = ["bab a ab..a b.", "..ab ba b...a", "a", "bb ab...." * 2, "..."]


@pytest.fixture(scope="module")
def listener() -> Listener:
    return Listener(loaded(), ListenConfig(320, 8), torch.device("cpu"))


@pytest.fixture(scope="module")
def alone(listener: Listener) -> list[list[str]]:
    """The final texts of each of TEXTS in a stream of its own."""
    found = []
    for number, text in enumerate(TEXTS):
        wave = torch.frombuffer(bytearray(pcm(sound(text, number))), dtype=torch.int16) / 32768
        found.append([r.text for r in listener.listen(wave.split(1600)) if r.final])
    return found


@asynccontextmanager
async def serving(listener: Listener, limits: Limits = Limits()) -> AsyncIterator[tuple[str, Server]]:  # noqa: B008
    server = Server(listener, limits)
    runner = web.AppRunner(server.app(), shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, LOOPBACK, 0).start()
        yield f"http://{LOOPBACK}:{runner.addresses[0][1]}/", server
    finally:
        await runner.cleanup()


class Outcome:
    """What a client received: final texts, how many partial ones, the error and the closing code."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.partial, self.error, self.code = 0, "", 0


async def speak(
    url: str, audio: bytes, cut: int = 3200, pause_s: float = 0.0, end: str | None = '{"end": true}'
) -> Outcome:
    """Send audio in pieces and read until the server closes the connection."""
    found = Outcome()
    async with aiohttp.ClientSession() as client, client.ws_connect(url + "listen") as socket:

        async def read() -> None:
            async for message in socket:
                row = message.json()
                if "error" in row:
                    found.error = row["error"]
                elif row["final"]:
                    found.texts.append(row["text"])
                    assert [word["word"] for word in row["words"]] == row["text"].split()
                else:
                    found.partial += 1

        reader = asyncio.create_task(read())
        with contextlib.suppress(aiohttp.ClientConnectionResetError):  # where the server has ended it
            for at in range(0, len(audio), cut):
                await socket.send_bytes(audio[at : at + cut])
                await asyncio.sleep(pause_s)
            if end is not None:
                await socket.send_str(end)
        await asyncio.wait_for(reader, 60)
        found.code = socket.close_code or 0
    return found


def play_scene(listener: Listener, scene: Callable[[str, Server], Awaitable[Any]], limits: Limits = Limits()) -> Any:  # noqa: B008
    async def play() -> Any:
        async with serving(listener, limits) as (url, server):
            found = await scene(url, server)
            if not server.closing:
                for _ in range(1500):  # nothing is left of any client
                    if not server.connections and not server.clients:
                        break
                    await asyncio.sleep(0.02)
                assert (server.connections, server.clients) == (0, [])
            return found

    return asyncio.run(play())


async def all_of(url: str, times: int = 1) -> list[list[str]]:
    """The texts of TEXTS, all spoken at the same time, ``times`` over."""
    outcomes = await asyncio.gather(
        *(speak(url, pcm(sound(t, n)), 1600 + 200 * n, 0.001) for _ in range(times) for n, t in enumerate(TEXTS))
    )
    assert all(outcome.code == 1000 and not outcome.error for outcome in outcomes)
    return [outcome.texts for outcome in outcomes]


def test_many_clients_get_the_text_that_each_gets_alone(listener: Listener, alone: list[list[str]]) -> None:
    sizes: list[int] = []
    advance = listener.advance

    def counted(sessions: list[Any]) -> Any:
        sizes.append(len(sessions))
        return advance(sessions)

    listener.advance = counted  # type: ignore[method-assign]
    try:
        found = play_scene(listener, lambda url, server: all_of(url, 4))
    finally:
        listener.advance = advance  # type: ignore[method-assign]
    assert found == alone * 4 and any(alone)
    assert max(sizes) > 4  # clients share a batch


async def vanish(url: str) -> None:
    async with aiohttp.ClientSession() as client:
        socket = await client.ws_connect(url + "listen")
        await socket.send_bytes(pcm(sound("ab", 1)))
        assert socket._response.connection and socket._response.connection.transport
        socket._response.connection.transport.abort()  # no closing handshake
        await asyncio.sleep(0.1)


async def garbage(url: str) -> None:
    too_long = bytes(MAX_MESSAGE_BYTES + 2)
    for audio, end, named, code in [
        (b"odd", None, "3 bytes", 1003),
        (b"", "hello there", "'hello there'", 1003),
        (b"", "{}", "'{}'", 1003),
        (too_long, None, "", 1009),
    ]:
        outcome = await speak(url, audio, len(too_long), end=end)
        assert outcome.code == code and named in outcome.error
    reader, writer = await asyncio.open_connection(LOOPBACK, int(url.split(":")[2].strip("/")))
    writer.write(os.urandom(4096))
    await asyncio.wait_for(reader.read(), 10)
    writer.close()


async def flood(url: str) -> None:
    """Ten minutes of noise as fast as the server takes them, none of the results read, then gone."""
    async with aiohttp.ClientSession() as client:
        socket = await client.ws_connect(url + "listen")
        noise = (0.1 * torch.randn(16_000)).mul(32767).to(torch.int16).numpy().tobytes()

        async def send() -> None:
            for _ in range(600):
                await socket.send_bytes(noise)

        with pytest.raises(asyncio.TimeoutError):  # it is held back
            await asyncio.wait_for(send(), 1.5)


def test_clients_that_vanish_send_garbage_or_flood_disturb_no_other(listener: Listener, alone: list[list[str]]) -> None:
    async def scene(url: str, server: Server) -> list[list[str]]:
        bad = [vanish(url), vanish(url), garbage(url), flood(url), flood(url)]
        _, found = await asyncio.gather(asyncio.gather(*bad), all_of(url, 2))
        return found

    assert play_scene(listener, scene) == alone * 2


def test_a_flood_is_held_back_and_memory_is_bounded(listener: Listener) -> None:
    async def scene(url: str, server: Server) -> float:
        task, most = asyncio.create_task(flood(url)), 0.0
        while not task.done():
            most = max([most, *(len(client.incoming) / 32_000 for client in server.clients)])
            await asyncio.sleep(0.01)
        await task
        return most

    assert 0 < play_scene(listener, scene) <= 4.0 + MAX_MESSAGE_BYTES / 32_000


def test_sessions_end_when_idle_or_too_long_with_what_was_said(listener: Listener) -> None:
    audio = pcm(sound("ab ba", 2))
    idle = play_scene(listener, lambda url, _: speak(url, audio, end=None), Limits(idle_s=0.3))
    assert (idle.texts, idle.code) == (["ab ba"], 1008) and "0.3 s" in idle.error
    long = play_scene(listener, lambda url, _: speak(url, audio, 320, 0.02, None), Limits(session_s=0.5))
    assert long.code == 1008 and "0.00833333 minutes" in long.error


def test_more_clients_than_allowed_are_refused_until_one_leaves(listener: Listener) -> None:
    async def scene(url: str, server: Server) -> Outcome:
        address = url + "listen"
        async with aiohttp.ClientSession() as client, client.ws_connect(address), client.ws_connect(address):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await client.ws_connect(address)
            assert refused.value.status == 503
        while server.connections:
            await asyncio.sleep(0.01)
        return await speak(url, pcm(sound("ab", 2)))

    assert play_scene(listener, scene, Limits(clients=2)).texts == ["ab"]


def test_pages_of_other_sites_cannot_connect(listener: Listener) -> None:
    async def scene(url: str, server: Server) -> None:
        async with aiohttp.ClientSession() as client:
            for headers in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}):
                with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                    await client.ws_connect(url + "listen", headers=headers)
                assert refused.value.status == 403
            async with client.ws_connect(url + "listen", headers={"Origin": url.strip("/")}):
                pass
            async with client.get(url) as page:
                assert page.status == 200 and "getUserMedia" in await page.text()

    play_scene(listener, scene)


def test_a_server_that_ends_gives_every_client_its_last_result(listener: Listener) -> None:
    async def scene(url: str, server: Server) -> list[Outcome]:
        tasks = [asyncio.create_task(speak(url, pcm(sound("ab ba", n)), end=None)) for n in range(3)]
        while len(server.clients) < 3 or any(client.session.state is None for client in server.clients):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
        await server.shut_down(web.Application())
        return await asyncio.gather(*tasks)

    for outcome in play_scene(listener, scene):
        assert (outcome.texts, outcome.code) == (["ab ba"], 1001) and outcome.error


def test_options_that_cannot_be(run: Run) -> None:
    for option, value in [("--max-clients", 0), ("--max-minutes", -1), ("--idle-s", 0), ("--port", 99_999)]:
        done = run("serve", "--model", TONE_MODEL, "--device", "cpu", option, value)
        (line,) = done.err.splitlines()
        assert done.code == 1 and f"{option} {value}" in line


@pytest.mark.slow
def test_the_command_serves_until_ctrl_c() -> None:
    command = [sys.executable, "-m", "mixvec", "serve", "--model", str(TONE_MODEL), "--device", "cpu", "--port", "0"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:  # fmt: skip
        assert process.stdout and process.stderr
        url = process.stdout.readline().split()[0]
        assert asyncio.run(speak(url, pcm(sound("ab ba..b", 4)))).texts == ["ab ba", "b"]
        process.send_signal(signal.SIGINT)
        assert (process.wait(60), process.stderr.read()) == (0, "")
