"""Rows of remote sources: where their audio is stored, secrets removed, and several shards read at a time."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain

from ...errors import redacted
from .ranges import RemoteFile, is_url, states
from .remote import RemotePath, located
from .rows import Fault, Row, Rows

SHARDS_AT_ONCE = 8


def settled(rows: Rows) -> Rows:
    """The rows with ``stored`` set for remote audio, and secrets in names replaced."""
    for row in rows:
        if not is_url(row.source):
            yield row
        elif isinstance(row, Fault):
            yield replace(row, source=redacted(row.source), reason=redacted(row.reason))
        elif row.stored is not None:
            yield replace(row, source=redacted(row.source), where=redacted(row.where))
        else:
            path = located(row.source)  # which may be on this machine
            stored = RemoteFile(str(path), *states.get(str(path), ())) if isinstance(path, RemotePath) else None
            yield replace(row, source=redacted(str(path)), where=redacted(row.where), stored=stored)


def in_order(shards: list[Rows], *, remote: bool) -> Rows:
    """The rows of all shards in order; several remote shards are read at a time."""
    if not remote:
        yield from chain.from_iterable(shards)
        return
    with ThreadPoolExecutor(SHARDS_AT_ONCE, thread_name_prefix="shards") as pool:
        found: Iterator[list[Row | Fault]] = pool.map(list, shards)
        yield from chain.from_iterable(found)
