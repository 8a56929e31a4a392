"""Whether the data of a run has changed since its last checkpoint, and how."""

from __future__ import annotations

from typing import Any

Fingerprint = dict[str, Any]
"""Plain JSON that identifies what a run reads: counts, seconds and checksums."""

COUNTS = {"utterances": "utterances", "seconds": "seconds of audio", "shards": "shards"}
CHECKSUMS = {
    "names": "other files, or the same ones in another order",
    "times": "other starts or durations of utterances",
    "labels": "other texts or labels",
    "shard_names": "other shards, or the same ones in another order",
}


def fingerprint_changes(old: Fingerprint, new: Fingerprint) -> list[str]:
    """What differs between two fingerprints, in words with numbers: ``12 utterances before, 13 now``. Keys without
    words of their own are reported by their names, so that a caller may add some."""
    changed = [key for key in {**COUNTS, **CHECKSUMS, **old, **new} if old.get(key) != new.get(key)]
    counts = [f"{_shown(old.get(k))} {COUNTS[k]} before, {_shown(new.get(k))} now" for k in changed if k in COUNTS]
    others = [k for k in changed if k not in COUNTS]
    return counts + [CHECKSUMS.get(k) or f"{k}: {_difference(old.get(k), new.get(k))}" for k in others]


def _difference(old: Any, new: Any) -> str:
    """Lists, such as a vocabulary, by what is missing and what is new; anything else as it was and is."""
    if not isinstance(old, list) or not isinstance(new, list):
        return f"{_shown(old)} before, {_shown(new)} now"
    sides = [("missing", [item for item in old if item not in new]), ("new", [item for item in new if item not in old])]
    found = [f"{name} {', '.join(map(repr, items[:5]))}{f' and {len(items) - 5} more' if len(items) > 5 else ''}"
             for name, items in sides if items]  # fmt: skip
    return "; ".join(found) or "another order"


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.3f}".rstrip("0").rstrip(".")
    return "unknown" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
