"""One fault at its moment, and what can be seen of it from outside."""

from __future__ import annotations

import re
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

from mixvec.errors import UserError
from mixvec.hub import read_config, read_tensors
from mixvec.training.checkpoint import listed
from mixvec.training.manifest import damage

from .disk import Disk
from .plan import FULL, GRACEFUL, SAVE_EVERY, Fault
from .session import Session, half_written, newest_whole, not_whole, update_of

END_WITHIN_S = 60.0
"""For all processes to be gone after a fault: torchrun alone gives a rank 30 s."""
NEED_RANKS = ("kill-rank", "sigusr1")
SIGNS = {"kill-in-checkpoint": ("checkpoints", ".update_"), "kill-in-model-folder": ("", ".hub.new-")}
"""Where something new shows that the moment has come, and how its name begins."""
LATEST_S = {"kill-in-checkpoint": 0.004, "kill-in-model-folder": 0.004, "kill-at-end": 0.0}
"""How long at most after its moment a fault strikes; what is written here takes milliseconds."""
EXPECTED = {kind: r"no space left on device" for kind in FULL}
ANOTHER_RANK = r"rank \d: another rank is gone"


@dataclass
class Record:
    """What one fault did."""

    stage: str
    kind: str
    at: str
    reached: int | None = None
    """The last update of the session; None where there was none."""
    newest: int = 0
    """The update of the newest whole checkpoint afterwards."""
    redone: int = 0
    """Updates after that checkpoint, which the next session has to do again."""
    lost: int = 0
    """Updates that its session began short of the checkpoint it found."""
    restarts: int = 0
    """Starts of the same command until it trained again, or was complete."""
    seconds_to_end: float = 0.0
    exit_code: int | None = None
    half_written: list[str] = field(default_factory=list)
    """Hidden things that it left."""
    wrong: list[str] = field(default_factory=list)


def strike(session: Session, fault: Fault, disk: Disk | None, start_s: float) -> bool:
    """Wait for the fault's moment and let it happen; False where the run ends before.

    Args:
        start_s: how long the run needs to its first update.
    """
    checkpoints, end = session.run / "checkpoints", f"update_{session.stage.updates:08d}"
    if fault.kind == "full-disk-at-start":
        return True
    if fault.after == 0:
        moment = time.monotonic() + fault.share * start_s
        came = session.wait_for(lambda: time.monotonic() > moment, 0.01)
        came = came and session.wait_for(lambda: session.look() or fault.kind not in NEED_RANKS, 0.05)
    else:
        came = session.wait_for(lambda: session.update is not None or (checkpoints / end).is_dir(), 0.05)
        session.look()
        if fault.kind == "kill-at-end":
            came = came and session.wait_for((checkpoints / end).is_dir, 0.0002)
        else:
            wanted = min(session.from_update + fault.after, session.stage.updates)
            came = came and session.wait_for(lambda: (session.update or session.from_update) >= wanted, 0.005)
        if fault.kind in SIGNS:
            folder, name = session.run / SIGNS[fault.kind][0], SIGNS[fault.kind][1]
            came = came and session.wait_for(lambda: _appeared(folder, name, session.there_before), 0.0002)
        time.sleep(fault.share * LATEST_S.get(fault.kind, 0.1))
    if came:
        _act(session, fault, disk)
    return came


def _appeared(folder: Path, start: str, known: set[Path]) -> bool:
    return folder.is_dir() and any(p.name.startswith(start) and p not in known for p in folder.iterdir())


def _act(session: Session, fault: Fault, disk: Disk | None) -> None:
    ranks = session.ranks
    if fault.kind == "kill-rank":
        session.send(signal.SIGKILL, ranks[int(fault.share * len(ranks)) :][:1])
    elif fault.kind == "sigusr1":
        session.send(signal.SIGUSR1, ranks)
    elif fault.kind == "full-disk" and disk is not None:
        newest = listed(session.run / "checkpoints")[-1:]
        size = sum(path.stat().st_size for folder in newest for path in folder.iterdir())
        disk.fill(int(fault.share * 0.9 * size))
    elif fault.kind in ("sigterm", "sigint", "kill-launcher"):
        number = {"sigterm": signal.SIGTERM, "sigint": signal.SIGINT, "kill-launcher": signal.SIGKILL}[fault.kind]
        session.process.send_signal(number)
    else:
        session.kill_all()


def aftermath(session: Session, fault: Fault) -> Record:
    """Wait until the session is over, and look at what it said and left."""
    at = f"after {fault.after} updates" if fault.after else "while starting"
    record = Record(session.stage.name, fault.kind, at)
    record.seconds_to_end, left = session.end(END_WITHIN_S)
    if left:
        record.wrong.append(f"{left} processes are still there after {END_WITHIN_S:g} s")
    session.close()
    record.exit_code, record.reached = session.process.returncode, session.update
    record.newest = newest_whole(session.run)
    record.redone = max(0, max(session.from_update, record.reached or 0) - record.newest)
    if record.reached is not None:
        record.lost = max(0, session.from_update - session.went_on_from)
    record.half_written = sorted(path.name for path in half_written(session.run))
    record.wrong += [*wrong_words(session, EXPECTED.get(fault.kind)), *wrong_remains(session)]
    if record.exit_code == 0 and fault.kind != "kill-at-end":
        record.wrong.append("it ended with exit code 0")
    alone = fault.kind == "kill-launcher" and session.stage.ranks == 1  # nobody is left to save
    allowed = 0 if fault.kind in GRACEFUL and not alone else 2 * SAVE_EVERY  # the last one may still be being written
    if record.redone > allowed:
        record.wrong.append(f"{record.redone} updates have to be done again, and {allowed} may")
    return record


def wrong_words(session: Session, expected: str | None) -> list[str]:
    """What a user should not have been told, or was not told."""
    said, found = session.said, []
    if re.search(r"^\[rank\d\]: Traceback", said, re.MULTILINE):
        found.append("a rank ended in a traceback")
    errors = re.findall(r"^error: (.*)", said, re.MULTILINE)
    if expected and not (errors and re.search(expected, errors[0])):
        found.append(f"its first error is not {expected!r} but {errors[:1]}")
    if not expected and not all(re.search(ANOTHER_RANK, error) for error in errors):
        found.append(f"an error of its own: {errors[0]}")
    if session.update is not None and session.went_on_from != session.from_update:
        found.append(f"it went on from update {session.went_on_from}, though {session.from_update} was whole")
    for path in session.harmed if session.update is not None else []:
        if not re.search(rf"^{re.escape(str(path))}: .*going on from the checkpoint before$", said, re.MULTILINE):
            found.append(f"it does not say that {path.name} is damaged")
    return found


def wrong_remains(session: Session) -> list[str]:
    """What it left that could be mistaken for something whole: a checkpoint or a model folder that is not."""
    run = session.run
    found = [f"{path.name}: {damage(path)}" for path in not_whole(run) if path not in session.harmed]
    if (run / "hub").exists():
        try:
            read_config(run / "hub")
            read_tensors(run / "hub")
        except UserError as error:
            found.append(str(error))
    return found


def harm_newest(stage: str, run: Path, fault: Fault) -> Record | None:
    """Harm one file of the newest checkpoint, of two that are whole; None where there is only one."""
    whole = [path for path in listed(run / "checkpoints") if damage(path) is None]
    if len(whole) < 2:
        return None
    files = sorted(whole[-1].iterdir())
    file = files[int(fault.share * len(files))]
    data = bytearray(file.read_bytes())
    place = int(fault.share * len(data))
    if fault.kind == "lost-file":
        file.unlink()
    else:
        data[place] ^= 0x10
        file.write_bytes(data[:place] if fault.kind == "cut-file" else data)
    record = Record(stage, fault.kind, f"{whole[-1].name}/{file.name}", newest=newest_whole(run))
    record.redone = update_of(whole[-1]) - record.newest
    if damage(whole[-1]) is None:
        record.wrong.append("the harm is not seen")
    return record
