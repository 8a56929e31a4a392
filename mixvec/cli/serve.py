"""``mixvec serve``: text while someone speaks, for many clients and in the browser."""

from __future__ import annotations

import argparse

from ..errors import UserError
from .listen import add_stream_options, listener_of


def add_serve(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the words of ``serve`` to those of ``mixvec``."""
    command = commands.add_parser(
        "serve",
        help="transcribe many streams over WebSockets, and a page that records",
        description="Serve a page that records and shows the text, and its WebSocket, on this machine (127.0.0.1): "
        "binary messages of raw PCM (s16le, 16 kHz, mono) to /listen, JSON texts back. Ctrl-C ends it.",
    )
    add_stream_options(command)
    command.add_argument("--port", type=int, default=8765, metavar="N", help="port (8765); 0: a free one")
    command.add_argument("--max-clients", type=int, default=64, metavar="N", help="clients at a time (64)")
    command.add_argument("--max-minutes", type=float, default=60.0, metavar="X", help="length of a session (60)")
    command.add_argument("--idle-s", type=float, default=60.0, metavar="X", help="without audio, after which it ends")


def run_serve(args: argparse.Namespace) -> None:
    """Serve until Ctrl-C.

    Raises:
        UserError: the model cannot stream, an option cannot be, or aiohttp is not installed.
    """
    import asyncio

    try:
        from ..serving import Limits, serve
    except ImportError as error:
        raise UserError(f"mixvec serve needs aiohttp: pip install 'mixvec[serve]' ({error})") from error
    limits = Limits(args.max_clients, 60 * args.max_minutes, args.idle_s)
    asyncio.run(serve(listener_of(args, force=False), limits, args.port))
