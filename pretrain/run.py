"""A run's directory and its surroundings: one run at a time, resume, metrics, signals.

config.yaml      the merged configuration        checkpoints/   what it goes on from
metrics.jsonl    a row per log line              tensorboard/   the same as curves
skipped.jsonl    audio passed over, and why      hub/           the model folder
nonfinite.jsonl  updates left out, where any was

Exit codes: 0 the run is complete; 1 an error, told in a line; 128 + n ended by signal n (130 Ctrl-C, 143 SIGTERM,
138 SIGUSR1); 75 ended by run.max_hours. After the last two a checkpoint is whole, and the same command goes on. These
are the ranks' codes; torchrun turns each but 0 into 1.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import random
import shutil
import signal
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from mixvec import UserError
from mixvec.atomic import write_whole

from . import checkpoint
from .background import Background
from .checkpoint import RunState
from .config import changed_keys, write_config

Result = TypeVar("Result")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
TIME_LIMIT = 75
"""The exit code at run.max_hours: EX_TEMPFAIL of sysexits.h, which a scheduler may requeue on."""


class Run:
    """The directory, its log and its signals. Every rank makes one; the main rank writes."""

    def __init__(self, config: Any, accelerator: Accelerator) -> None:
        """
        Raises:
            UserError: the directory is in use, or holds checkpoints of a run with another configuration.
        """
        self.config, self.accelerator = config, accelerator
        self.dir = Path(config.run.dir)
        self.stop: int | None = None
        """The exit code to end with after this update."""
        self.told: dict[str, int] = {}
        """For how many log lines in a row each warning has held."""
        """Warnings that need not be said again."""
        self.most_undecoded = math.inf
        """Utterances of an epoch that may turn out to be no good when they are decoded; more of them end the run."""
        self._undecoded = (0, 0)  # the latest epoch in which this rank met such, and how many
        self.writes = Background()
        """What the main rank is writing while training goes on."""
        self._sick = ""
        self._since = self._session = time.monotonic()
        self.on_main(self._open)
        self._handlers = {number: signal.signal(number, self._on_signal) for number in SIGNALS}

    def on_main(self, work: Callable[[], Result]) -> Result:
        """What ``work`` returns on the main rank, on every rank; its ``UserError`` too.

        The others wait as long as it takes: now and then they hear that it goes on, so ``run.timeout_s`` never ends it.
        """
        if self.accelerator.num_processes == 1:
            return work()
        with ThreadPoolExecutor(1) as pool:
            job = pool.submit(work) if self.accelerator.is_main_process else None
            while True:
                told: list[Any] = [False, None, None]
                if job is not None and wait([job], self.config.run.timeout_s / 4).done:
                    try:
                        told = [True, job.result(), None]
                    except UserError as caught:
                        told = [True, None, str(caught)]
                done, answer, error = broadcast_object_list(told)
                if error:
                    raise UserError(error)
                if done:
                    return answer  # type: ignore[no-any-return]

    def _open(self) -> None:
        if self.dir.exists() and not self.dir.is_dir():
            raise UserError(f"run.dir={self.dir}: not a folder")
        self.dir.mkdir(parents=True, exist_ok=True)
        self._lock = (self.dir / ".lock").open("w")
        lock = weakref.ref(self._lock)  # a loader's worker may outlive a killed run by seconds, and does not keep it
        os.register_at_fork(after_in_child=lambda: (held := lock()) and held.close())
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                f"run.dir={self.dir}: another run is using it; wait for it or choose another run.dir"
            ) from error
        for left in self.dir.glob(".*.new-*"):  # what a killed process was writing; with the lock it is nobody's
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        stated = self.dir / "config.yaml"
        if stated.exists() and checkpoint.listed(self.dir / "checkpoints"):
            try:
                merged = OmegaConf.merge(OmegaConf.structured(type(self.config)), OmegaConf.load(stated))
                changed = changed_keys(OmegaConf.to_object(merged), self.config)
            except (OmegaConfBaseException, ValueError) as error:
                raise UserError(
                    f"{stated}: cannot be compared with this run ({error}); choose another run.dir"
                ) from error
            if changed:
                raise UserError(f"run.dir={self.dir} holds a run with other settings: {', '.join(changed[:5])}; "
                                "choose another run.dir, or remove that one to start anew")  # fmt: skip
        write_config(self.config, stated)

    def resume(self, model: nn.Module, optimizer: Any) -> RunState:
        """Go on from the newest whole checkpoint, or start; the logs are cut back to where that stands.

        Raises:
            UserError: there are checkpoints, and none is whole.
        """
        found, damaged = self.on_main(lambda: checkpoint.newest(self.dir / "checkpoints"))
        plain, ranks = self.accelerator.unwrap_model(model), self.accelerator.num_processes
        seed = self.config.run.seed + 1 + self.accelerator.process_index  # dropout differs between ranks
        for start in (random.seed, np.random.seed, torch.manual_seed):
            start(seed)
        state, before = checkpoint.load(found, plain, optimizer, self.accelerator) if found else (RunState(), ranks)
        for line in damaged:
            self.say(line)
        if self.accelerator.is_main_process:
            for log in (self.dir / "metrics.jsonl", self.dir / "nonfinite.jsonl"):
                rows = log.read_text().splitlines() if log.exists() else []
                kept = [row for row in rows if row.endswith("}") and json.loads(row)["update"] <= state.update]
                if rows:
                    write_whole(log, "".join(row + "\n" for row in kept))
            self._board = SummaryWriter(str(self.dir / "tensorboard"), purge_step=state.update + 1)
            if found:
                other = f" with {ranks} ranks, before with {before}: the same updates, to rounding"
                self.say(f"going on from {found}{other if ranks != before else ''}")
        self._since = time.monotonic() - state.wall_s
        return state

    def save(self, state: RunState, model: nn.Module, optimizer: Any) -> None:
        """Have a checkpoint written (``checkpoint.save``). Every rank calls this."""
        state.wall_s = self.elapsed_s
        plain = self.accelerator.unwrap_model(model)
        checkpoint.save(
            self.dir / "checkpoints", state, plain, optimizer, self.accelerator, self.config.run, self.writes
        )

    @property
    def elapsed_s(self) -> float:
        """Seconds of work so far, earlier sessions included."""
        return time.monotonic() - self._since

    @property
    def session_s(self) -> float:
        """Seconds since this session began."""
        return time.monotonic() - self._session

    def log(self, row: dict[str, Any], line: str) -> None:
        """One row to metrics.jsonl (null where a number is not finite) and TensorBoard, one line to the screen."""
        if not self.accelerator.is_main_process:
            return
        row = {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in row.items()}
        with (self.dir / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        for name, value in row.items():
            if isinstance(value, int | float) and name != "update":
                self._board.add_scalar(name, value, row["update"])
        self._board.flush()
        self.say(line)

    def say(self, line: str) -> None:
        if self.accelerator.is_main_process:
            print(line, flush=True)

    def note_skipped(self, skipped: list[dict[str, Any]], *, fresh: bool = False, bound: bool = False) -> None:
        """Append to this rank's list of audio passed over; ``fresh`` begins it anew (the main rank's).

        With ``bound`` they count towards ``most_undecoded``.
        """
        if skipped and bound:
            latest = max(int(row.get("epoch", 0)) for row in skipped)
            before = self._undecoded[1] if self._undecoded[0] == latest else 0
            self._undecoded = latest, before + len(skipped)
        rank = self.accelerator.process_index
        if skipped or (fresh and rank == 0):
            name = "skipped.jsonl" if rank == 0 else f"skipped-rank{rank}.jsonl"
            # a file name that is no UTF-8 becomes \udcXX, which JSON reads back as the same name
            with (self.dir / name).open("w" if fresh else "a", encoding="utf-8", errors="backslashreplace") as file:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in skipped)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.stop is not None and number == signal.SIGINT:
            os._exit(130)  # the second Ctrl-C
        self.stop = 128 + number
        self.say(f"{signal.Signals(number).name}: finishing this update, then saving (Ctrl-C again to leave at once)")

    def should_stop(self) -> int | None:
        """The exit code to end with, where any rank met a signal or the time limit, or all together too much that
        could not be decoded; every rank calls this.

        Raises:
            Exception: what went wrong in writing.
        """
        self.writes.check()
        hours = self.config.run.max_hours
        if self.stop is None and hours is not None and self.session_s > hours * 3600:
            self.stop = TIME_LIMIT
            self.say(f"run.max_hours={hours:g} is reached: saving")
        ranks = torch.tensor([[self.stop or 0, *self._undecoded]])
        if self.accelerator.num_processes > 1:
            ranks = self.accelerator.gather(ranks.to(self.accelerator.device)).cpu()
        codes, epochs, counts = ranks.unbind(1)
        self.stop, epoch = int(codes.max()) or None, int(epochs.max())
        undecoded = int(counts[epochs == epoch].sum())
        if undecoded > self.most_undecoded:
            self._sick = (
                f"data.train: {undecoded} utterances of epoch {epoch} could not be decoded, more than "
                f"data.max_skipped={self.config.data.max_skipped:g} allows (why: {self.dir}/skipped*.jsonl)"
            )
            self.stop = self.stop or 1
        return self.stop

    def end(self, state: RunState) -> int:
        """Close, and return the exit code: see the module.

        Raises:
            UserError: the run ended for what ``run.stop_on`` names, or for too much that could not be decoded.
            Exception: what went wrong in writing.
        """
        self.writes.wait()
        done = state.update == self.config.run.updates
        if not done:
            why = ", which says: requeue" if self.stop == TIME_LIMIT else ""
            self.say(f"stopped at update {state.update}; the same command goes on from there "
                     f"(exit code {self.stop}{why})")  # fmt: skip
        self.close()
        if self._sick and not done:
            raise UserError(self._sick)
        return 0 if done else self.stop or 1

    def stop_for(self, lines: list[str]) -> int | None:
        """End after this update for what the main rank found; the exit code, or None for nothing."""
        found = " ".join(self.on_main(lambda: lines)).removeprefix("WARNING ")
        if found:
            self._sick = f"run.stop_on: {found} Change that, or take it out of run.stop_on to go on"
            self.stop = 1
        return self.stop

    def close(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if self.accelerator.is_main_process:
            self._board.close()
            self._lock.close()
        if self.accelerator.num_processes > 1:
            self.accelerator.wait_for_everyone()
            torch.distributed.destroy_process_group()
