"""A run: its directory, its log, what stops it, and how it resumes.

config.yaml      the merged configuration        checkpoints/    what the run resumes from
metrics.jsonl    a row per log line              tensorboard/    the same as curves
warnings.jsonl   warnings with their update      sessions.jsonl  machine, versions and data of each session
skipped.jsonl    skipped audio, with the reason  hub/            the model folder
nonfinite.jsonl  updates left out, if any

Exit codes: 0 the run is complete; 1 an error, reported in a line; 128 + n ended by signal n (130 Ctrl-C, 143 SIGTERM,
138 SIGUSR1); 75 ended by run.max_hours. After the last two a checkpoint is complete, and the same command resumes.
These are the ranks' codes; torchrun turns each but 0 into 1.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn

from ..data.fingerprint import fingerprint_changes
from ..errors import UserError
from ..hub import save_folder
from ..text import TOKENIZER_MODEL
from . import checkpoint
from .checkpoint import MOST, Background, RunState, copied
from .device import TIME_LIMIT, Energy, StopSignal, leave_process_group
from .log import Log, SkipQuota
from .rundir import note_session, open_directory

Result = TypeVar("Result")


class Run:
    """What the loop of a run uses. Every rank makes one, and calls every method; the main rank writes."""

    def __init__(self, config: Any, accelerator: Accelerator) -> None:
        """Open the directory of a run with this configuration, which has a ``RunConfig`` under ``run``.

        Raises:
            UserError: the directory is in use, or holds checkpoints of a run with another configuration.
        """
        self.config, self.accelerator = config, accelerator
        self.dir: Path = config.run.folder
        self.log = Log(self.dir, config.run.trackers, main=accelerator.is_main_process)
        self.skips = SkipQuota(self.dir, accelerator.process_index)
        self.writes = Background()
        self._failure = ""
        self._since = time.monotonic()
        self._lock: list[Any] = []
        self.on_main(lambda: self._lock.append(open_directory(config, self.log.print)))
        self.stop = StopSignal(main=accelerator.is_main_process)

    def on_main(self, work: Callable[[], Result]) -> Result:
        """What ``work`` returns on the main rank, on every rank; its ``UserError`` too.

        The others wait as long as it takes: now and then they get a sign of life, so ``run.timeout_s`` never ends it.
        """
        if self.accelerator.num_processes == 1:
            return work()
        with ThreadPoolExecutor(1) as pool:
            job = pool.submit(work) if self.accelerator.is_main_process else None
            while True:
                outcome: list[Any] = [False, None, None]
                if job is not None and wait([job], self.config.run.timeout_s / 4).done:
                    try:
                        outcome = [True, job.result(), None]
                    except UserError as caught:
                        outcome = [True, None, str(caught)]
                done, answer, error = broadcast_object_list(outcome)
                if error:
                    raise UserError(error)
                if done:
                    return answer  # type: ignore[no-any-return]

    def resume(self, model: nn.Module, optimizer: Any, data: dict[str, Any] | None = None) -> RunState:
        """Continue from the newest complete checkpoint, or start; the logs are cut back to that point.

        ``data`` are fingerprints of the training data, labels and vocabulary, plain JSON by name.

        Raises:
            UserError: there are checkpoints, and none is complete; or the data has changed since the last one.
        """
        data = data or {}
        found, damaged = self.on_main(lambda: checkpoint.newest(self.dir / "checkpoints"))
        plain, ranks = self.accelerator.unwrap_model(model), self.accelerator.num_processes
        seed = self.config.run.seed + 1 + self.accelerator.process_index
        for start in (random.seed, np.random.seed, torch.manual_seed):
            start(seed)
        state, before = RunState(), ranks
        if found:
            changed = self._changes_of_data(checkpoint.read_state(found)[0].data, data)
            state, before = checkpoint.load(found, plain, optimizer, self.accelerator)
            state.place = next_epoch(state.place) if changed else state.place
        for line in damaged:
            self.log.print(line)
        state.data = data
        self.log.start(state.update)
        if self.accelerator.is_main_process:
            note_session(self.dir, state.update, self.accelerator, data)
        if found:
            other = f" on {ranks} ranks (previously {before}); updates are the same up to rounding"
            self.log.print(f"resuming from {found}{other if ranks != before else ''}")
        self._since = time.monotonic() - state.wall_s
        self._energy, self._before_j = Energy(self.accelerator), state.energy_j
        self.stop.training, self.stop.can_resume = True, found is not None
        return state

    def _changes_of_data(self, before: dict[str, Any], data: dict[str, Any]) -> list[str]:
        """What differs from the checkpoint's data; it is refused, or with ``run.accept_new_data`` reported."""
        both = [name for name in before if name in data]
        changed = [f"{name}: {change}" for name in both for change in fingerprint_changes(before[name], data[name])]
        if fixed := [change for change in changed if not change.startswith("data.")]:
            raise UserError(f"run.dir={self.dir}: what it learns has changed since its last checkpoint: "
                            f"{'; '.join(fixed)}. Restore it, or choose another run.dir")  # fmt: skip
        if changed and not self.config.run.accept_new_data:
            raise UserError(
                f"run.dir={self.dir}: the data has changed since its last checkpoint: {'; '.join(changed)}. Restore "
                "the data, choose another run.dir, or set run.accept_new_data=true to continue with the new data from "
                "its next epoch"
            )
        if changed:
            self.log.print(f"run.accept_new_data: continuing in a new epoch with changed data: {'; '.join(changed)}")
        return changed

    def save(self, state: RunState, model: nn.Module, optimizer: Any) -> None:
        """Write a checkpoint in the background (``checkpoint.save``)."""
        state.wall_s, state.energy_j = self.elapsed_s, self.energy_j()
        plain, folder = self.accelerator.unwrap_model(model), self.dir / "checkpoints"
        checkpoint.save(folder, state, plain, optimizer, self.accelerator, self.config.run, self.writes)
        self.stop.can_resume = True

    def save_model(self, model: nn.Module, facts: dict[str, Any]) -> None:
        """Write ``run.dir``/hub in the background, as the model is now."""
        if self.accelerator.is_main_process:
            self.writes.wait(left=MOST - 1)
            pieces = self.dir / TOKENIZER_MODEL
            self.writes.add(partial(save_folder, model, self.dir / "hub", facts, copied(model.state_dict()),
                                    tokenizer=pieces if pieces.is_file() else None))  # fmt: skip

    def facts(self, state: RunState, data: str) -> dict[str, Any]:
        """The budget of the run so far, for ``config.json`` and the model card."""
        ranks, precision = self.accelerator.num_processes, self.accelerator.mixed_precision
        return {
            "data": data,
            "updates": state.update,
            "batch_s": self.config.batch.update_s,
            "hours_seen": round(state.seconds_seen / 3600, 3),
            "wall_s": round(self.elapsed_s, 1),
            "device_hours": round(self.elapsed_s * ranks / 3600, 4),
            "energy_kwh": None if state.energy_j is None else round(state.energy_j / 3.6e6, 4),
            "devices": f"{ranks} x {self.accelerator.device.type}",
            "precision": precision if precision != "no" else "fp32",
            "seed": self.config.run.seed,
        }

    @property
    def elapsed_s(self) -> float:
        """Seconds of work so far, earlier sessions included."""
        return time.monotonic() - self._since

    def energy_j(self) -> float | None:
        """Joules drawn so far by the GPUs of all ranks, earlier sessions included; None where that is not known."""
        drawn_j = torch.tensor(self._energy.drawn_j(), dtype=torch.float64, device=self.accelerator.device)
        total_j = float(self.accelerator.reduce(drawn_j, "sum"))
        return None if self._before_j is None or math.isnan(total_j) else self._before_j + total_j

    def should_stop(self, state: RunState, seconds: float) -> int | None:
        """Count the update's ``seconds`` of audio over all ranks; the exit code to end with, or None to continue.

        A run ends where any rank met a signal or the time limit, or where all together skipped too much.
        """
        self.writes.wait(left=MOST)
        hours = self.config.run.max_hours
        if self.stop.code is None and hours is not None and self.stop.session_s > hours * 3600:
            self.stop.code = TIME_LIMIT
            self.log.print(f"run.max_hours={hours:g} is reached: saving")
        ranks = torch.tensor([[self.stop.code or 0, *self.skips.undecoded, seconds]], dtype=torch.float64)
        if self.accelerator.num_processes > 1:
            ranks = self.accelerator.gather(ranks.to(self.accelerator.device)).cpu()
        codes, epochs, counts, all_seconds = ranks.unbind(1)
        state.seconds_seen += float(all_seconds.sum())
        self.stop.code, epoch = int(codes.max()) or None, int(epochs.max())
        undecoded = int(counts[epochs == epoch].sum())
        if undecoded > self.skips.most:
            self.stop_with_error(
                f"data.train: {undecoded} utterances of epoch {epoch} could not be decoded, more than "
                f"data.max_skipped={self.config.data.max_skipped:g} allows (why: {self.dir}/skipped*.jsonl)"
            )
        return self.stop.code

    def stop_for(self, found: dict[str, str]) -> int | None:
        """End after this update where the main rank found a warning of ``run.stop_on``; the exit code, or None."""
        names = self.config.run.stop_on
        named = self.on_main(lambda: [found[name] for name in names if name in found]) if names else []
        if named:
            lines = " ".join(line.removeprefix("WARNING ") for line in named)
            self.stop_with_error(f"run.stop_on: {lines} Change that, or take it out of run.stop_on to continue")
        return self.stop.code

    def stop_with_error(self, why: str) -> int:
        """End after this update with a checkpoint and this error; the exit code. Every rank finds the same."""
        self._failure, self.stop.code = why, self.stop.code or 1
        return self.stop.code

    def end(self, state: RunState) -> int:
        """Close, and return the exit code (see the module's docstring).

        Raises:
            UserError: the run was stopped by ``stop_with_error``.
        """
        self.writes.wait()
        done = state.update == self.config.run.updates
        if done:
            self.log.print(f"complete: the model is in {self.dir / 'hub'}")
        else:
            why = ", for the scheduler to requeue it" if self.stop.code == TIME_LIMIT else ""
            self.log.print(f"stopped at update {state.update}; the same command resumes there "
                           f"(exit code {self.stop.code}{why})")  # fmt: skip
        self.close()
        if self._failure and not done:
            raise UserError(self._failure)
        return 0 if done else self.stop.code or 1

    def close(self) -> None:
        """Release signals, log, lock and process group."""
        self.stop.restore()
        self.log.close()
        if self.accelerator.is_main_process:
            self._lock.pop().close()
        if self.accelerator.num_processes > 1:
            self.accelerator.wait_for_everyone()
            leave_process_group()


def next_epoch(place: Any) -> Any:
    """The place from which to continue in a new epoch on other data."""
    if isinstance(place, list):  # of a plan: epoch and update
        return [place[0] + 1, 0]
    if isinstance(place, dict):  # of a stream: each source's epoch, shard, row and number of shards
        return {**place, "sources": [[at[0] + 1, 0, 0, 0] for at in place["sources"]], "update": 0}
    return place
