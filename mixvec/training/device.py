"""The process of a rank: its device and precision, memory and energy, and what ends it.

It ends between two updates by a signal or the time limit, or inside one by a lack of memory, a full disk or another
rank's end.
"""

from __future__ import annotations

import ctypes
import math
import os
import resource
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, gather_object
from torch.distributed import DistError

from ..data.batches import Loaded
from ..errors import UserError
from .config import RunConfig
from .rundir import FULL

PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
TIME_LIMIT = 75  # the exit code at run.max_hours: EX_TEMPFAIL of sysexits.h, on which a scheduler may requeue
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory")
LOST_PEER = ("connection closed by peer", "connection reset by peer", "connection refused", "broken pipe", "timed out",
             "timeout", "remote process exited")  # fmt: skip


def start_accelerator(run: RunConfig) -> Accelerator:
    """The device, the ranks and the precision.

    Products of fp32 numbers stay in fp32 on a GPU: under bf16 those are the spectrogram, the quantizer and the
    similarities of the loss, some 1 % of the work.

    Raises:
        UserError: fp16 without a GPU, or a torchrun whose restarts would fail.
    """
    restarts, store = os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0"), os.environ.get("TORCHELASTIC_USE_AGENT_STORE")
    if restarts != "0" and store == "True":  # github.com/pytorch/pytorch/issues/135712
        raise UserError(
            "torchrun --max-restarts keeps the addresses of dead ranks, and the new ones fail on them: run it as "
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 torchrun --standalone --max-restarts ... (several machines: "
            "--rdzv-backend=c10d)"
        )
    gpu = torch.cuda.is_available()
    precision = run.precision
    if precision == "auto":
        precision = "bf16" if gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if precision == "fp16" and not gpu:
        raise UserError("run.precision=fp16 needs a GPU; use fp32 or bf16 here")
    torch.manual_seed(run.seed)
    patience = InitProcessGroupKwargs(timeout=timedelta(seconds=run.timeout_s))
    return Accelerator(mixed_precision=PRECISIONS[precision], cpu=not gpu, kwargs_handlers=[patience])


def leave_process_group() -> None:
    """Leave the process group at the end of a run, without waiting for its threads."""
    # A Gloo group that is freed joins its threads while holding the interpreter's lock, for which a thread that frees
    # the tensors of the last collective may be waiting. So the threads get time for that, and the group is never freed.
    group = torch.distributed.group.WORLD
    time.sleep(0.05)
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(group))
    torch.distributed.destroy_process_group()


def memory_mb(device: torch.device) -> float:
    """The most that this process has held so far: allocated on the GPU, or resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6  # Linux counts in KiB


class Energy:
    """What this rank's GPU draws from now on, by its driver's own counter (NVML), whatever else runs on it included."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._uuid = None
        if accelerator.device.type == "cuda":
            self._uuid = f"GPU-{torch.cuda.get_device_properties(accelerator.device).uuid}"
        self._start_j = self._read_j()
        self._shared = bool(self._uuid) and gather_object([self._uuid]).index(self._uuid) != accelerator.process_index

    def drawn_j(self) -> float:
        """Joules so far: NaN where the device has no counter, 0 where another rank counts the same GPU."""
        return 0.0 if self._shared else self._read_j() - self._start_j

    def _read_j(self) -> float:
        try:
            import pynvml

            pynvml.nvmlInit()
            return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(pynvml.nvmlDeviceGetHandleByUUID(self._uuid))) / 1e3
        except Exception:  # no GPU, library, driver or counter: NVML has an exception for each
            return math.nan


@contextmanager
def memory_named(update: int, loaded: Sequence[Loaded[Any]], batch_max_s: float) -> Iterator[None]:
    """Raise a UserError with the largest micro-batch and the key to lower where an update runs out of memory."""
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, torch.OutOfMemoryError) or _names(error, OUT_OF_MEMORY)):
            raise
        part = max(loaded, key=lambda part: part.padded_s)
        raise UserError(
            f"out of memory at update {update}: its largest micro-batch holds {len(part.sources)} utterances x "
            f"{part.longest_s:.1f} s, {part.padded_s:.0f} s with padding. Lower batch.max_s (now {batch_max_s:g}); "
            "the last checkpoint is untouched"
        ) from error


@contextmanager
def first_failure_first(config: RunConfig) -> Iterator[None]:
    """Raise a UserError that names a full disk's place; under torchrun, the rank's number, or that another is gone.

    A rank that fails prints its line before its connections close; only then can the others notice.
    """
    ranks, rank = int(os.environ.get("WORLD_SIZE", "1")), os.environ.get("RANK", "0")
    try:
        yield
    except (UserError, OSError, RuntimeError) as error:
        if isinstance(error, UserError):
            line = str(error)
        elif isinstance(error, OSError) and error.errno in FULL:
            place = error.filename2 or error.filename or config.dir  # a write does not name it
            what = os.strerror(error.errno).lower()
            line = f"{what} ({place}): make room there; the same command then resumes"
        elif (
            ranks > 1 and not isinstance(error, OSError) and (isinstance(error, DistError) or _names(error, LOST_PEER))
        ):
            line = (f"another rank is gone, or did not answer within run.timeout_s={config.timeout_s:g}; its last "
                    "output is above")  # fmt: skip
        else:
            raise
        raise UserError(f"rank {rank}: {line}" if ranks > 1 else line) from error


def _names(error: Exception, signs: Sequence[str]) -> bool:
    return any(sign in str(error).lower() for sign in signs)


class StopSignal:
    """Turns signals into ``code``, the exit code with which to end after this update. Every rank makes one."""

    def __init__(self, *, main: bool) -> None:
        self.code: int | None = None
        self.training = False  # whether there is an update to finish and a checkpoint to save
        self.can_resume = False  # whether a checkpoint exists, for what a second Ctrl-C prints
        self._main, self._began = main, time.monotonic()
        self._handlers = {number: signal.signal(number, self._on_signal) for number in SIGNALS}

    @property
    def session_s(self) -> float:
        """Seconds since this session began."""
        return time.monotonic() - self._began

    def restore(self) -> None:
        """Give the signals back to the handlers that were there before."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Before training there is nothing to save: end at once, which cleans up on the way out."""
        name = signal.Signals(number).name
        if self.code is not None and number == signal.SIGINT:  # the second Ctrl-C
            then = "resumes from the last checkpoint" if self.can_resume else "starts again"
            self._print(f"left at once; the same command {then}")
            os._exit(130)
        self.code = 128 + number
        if not self.training:
            self._print(f"{name}: nothing to save yet")
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(self.code)
        self._print(f"{name}: finishing this update, then saving (Ctrl-C again to leave at once)")

    def _print(self, line: str) -> None:
        """``print`` may be in use when a signal arrives, and cannot be entered a second time then."""
        if self._main:
            os.write(1, f"{line}\n".encode())
