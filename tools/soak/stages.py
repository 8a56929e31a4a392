"""The two runs, each left alone and each struck; what came of them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from mixvec.errors import UserError

from .disk import Disk
from .plan import HARMS, Fault, updates_for
from .session import Session, Stage
from .strike import Record, aftermath, harm_newest, strike, wrong_words
from .verdict import compare


def soak(out: Path, struck: Path, disk: Disk | None, faults: tuple[list[Fault], list[Fault]], ranks: int) -> Any:
    """Pretrain and fine-tune, alone below ``out`` and with faults in the folder ``struck``; all there is to tell.

    Raises:
        UserError: a run that nothing strikes fails, or one that was struck cannot go on.
    """
    records: list[Record] = []
    ends: dict[str, Any] = {}
    for name, own, of in (("pretrain", faults[0], 2), ("asr", faults[1], ranks)):
        stage = Stage(name, out / "corpus", of, updates_for(own))
        print(f"{name}: {stage.updates} updates on {of} rank{'s' * (of > 1)}, left alone", flush=True)
        start_s = leave_alone(stage, out / "alone" / name, out / "sessions")
        print(f"{name}: the same with {len(own)} faults", flush=True)
        found, wrong = strike_stage(stage, own, struck / name, out / "sessions", disk, start_s)
        records += found
        apart, differs = compare(out / "alone" / name, struck / name, stage.updates)
        ends[name] = {"updates": stage.updates, "ranks": of, "difference": apart, "wrong": wrong + differs}
    return {
        "faults_injected": len(records),
        "updates_lost": sum(record.lost for record in records),
        "updates_redone": sum(record.redone for record in records),
        "final_difference": max(end["difference"] for end in ends.values()),
        "ends": ends,
        "records": [vars(record) for record in records],
    }


def leave_alone(stage: Stage, run: Path, logs: Path) -> float:
    """The whole run without a fault; seconds to its first update."""
    session, began = Session(stage, run, logs / f"{stage.name}-alone.log"), time.monotonic()
    try:
        session.wait_for(lambda: session.update is not None, 0.05)
        start_s = time.monotonic() - began
        finish(session)
    finally:
        session.close()
    return start_s


def finish(session: Session) -> None:
    """Let it come to its end.

    Raises:
        UserError: it does not, with its last words.
    """
    session.wait_for(lambda: session.process.poll() is not None, 0.05)
    if session.process.poll() != 0:
        last = "\n".join(session.said.splitlines()[-15:])
        raise UserError(f"{session.run} ended with {session.process.poll()} (log: {session.log}):\n{last}")


def strike_stage(
    stage: Stage, faults: list[Fault], run: Path, logs: Path, disk: Disk | None, start_s: float
) -> tuple[list[Record], list[str]]:
    """Start the run again and again, a fault each time, then to its end; what each fault did, and what the end said.

    A checkpoint is harmed between two sessions, as soon as there are two that are whole.
    """
    waiting, sessions = list(faults), 0
    records: list[Record] = []
    wrong: list[str] = []
    while True:
        sessions += 1
        fault = next((fault for fault in waiting if fault.kind not in HARMS), None)
        session_log = logs / f"{stage.name}-{sessions:02d}-{fault.kind if fault else 'to-the-end'}.log"
        if fault is None:
            session = Session(stage, run, session_log)
            try:
                finish(session)
            finally:
                session.close()
            wrong += wrong_words(session, None)
        else:
            waiting.remove(fault)
            records.append(one_fault(stage, fault, run, session_log, disk, start_s))
            tell(records[-1])
        if fault is None and not waiting:
            break
        harm = waiting[0] if waiting and waiting[0].kind in HARMS else None
        record = harm_newest(stage.name, run, harm) if harm else None
        if record is not None:
            waiting.pop(0)
            records.append(record)
            tell(record)
    starts = 1
    for record in reversed(records):
        record.restarts = starts
        if record.kind not in HARMS:
            starts = starts + 1 if record.reached is None else 1
    return records, wrong


def one_fault(stage: Stage, fault: Fault, run: Path, log: Path, disk: Disk | None, start_s: float) -> Record:
    """A session that a fault ends.

    Raises:
        UserError: it ended before, with its last words.
    """
    if fault.kind == "full-disk-at-start" and disk is not None:
        disk.fill(0)
    session = Session(stage, run, log)
    try:
        if not strike(session, fault, disk, start_s):
            finish(session)
            raise UserError(f"{session.run} was complete before {fault.kind} struck (log: {session.log})")
        return aftermath(session, fault)
    finally:
        session.close()
        if disk is not None:
            disk.free()


def tell(record: Record) -> None:
    """A line on the screen."""
    reached = f"reached update {record.reached}, " if record.reached else ""
    print(
        f"  {record.kind} {record.at}: {reached}{record.newest} is whole, {record.redone} to redo, "
        f"over in {record.seconds_to_end:.1f} s", flush=True,
    )  # fmt: skip
    for line in record.wrong:
        print(f"    WRONG: {line}", flush=True)
