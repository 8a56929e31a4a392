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

import json
import math
import os
import random
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from ..atomic import write_whole
from ..errors import UserError
from . import checkpoint
from .background import Background
from .checkpoint import RunState
from .device import let_ranks_go
from .energy import Energy
from .rundir import open_directory

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
        self._sick, self._trains = "", False
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
        self._lock = open_directory(self.config, self.say)

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
        self._energy, self._before_j = Energy(self.accelerator), state.energy_j
        self._trains = True
        return state

    def save(self, state: RunState, model: nn.Module, optimizer: Any) -> None:
        """Have a checkpoint written (``checkpoint.save``). Every rank calls this."""
        state.wall_s, state.energy_j = self.elapsed_s, self.energy_j()
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

    def energy_j(self) -> float | None:
        """Joules drawn so far by the devices of all ranks, earlier sessions included; None where that is not known.

        Every rank calls this.
        """
        drawn_j = torch.tensor(self._energy.drawn_j(), dtype=torch.float64, device=self.accelerator.device)
        total_j = float(self.accelerator.reduce(drawn_j, "sum"))
        return None if self._before_j is None or math.isnan(total_j) else self._before_j + total_j

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
        """Before training there is nothing to save; what is being looked for is put away on the way out."""
        name = signal.Signals(number).name
        if self.stop is not None and number == signal.SIGINT:  # the second Ctrl-C
            kept = checkpoint.listed(self.dir / "checkpoints")
            self._shout(
                f"left at once; the same command {'goes on from the last checkpoint' if kept else 'starts anew'}"
            )
            os._exit(130)
        self.stop = 128 + number
        if not self._trains:
            self._shout(f"{name}: nothing to save yet")
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(self.stop)
        self._shout(f"{name}: finishing this update, then saving (Ctrl-C again to leave at once)")

    def _shout(self, line: str) -> None:
        """``say`` for a signal's handler: ``print`` may be at work already, and cannot be called a second time then."""
        if self.accelerator.is_main_process:
            os.write(1, f"{line}\n".encode())

    def should_stop(self) -> int | None:
        """The exit code to end with, where any rank met a signal or the time limit, or all together too much that
        could not be decoded; every rank calls this.

        Raises:
            Exception: what went wrong in writing.
        """
        self.writes.check()
        self._energy.follow()
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
            self.give_up(
                f"data.train: {undecoded} utterances of epoch {epoch} could not be decoded, more than "
                f"data.max_skipped={self.config.data.max_skipped:g} allows (why: {self.dir}/skipped*.jsonl)"
            )
        return self.stop

    def end(self, state: RunState) -> int:
        """Close, and return the exit code: see the module.

        Raises:
            UserError: the run ended for what ``run.stop_on`` names, or for too much that could not be decoded.
            Exception: what went wrong in writing.
        """
        self.writes.wait()
        done = state.update == self.config.run.updates
        if done:
            self.say(f"complete: the model is in {self.dir / 'hub'}")
        else:
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
            self.give_up(f"run.stop_on: {found} Change that, or take it out of run.stop_on to go on")
        return self.stop

    def give_up(self, why: str) -> int:
        """End after this update with a checkpoint and this error; the exit code. Every rank calls this alike."""
        self._sick, self.stop = why, self.stop or 1
        return self.stop

    def close(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if self.accelerator.is_main_process:
            self._board.close()
            self._lock.close()
        if self.accelerator.num_processes > 1:
            self.accelerator.wait_for_everyone()
            let_ranks_go()
