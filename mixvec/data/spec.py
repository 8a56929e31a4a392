"""The source list of a configuration, parsed once: which sources a key names, and the weight of each."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import UserError, redacted
from .readers.rows import SPLIT_NAME


class SourceSpec(NamedTuple):
    """One source of a list."""

    name: str
    """A path, URL, glob or hub name."""
    weight: float = 1.0
    """How often an epoch takes each of its utterances (``mixture.py``)."""

    @property
    def short_name(self) -> str:
        """The name in a log line or on a model card: its last part, with the one before where the last is a split."""
        path = Path(redacted(self.name).removesuffix("?***"))
        if SPLIT_NAME.match(path.name.lower()) and path.parent.name:
            return f"{path.parent.name}/{path.name}"
        return path.name or self.name


def parse_sources(value: Any, key: str) -> tuple[SourceSpec, ...]:
    """The sources that the value of ``key`` names: a name, ``{source: NAME, weight: 2}``, or a list of these.

    Raises:
        UserError: there is none, or an entry has neither form; the message names the key and the entry.
    """
    if value in (None, "", [], ()):
        raise UserError(f"{key} is not set: give it a folder of audio, such as {key}=DIR")
    entries = value if isinstance(value, list | tuple) else [value]
    return tuple(_parse_entry(entry, key) for entry in entries)


def _parse_entry(entry: Any, key: str) -> SourceSpec:
    if not isinstance(entry, dict):
        return SourceSpec(str(entry))
    name, weight = entry.get("source"), entry.get("weight", 1.0)
    if not isinstance(name, str) or not name or set(entry) - {"source", "weight"}:
        raise UserError(f"{key}: {entry} is neither a source nor of the form {{source: DIR, weight: 2}}")
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
        raise UserError(f"{key}: weight={weight!r} of {name} is not a number above 0")
    return SourceSpec(name, float(weight))


def short_names(sources: tuple[SourceSpec, ...]) -> str:
    """The names of all sources, in a log line or on a model card."""
    return ", ".join(source.short_name for source in sources)
