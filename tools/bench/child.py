"""One system in a process of its own: import, build, warm up; then a turn whenever the parent asks for one."""

from __future__ import annotations

import importlib
import math
import signal
import time
import warnings
from multiprocessing.connection import Connection

import torch

from mixvec.errors import UserError

from .cases import OURS, Case, System, Work
from .memory import Meter, limit, release

TURN_S = {"cpu": 0.3, "cuda": 0.1}
"""A turn is one unit of work, or as many as fill this."""
MOST_PER_TURN = 200
NO_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "bad_alloc",
    "could not allocate",
    "ALLOC_FAILED",
)


def serve(connection: Connection, case: Case, system: System) -> None:
    """Answer the parent's orders with ("ok", value), or once with ("failed", why) and end.

    The answers: None when imported; the note and the flops of a unit of work after "build"; the seconds of a unit
    after each "turn"; the peak memory in MB after "end".
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers it, and ends its children
    warnings.simplefilter("ignore")
    try:
        _serve(connection, case, system)
    except EOFError:  # the parent has gone
        return
    except Exception as error:
        connection.send(("failed", reason(error)))


def _serve(connection: Connection, case: Case, system: System) -> None:
    module = importlib.import_module(system.path)
    meter = Meter(case.device)
    connection.send(("ok", None))
    connection.recv()
    limit(case.device)
    work: Work = getattr(module, case.suite)(case, system.variant)
    flops = count_flops(work) if case.device == "cuda" and system.name == OURS else None
    units = warm_up(work, case)
    release(case.device)
    meter.restart()
    connection.send(("ok", (work.note, flops)))
    while connection.recv() == "turn":
        limit(case.device)
        connection.send(("ok", timed(work, case.device, units)))
        release(case.device)
    connection.send(("ok", meter.peak_mb()))


def reason(error: Exception) -> str:
    """A failure as one line of the table."""
    text = next(iter(str(error).strip().splitlines()), "")
    if isinstance(error, MemoryError) or any(sign in str(error) for sign in NO_MEMORY):
        return "out of memory"
    if isinstance(error, ImportError):
        return f"not installed: {text}"
    if isinstance(error, UserError):
        return text
    compiler = "torch.compile: " if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")) else ""
    return f"{compiler}{type(error).__name__}: {text}"[:200]


def warm_up(work: Work, case: Case) -> int:
    """Run until it is warm; how many units of work make up a turn."""
    seconds = timed(work, case.device, 1)
    for _ in range(0 if case.toy else 3 if case.device == "cuda" else int(seconds < 2.0)):
        seconds = timed(work, case.device, 1)
    return 1 if case.toy else min(MOST_PER_TURN, math.ceil(TURN_S[case.device] / seconds))


def timed(work: Work, device: str, units: int) -> float:
    """Seconds of one unit of work, the device's queue empty before and after."""
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(units):
        work.step()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / units


def count_flops(work: Work) -> int:
    """Of one unit of work: matrix products, convolutions, attention, and their backward; a multiply-add is two."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        work.step()
    return counter.get_total_flops()
