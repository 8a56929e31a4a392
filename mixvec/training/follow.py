"""Follow a run for one tracker, in a process of its own: ``python -m mixvec.training.follow RUN_DIR NAME UPDATE``.

It reads metrics.jsonl and passes each row on; what fails is tried again until it succeeds, so a server that comes back
gets all rows. It ends after its standard input does: when the run closes, or dies.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from ..atomic import write_whole
from ..errors import redacted

POLL_S, RETRY_S, GRACE_S = 2.0, 20.0, 60.0
PROJECT = "mixvec"


def error_file(folder: Path, name: str) -> Path:
    """Holds why a tracker fails, in one line, as long as it does."""
    return folder / f"tracker-{name}.error"


def main() -> None:
    folder, name, update = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    os.nice(10)
    ended = threading.Event()
    threading.Thread(target=_wait_for_end, args=(ended,), daemon=True).start()
    follow(folder, name, update, ended)


def _wait_for_end(ended: threading.Event) -> None:
    """Set ``ended`` at the end of standard input, and leave this process in any case after ``GRACE_S``."""
    sys.stdin.buffer.read()
    ended.set()
    threading.Event().wait(GRACE_S)
    os._exit(1)


def follow(folder: Path, name: str, update: int, ended: threading.Event) -> None:
    """Pass rows on until ``ended``, then those that are left.

    Args:
        name: one of ``config.TRACKERS``, but tensorboard.
        update: where the run continues; later rows were cut off and are written again.
    """
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
            why = redacted(" ".join(str(error).split()))[:300] or type(error).__name__
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
    from accelerate import PartialState
    from accelerate.tracking import GeneralTracker, MLflowTracker, TrackioTracker, WandBTracker

    PartialState(cpu=True)
    project, title, own = os.environ.get("WANDB_PROJECT", PROJECT), folder.absolute().name, state.get("id")
    tracker: GeneralTracker
    if name == "wandb":
        own = own or os.urandom(4).hex()
        tracker = WandBTracker(project, name=title, id=own, resume="allow", dir=str(folder))
    elif name == "trackio":
        own = own or f"{title}-{os.urandom(2).hex()}"
        tracker = TrackioTracker(PROJECT, name=own, resume="allow")
    else:
        tracker = MLflowTracker(PROJECT, run_id=own, run_name=title)
    tracker.start()
    if "id" not in state:
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        tracker.store_init_configuration(flat(config))
        state["id"] = tracker.tracker.info.run_id if name == "mlflow" else own
    return tracker


def flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested configuration by dotted keys; lists are written as text."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value if isinstance(value, int | float | str | None) else str(value)
    return found


if __name__ == "__main__":
    main()
