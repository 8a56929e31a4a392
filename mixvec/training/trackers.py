"""Where a run's numbers go besides its own files: ``run.trackers``. No tracker can stop a run or slow it.

TensorBoard's files are written by the run itself. Each other tracker has a process of its own,
``python -m mixvec.training.trackers RUN_DIR NAME UPDATE``, which sends the rows of metrics.jsonl and tries again what
fails, so a server that comes back gets all of them. The run never waits for it, and reports a failure once. The process
ends after its standard input does: when the run closes, or dies.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from accelerate.tracking import TensorBoardTracker

from ..atomic import write_whole
from ..errors import redacted
from .config import flat

POLL_S, RETRY_S, GRACE_S = 2.0, 20.0, 60.0
PROJECT = "mixvec"
RANKS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Trackers:
    """The trackers of a run, on its main rank."""

    def __init__(self, folder: Path, names: Sequence[str], update: int, report: Callable[[str], None]) -> None:
        """Start some of ``config.TRACKERS`` for a run that continues from ``update``; ``report`` prints a line."""
        self._folder, self._report = folder, report
        self._board: Any = None
        self._followers: dict[str, subprocess.Popen[bytes]] = {}
        self._failed: set[str] = set()
        for name in names:
            if find_spec(name) is None:
                self._warn(f"{name} is not installed (pip install {name})")
            elif name == "tensorboard":
                self._board = TensorBoardTracker("", folder / name, purge_step=update + 1)
                self._write("start")
            else:
                error_file(folder, name).unlink(missing_ok=True)
                self._followers[name] = _start(folder, name, update)

    def row(self, row: dict[str, Any]) -> None:
        """Write a row of metrics.jsonl to TensorBoard, and report each other tracker's first failure."""
        self._write("log", numbers(row), row.get("update"))
        for name in self._followers.keys() - self._failed:
            if (error := error_file(self._folder, name)).exists():
                self._failed.add(name)
                self._warn(f"{name}: {error.read_text(encoding='utf-8').strip()}", "")

    def close(self) -> None:
        """End them. A follower has a minute to send what is left; the run does not wait for it."""
        self._write("finish")
        for follower in self._followers.values():
            follower.stdin.close()  # type: ignore[union-attr]

    def _write(self, what: str, *arguments: Any) -> None:
        """Call TensorBoard, if there is one; the run continues without it where that fails."""
        try:
            if self._board is not None:
                getattr(self._board, what)(*arguments)
        except Exception as error:
            self._board = None
            self._warn(f"tensorboard: {error}")

    def _warn(self, why: str, how: str = " without it") -> None:
        self._report(f"WARNING run.trackers: {why}; the run continues{how}")


def _start(folder: Path, name: str, update: int) -> subprocess.Popen[bytes]:
    """A process that follows the run for one tracker until its standard input ends, with the run or without it."""
    environment = {key: value for key, value in os.environ.items() if key not in RANKS}
    with (folder / f"tracker-{name}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "mixvec.training.trackers", str(folder), name, str(update)], stdin=subprocess.PIPE,
            stdout=log, stderr=log, start_new_session=True,
            env=environment | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        )  # fmt: skip


def error_file(folder: Path, name: str) -> Path:
    """Holds why a tracker fails, in one line, as long as it does."""
    return folder / f"tracker-{name}.error"


def follow(folder: Path, name: str, update: int, ended: threading.Event) -> None:
    """Send rows until ``ended``, then those left; those after ``update`` were cut off, and are written again."""
    state_file = folder / f"tracker-{name}.json"
    state = {"update": 0} | (json.loads(state_file.read_text()) if state_file.exists() else {})
    sent, place, tracker = min(state["update"], update), 0, None
    while True:
        last, wait_s = ended.is_set(), POLL_S  # looked at first: what is written before the end is read after it
        try:
            if tracker is None:
                tracker = start(folder, name, state)
            for row, following in rows_after(folder / "metrics.jsonl", place):
                if row["update"] > sent:
                    tracker.log(numbers(row), step=row["update"])
                place, state["update"] = following, max(state["update"], row["update"])
            write_whole(state_file, json.dumps(state))
            error_file(folder, name).unlink(missing_ok=True)
        except (Exception, SystemExit) as error:
            why = redacted(" ".join(str(error).split()))[:600] or type(error).__name__
            write_whole(error_file(folder, name), f"{why}\n")
            wait_s = RETRY_S
        if last:
            break
        ended.wait(wait_s)
    if tracker is not None:
        tracker.finish()


def numbers(row: dict[str, Any]) -> dict[str, float]:
    """What a tracker takes of a row: numbers, without the update, which is their step."""
    return {key: value for key, value in row.items() if isinstance(value, int | float) and key != "update"}


def rows_after(log: Path, place: int) -> Iterator[tuple[dict[str, Any], int]]:
    """The complete rows of a log from byte ``place`` on, each with the place after it."""
    if not log.exists():
        return
    with log.open("rb") as file:
        file.seek(place)
        for line in file:
            if not line.endswith(b"\n"):
                return
            place += len(line)
            yield json.loads(line), place


def start(folder: Path, name: str, state: dict[str, Any]) -> Any:
    """The tracker, with the run's configuration; a resumed run continues its earlier one, by ``state["id"]``."""
    from accelerate import PartialState, tracking

    PartialState(cpu=True)
    title, own, random = folder.absolute().name, state.get("id"), os.urandom(4).hex()
    tracker: tracking.GeneralTracker
    if name == "wandb":
        own, project = own or random, os.environ.get("WANDB_PROJECT", PROJECT)
        tracker = tracking.WandBTracker(project, name=title, id=own, resume="allow", dir=str(folder))
    elif name == "trackio":
        own = own or f"{title}-{random}"
        tracker = tracking.TrackioTracker(PROJECT, name=own, resume="allow")
    else:
        tracker = tracking.MLflowTracker(PROJECT, run_id=own, run_name=title)
    tracker.start()
    if "id" not in state:
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        tracker.store_init_configuration(flat(config))
        state["id"] = tracker.tracker.info.run_id if name == "mlflow" else own
    return tracker


def main() -> None:
    os.nice(10)
    ended = threading.Event()

    def wait_for_end() -> None:
        """Wait for the end of standard input, and leave this process in any case ``GRACE_S`` after it."""
        sys.stdin.buffer.read()
        ended.set()
        threading.Event().wait(GRACE_S)
        os._exit(1)

    threading.Thread(target=wait_for_end, daemon=True).start()
    follow(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), ended)


if __name__ == "__main__":
    main()
