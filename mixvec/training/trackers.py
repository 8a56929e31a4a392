"""Where a run's numbers go besides its own files: ``run.trackers``. No tracker can stop a run or slow it.

TensorBoard's files are written by the run itself. Each other tracker has a process of its own
(``mixvec.training.follow``) which reads metrics.jsonl and for which the run never waits: where it is offline, not
logged in, or its server is gone, the run reports that once and continues.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from accelerate.tracking import TensorBoardTracker

from . import follow

RANKS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Trackers:
    """The trackers of a run, on its main rank."""

    def __init__(self, folder: Path, names: Sequence[str], update: int, report: Callable[[str], None]) -> None:
        """Start them for a run that continues from ``update``.

        Args:
            names: some of ``config.TRACKERS``.
            report: prints a line.
        """
        self._folder, self._report = folder, report
        self._board: Any = None
        self._followers: dict[str, subprocess.Popen[bytes]] = {}
        self._failed: set[str] = set()
        for name in names:
            if find_spec(name) is None:
                report(f"WARNING run.trackers: {name} is not installed (pip install {name}); the run continues "
                       "without it")  # fmt: skip
            elif name == "tensorboard":
                self._board = TensorBoardTracker("", folder / name, purge_step=update + 1)
                self._write(self._board.start)
            else:
                follow.error_file(folder, name).unlink(missing_ok=True)
                self._followers[name] = _start(folder, name, update)

    def row(self, row: dict[str, Any]) -> None:
        """Write a row of metrics.jsonl to TensorBoard, and report each other tracker's first failure."""
        if self._board is not None:
            self._write(self._board.log, follow.numbers(row), row["update"])
        for name in self._followers.keys() - self._failed:
            if (error := follow.error_file(self._folder, name)).exists():
                self._failed.add(name)
                why = error.read_text(encoding="utf-8").strip()
                self._report(f"WARNING run.trackers: {name}: {why}; the run continues")

    def close(self) -> None:
        """End them. A follower has a minute to send what is left; the run does not wait for it."""
        if self._board is not None:
            self._write(self._board.finish)
        for follower in self._followers.values():
            follower.stdin.close()  # type: ignore[union-attr]

    def _write(self, work: Callable[..., None], *arguments: Any) -> None:
        """Do TensorBoard's work; the run continues without it where that fails."""
        try:
            work(*arguments)
        except Exception as error:
            self._board = None
            self._report(f"WARNING run.trackers: tensorboard: {error}; the run continues without it")


def _start(folder: Path, name: str, update: int) -> subprocess.Popen[bytes]:
    """A process that follows the run for one tracker until its standard input ends, with the run or without it."""
    environment = {key: value for key, value in os.environ.items() if key not in RANKS}
    with (folder / f"tracker-{name}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", follow.__name__, str(folder), name, str(update)], stdin=subprocess.PIPE,
            stdout=log, stderr=log, start_new_session=True,
            env=environment | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
