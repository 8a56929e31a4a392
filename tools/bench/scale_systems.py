"""What a large corpus costs before its first batch: the plan of an epoch, and the index of a folder of files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mixvec.data.plan import deal, plan_epoch
from mixvec.data.sources import find_utterances
from mixvec.model.frontend import SAMPLE_RATE_HZ

from .cases import Case, Work

UPDATE_S, BATCH_S, LONGEST_S, FILES_PER_FOLDER = 5760.0, 360.0, 30.0, 1000
"""The update and the batch of ``base``."""


def data(case: Case, variant: str) -> Work:
    ((count, seconds),) = case.batches
    return _plan(count, seconds, variant) if case.group == "plan" else _index(count, seconds, variant)


def _plan(count: int, seconds: float, variant: str) -> Work:
    """All updates of an epoch; or one of them in the middle of it, dealt to a rank of eight, as after a resume."""
    rng = np.random.default_rng(0)
    durations_s = np.minimum(rng.lognormal(np.log(seconds) - 0.125, 0.5, count), LONGEST_S)

    def plan() -> int:
        return sum(len(update) for update in plan_epoch(durations_s, UPDATE_S, 0, 0))

    def go_on() -> int:
        updates = plan_epoch(durations_s, UPDATE_S, 0, 0)
        return len(deal(updates[len(updates) * 2 // 3], durations_s, BATCH_S, ranks=8, rank=0))

    steps: dict[str, Callable[[], int]] = {"plan": plan, "resume": go_on}
    return Work(
        steps[variant], f"{durations_s.sum() / 3600:,.0f} h, {len(plan_epoch(durations_s, UPDATE_S, 0, 0)):,} updates"
    )


def _index(count: int, seconds: float, variant: str) -> Work:
    """A folder of small WAV files with nothing known of them; or with an index, and nothing changed since."""
    folder = tempfile.TemporaryDirectory(prefix="mixvec-bench-")
    samples = np.zeros(round(seconds * SAMPLE_RATE_HZ), np.int16).tobytes()
    header = b"RIFF" + (36 + len(samples)).to_bytes(4, "little") + b"WAVEfmt " + bytes.fromhex(
        "1000000001000100803e0000007d000002001000") + b"data" + len(samples).to_bytes(4, "little")  # fmt: skip
    for number in range(count):
        if number % FILES_PER_FOLDER == 0:
            at = Path(folder.name) / "audio" / f"{number // FILES_PER_FOLDER:04}"
            at.mkdir(parents=True)
        (at / f"{number:08}.wav").write_bytes(header + samples)
    os.environ["MIXVEC_CACHE"] = cache = os.path.join(folder.name, "cache")

    def look() -> int:
        if variant == "index":
            for index in Path(cache).rglob("*.arrow"):
                index.unlink()
        found = len(find_utterances(os.path.join(folder.name, "audio"), "data.train").utterances)
        assert found == count
        return found

    look()
    size = sum(path.stat().st_size for path in Path(cache).rglob("*.arrow"))
    return Work(look, f"{count:,} files, an index of {size / 1e6:.3g} MB")
