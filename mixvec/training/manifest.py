"""What a folder must hold, byte for byte: size and SHA-256 of each file, written last, checked before any is read.

SHA-256 is the fastest of hashlib's strong sums on processors that have instructions for it, and what sha256sum(1) and
the hub say of a file.
"""

from __future__ import annotations

import json
from pathlib import Path

from ..folder import sha256

NAME = "manifest.json"


def write_manifest(folder: Path) -> None:
    """Note size and SHA-256 of every file in ``folder`` in its ``manifest.json``."""
    files = {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in sorted(folder.iterdir())}
    (folder / NAME).write_text(json.dumps({"files": files}, indent=2) + "\n", encoding="utf-8")


def damage(folder: Path) -> str | None:
    """Which file of ``folder`` is not as its manifest says, and in what; None where all are."""
    try:
        files = json.loads((folder / NAME).read_text(encoding="utf-8"))["files"]
        stated = [(str(name), int(file["bytes"]), str(file["sha256"])) for name, file in files.items()]
    except FileNotFoundError:
        return f"{NAME} is missing (never finished, or written by mixvec before there were manifests)"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{NAME} is damaged"
    for name, size, _ in stated:  # the quick look first, at all of them
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} is damaged ({path.stat().st_size} bytes instead of {size})"
    for name, _, digest in stated:
        try:
            same = sha256(folder / name) == digest
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
        if not same:
            return f"{name} is damaged (its SHA-256 is not the one in {NAME})"
    return None
