"""Files of arrays in ``$MIXVEC_CACHE`` (else ``~/.cache/mixvec``) that may be lost at any time, but are never wrong."""

from __future__ import annotations

import hashlib
import io
import os
import zlib
from pathlib import Path

import numpy as np

from ..atomic import whole_file

Arrays = dict[str, np.ndarray]


def cache_path(kind: str, identity: bytes) -> Path | None:
    """A file of the cache; None where there is no home folder."""
    folder = os.environ.get("MIXVEC_CACHE")
    try:
        cache = Path(folder) if folder else Path.home() / ".cache" / "mixvec"
    except RuntimeError:
        return None
    return cache / kind / (hashlib.sha256(identity).hexdigest()[:32] + ".npz.z")


def load_arrays(path: Path | None) -> Arrays | None:
    """The arrays of a file; None where there is none, or it is damaged."""
    try:
        content = path.read_bytes() if path is not None else b""
    except OSError:
        return None
    if len(content) < 4 or zlib.crc32(content[4:]) != int.from_bytes(content[:4], "big"):
        return None
    with np.load(io.BytesIO(zlib.decompress(content[4:]))) as file:
        return dict(file)


def save_arrays(path: Path | None, arrays: Arrays) -> None:
    """Write arrays so that other processes find the old or the new ones; do nothing where that is not possible."""
    if path is None:
        return
    content = io.BytesIO()
    for name, array in arrays.items():
        assert not array.dtype.hasobject, name
    np.savez(content, **arrays)  # type: ignore[arg-type]
    packed = zlib.compress(content.getbuffer(), 1)
    try:
        with whole_file(path) as new:
            new.write_bytes(zlib.crc32(packed).to_bytes(4, "big") + packed)
    except OSError:  # a full disk, or a folder that may not be written to
        return
