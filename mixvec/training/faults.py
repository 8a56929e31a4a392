"""What goes wrong inside an update, told so that it can be mended: numbers, memory, and another rank's end."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import nn
from torch.distributed import DistError

from ..data.batches import Loaded
from ..errors import UserError
from .checkpoint import RunState
from .config import RunConfig
from .run import Run
from .rundir import FULL

NONFINITE = "nonfinite.jsonl"
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory")
LOST_PEER = ("connection closed by peer", "connection reset by peer", "connection refused", "broken pipe", "timed out",
             "timeout", "remote process exited")  # fmt: skip


def note_nonfinite(
    run: Run, model: nn.Module, state: RunState, norm: float, loss: float, loaded: Sequence[Loaded[Any]]
) -> None:
    """Append to nonfinite.jsonl what was not finite, and the utterances of all ranks. Every rank calls this.

    Where the gradient is not finite, ``parameter`` is the first with such a gradient.
    """
    sources: list[str] = gather_object([source for part in loaded for source in part.sources])
    if not run.accelerator.is_main_process:
        return
    plain = run.accelerator.unwrap_model(model)
    parameter = next(
        (n for n, p in plain.named_parameters() if p.grad is not None and not p.grad.isfinite().all()), None
    )
    quantity, value = ("gradient norm", norm) if math.isfinite(loss) else ("loss", loss)
    row = {"update": state.update + 1, "quantity": quantity, "value": str(value), "parameter": parameter,
           "sources": sources}  # fmt: skip
    with (run.dir / NONFINITE).open("a") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
    run.log.print(
        f"update {row['update']}: the {quantity} is {value}; left out ({state.skipped_updates + 1} in a row; its "
        f"{len(sources)} utterances are in {run.dir / NONFINITE})"
    )


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device's allocator raised it, or the CPU's."""
    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error).lower() for sign in OUT_OF_MEMORY)


@contextmanager
def memory_named(update: int, loaded: Sequence[Loaded[Any]], batch_max_s: float) -> Iterator[None]:
    """Tell running out of memory in an update by its largest micro-batch and the key to lower.

    Raises:
        UserError: instead of what torch raises, on a GPU or a CPU.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        part = max(loaded, key=lambda part: part.padded_s)
        raise UserError(
            f"out of memory at update {update}: its largest micro-batch holds {len(part.sources)} utterances x "
            f"{part.longest_s:.1f} s, {part.padded_s:.0f} s with padding. Lower batch.max_s (now {batch_max_s:g}); "
            "the last checkpoint is untouched"
        ) from error


@contextmanager
def first_failure_first(config: RunConfig) -> Iterator[None]:
    """Under torchrun: put the rank's number before its error, and say in a line that another rank is gone.

    A full disk is told with its place.

    A rank that fails prints its line before its connections close; only then can the others notice.

    Raises:
        UserError: with the rank's number; or that another rank is gone, in place of what torch raises.
    """
    ranks, rank = int(os.environ.get("WORLD_SIZE", "1")), os.environ.get("RANK", "0")
    named = f"rank {rank}: " if ranks > 1 else ""
    try:
        yield
    except UserError as error:
        raise UserError(f"{named}{error}") from error
    except OSError as error:
        if error.errno not in FULL:
            raise
        place = error.filename2 or error.filename or config.dir  # a write says not where
        what = os.strerror(error.errno).lower()
        raise UserError(f"{named}{what} ({place}): make room there; the same command then goes on") from error
    except RuntimeError as error:
        lost = isinstance(error, DistError) or any(sign in str(error).lower() for sign in LOST_PEER)
        if ranks == 1 or not lost:
            raise
        raise UserError(
            f"rank {rank}: another rank is gone, or did not answer within run.timeout_s={config.timeout_s:g}; what it "
            "said last stands above"
        ) from error
