"""The two runs as commands, and one start of such a command, watched from outside as a scheduler would."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from mixvec.training.checkpoint import damage, listed
from tests.runs import ROOT

from .faults import SAVE_EVERY

EVERY_RUN = ("run.log_every=1", f"run.save_every={SAVE_EVERY}", "run.precision=fp32", "data.workers=1")
MODEL = ("encoder.dim=32", "encoder.num_layers=2", "encoder.ffn_dim=64", "encoder.conv_channels=32", "encoder.heads=4",
         "encoder.dropout=0.1", "encoder.layer_drop=0.2", "objective.units=[12]", "objective.sample_s=30",
         "batch.update_s=20", "batch.max_s=10", "data.max_s=5")  # fmt: skip
TUNING = ("batch.update_s=10", "batch.max_s=10", "data.max_s=10", "run.eval_every=4")
PATIENCE_S = 600.0
"""For a session to reach the moment of its fault, or its end."""


@dataclass(frozen=True)
class Stage:
    """One of the two runs: pretrain or asr, which is also the name of its run directory."""

    name: str
    corpus: Path
    ranks: int
    updates: int

    def command(self, run: Path) -> list[str]:
        """As a user types it; a fine-tuning starts from the pretraining in the same folder."""
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(self.ranks)]
        data = [f"data.{key}={self.corpus}/asr/{split}" for key, split in
                (("train", "train"), ("valid", "validation"), ("test", "test"))]  # fmt: skip
        words = (
            ["pretrain", "configs/tiny.yaml", f"data.train={self.corpus}/unlabelled", *MODEL]
            if self.name == "pretrain"
            else ["finetune", "configs/asr.yaml", f"pretrained={run.parent / 'pretrain'}", *data, *TUNING]
        )
        own = (f"run.dir={run}", f"run.updates={self.updates}")
        return [sys.executable, *(launch if self.ranks > 1 else []), "-m", *words, *EVERY_RUN, *own]


def whole(run: Path) -> list[Path]:
    """The checkpoints that are as their manifests list them, the newest last."""
    return [path for path in listed(run / "checkpoints") if damage(path) is None]


def newest_whole(run: Path) -> int:
    """The update of the newest whole checkpoint; 0 where there is none."""
    return max((int(path.name.removeprefix("update_")) for path in whole(run)), default=0)


def half_written(run: Path) -> set[Path]:
    """The hidden files and folders in a run directory that an unfinished write has left."""
    folders = [folder for folder in (run, run / "checkpoints") if folder.is_dir()]
    return {path for folder in folders for path in folder.iterdir() if path.name.startswith(".")} - {run / ".lock"}


class Session:
    """One start of a stage's command. ``close`` ends every process of it, whatever happened."""

    def __init__(self, stage: Stage, run: Path, log: Path) -> None:
        self.stage, self.run, self.log = stage, run, log
        self.from_update = newest_whole(run)
        self.harmed = [path for path in listed(run / "checkpoints") if path not in whole(run)]
        self.there_before = half_written(run)
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = {"OMP_NUM_THREADS": "1", "MIXVEC_CACHE": str(log.parent / "cache")}
        with log.open("w") as file:
            self.process = subprocess.Popen(
                stage.command(run), cwd=ROOT, env=os.environ | environment, stdout=file, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        self.tree: list[psutil.Process] = []
        self.ranks: list[psutil.Process] = []

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def update(self) -> int | None:
        """The update of the last line of the log; None before the first."""
        found = re.findall(r"^update (\d+)/", self.output, re.MULTILINE)
        return int(found[-1]) if found else None

    @property
    def resumed_from(self) -> int:
        """The update of the checkpoint that the log reports to resume from; 0 where it reports none."""
        found = re.search(r"^resum\w+ from .*/update_(\d+)", self.output, re.MULTILINE)
        return int(found[1]) if found else 0

    def wait_for(self, happened: Callable[[], bool], pause_s: float) -> bool:
        """Wait until ``happened``; False where the session ends before."""
        deadline = time.monotonic() + PATIENCE_S
        while not happened():
            if self.process.poll() is not None or time.monotonic() > deadline:
                return False
            time.sleep(pause_s)
        return True

    def look(self) -> bool:
        """Note the processes that there are, so that a signal can be sent at once; whether all ranks are among them."""
        self.tree = self._processes()
        launcher = [p for p in self.tree if p.pid == self.process.pid]
        self.ranks = launcher if self.stage.ranks == 1 else [p for p in launcher for p in p.children()]
        return len(self.ranks) == self.stage.ranks

    def send(self, number: signal.Signals, processes: list[psutil.Process]) -> None:
        for process in processes:
            try:
                process.send_signal(number)
            except psutil.NoSuchProcess:
                continue

    def left_after(self, limit_s: float) -> int:
        """How many processes are left when ``limit_s`` have passed, or as soon as none is."""
        deadline = time.monotonic() + limit_s
        while (left := self._left()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return len(left)

    def finish(self) -> None:
        """Let the run complete."""
        self.wait_for(lambda: self.process.poll() is not None, 0.05)
        assert self.process.poll() == 0, "\n".join([str(self.log), *self.output.splitlines()[-15:]])

    def close(self) -> None:
        self.send(signal.SIGKILL, self._left())
        self.process.wait()

    def _left(self) -> list[psutil.Process]:
        self.process.poll()  # otherwise it stays as a zombie
        return [p for p in self.tree if _runs(p)] or self._processes()

    def _processes(self) -> list[psutil.Process]:
        """All with this run's directory among their arguments, forked workers too, and what they started."""
        word, alive = f"run.dir={self.run}", self.process.poll() is None
        found = [p for p in psutil.process_iter(["cmdline"]) if word in (p.info["cmdline"] or [])]
        if alive:
            found += [p for p in psutil.Process(self.process.pid).children(recursive=True) if p not in found]
        return found


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
