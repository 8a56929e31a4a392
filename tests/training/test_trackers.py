"""``run.trackers``: every number arrives once, and no tracker stops or slows a run, whatever becomes of its server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mixvec.errors import UserError
from mixvec.training import trackers
from mixvec.training.config import load_config
from mixvec.training.trackers import Trackers
from pretrain.config import PretrainConfig
from tests.runs import pretrain, rows

SERVICE = '''
"""A library like trackio, whose server is a folder that may be gone."""
import json, os, pathlib

class config:
    update = staticmethod(lambda *values, **options: None)


class Run:
    def log(self, values, step):
        with (pathlib.Path(os.environ["SERVER"]) / "rows.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\\n")

    def finish(self):
        (pathlib.Path(os.environ["SERVER"]) / "finished").touch()


def init(project, name, resume):
    (pathlib.Path(os.environ["SERVER"]) / f"{project}-{resume}").touch()
    return Run()
'''


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that is trackio's server, which is not there yet."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/trackio.py").write_text(SERVICE)
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    monkeypatch.setenv("SERVER", str(tmp_path / "server"))
    monkeypatch.setattr(trackers, "POLL_S", 0.01)
    monkeypatch.setattr(trackers, "RETRY_S", 0.02)
    yield tmp_path / "server"
    sys.modules.pop("trackio", None)


def log(folder: Path, *updates: int) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text("run:\n  seed: 0\n  stop_on: [a, b]\n")
    with (folder / "metrics.jsonl").open("a") as file:
        file.writelines(
            json.dumps({"update": update, "loss": 1.0 / update, "layers": [1]}) + "\n" for update in updates
        )


def until(condition: Any, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def test_a_server_that_is_gone_gets_every_row_once_it_is_back(tmp_path: Path, server: Path) -> None:
    run, ended = tmp_path / "run", threading.Event()
    log(run, 1, 2)
    thread = threading.Thread(target=trackers.follow, args=(run, "trackio", 0, ended))
    thread.start()
    until(trackers.error_file(run, "trackio").exists)
    server.mkdir()
    until(lambda: (server / "rows.jsonl").exists() and not trackers.error_file(run, "trackio").exists())
    server.rename(tmp_path / "away")
    log(run, 3)
    until(trackers.error_file(run, "trackio").exists)
    (tmp_path / "away").rename(server)
    log(run, 4)
    ended.set()
    thread.join(20)
    sent = [json.loads(line) for line in (server / "rows.jsonl").read_text().splitlines()]
    assert sent == [{"step": n, "loss": 1.0 / n} for n in (1, 2, 3, 4)] and (server / "finished").exists()


def test_a_resumed_run_continues_where_the_tracker_is(tmp_path: Path, server: Path) -> None:
    """Rows after the checkpoint are cut off and written again; what the tracker never got is sent."""
    run, ended = tmp_path / "run", threading.Event()
    server.mkdir()
    ended.set()
    log(run, 1, 2, 3)
    trackers.follow(run, "trackio", 0, ended)
    name = json.loads((run / "tracker-trackio.json").read_text())["id"]
    (run / "metrics.jsonl").unlink()
    log(run, 1, 2, 4)
    trackers.follow(run, "trackio", 2, ended)
    steps = [json.loads(line)["step"] for line in (server / "rows.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4] and json.loads((run / "tracker-trackio.json").read_text())["id"] == name


def test_a_half_written_row_is_sent_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"update": 1}\n{"upd')
    (first,) = trackers.rows_after(path, 0)
    path.write_text('{"update": 1}\n{"update": 2}\n')
    assert [row for row, _ in trackers.rows_after(path, first[1])] == [{"update": 2}]


@pytest.mark.slow
def test_not_logged_in_is_reported_once_and_the_run_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the real wandb, which has no key here."""
    for name in [name for name in os.environ if name.startswith("WANDB")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    log(tmp_path / "run", 1)
    printed: list[str] = []
    began = time.monotonic()
    own = Trackers(tmp_path / "run", ["wandb"], 0, printed.append)
    own.row({"update": 1})
    assert time.monotonic() - began < 2 and printed == []
    until(trackers.error_file(tmp_path / "run", "wandb").exists, 60)
    for update in (2, 3):
        own.row({"update": update})
    (follower,) = own._followers.values()
    own.close()
    assert len(printed) == 1 and printed[0].startswith("WARNING run.trackers: wandb: ") and "key" in printed[0].lower()
    follower.wait(90)


@pytest.mark.slow
def test_a_server_that_never_answers_costs_the_run_nothing(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run ends, whole, while its tracker still waits for a connection."""
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    started: list[Any] = []
    plain = trackers._start
    monkeypatch.setattr(trackers, "_start", lambda *words: started.append(plain(*words)) or started[-1])
    assert pretrain(corpus, tmp_path / "run", "run.updates=3", "run.trackers=[tensorboard,wandb]") == 0
    assert started[0].poll() is None, "nobody waited for it"
    assert [row["update"] for row in rows(tmp_path / "run")] == [1, 2, 3]
    board = EventAccumulator(str(tmp_path / "run/tensorboard")).Reload()
    assert [event.step for event in board.Scalars("contrastive_loss")] == [1, 2, 3]
    started[0].kill()
    started[0].wait()


def test_a_tracker_that_is_not_installed_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    printed: list[str] = []
    own = Trackers(tmp_path, ["tensorboard", "mlflow"], 0, printed.append)
    own.row({"update": 1, "loss": 1.0})
    own.close()
    assert [line.split()[2] for line in printed] == ["tensorboard", "mlflow"] and "pip install mlflow" in printed[1]


def test_a_failure_that_is_tried_again_is_not_called_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: True)
    monkeypatch.setattr(trackers, "_start", lambda *_: None)
    printed: list[str] = []
    own = Trackers(tmp_path, ["mlflow"], 0, printed.append)
    trackers.error_file(tmp_path, "mlflow").write_text("no server\n")
    own.row({"update": 1})
    assert printed == ["WARNING run.trackers: mlflow: no server; the run continues"]


def test_an_accelerate_without_a_tracker_runs_without_it() -> None:
    code = (
        "from accelerate import tracking\n"
        "del tracking.TrackioTracker, tracking.MLflowTracker, tracking.WandBTracker\n"
        "import mixvec.training.trackers"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_tensorboard_that_fails_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("a file where its folder should be")
    printed: list[str] = []
    own = Trackers(tmp_path, ["tensorboard"], 0, printed.append)
    own.row({"update": 1, "loss": 1.0})
    own.close()
    assert len(printed) == 1 and "tensorboard" in printed[0] and "continues" in printed[0]


def test_an_unknown_tracker_is_named() -> None:
    with pytest.raises(UserError, match="tensorbord"):
        load_config(PretrainConfig, ["run.trackers=[tensorbord]"], "")
    assert load_config(PretrainConfig, ["run.trackers=[]"], "").run.trackers in ((), [])
