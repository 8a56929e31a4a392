"""One fault at its moment, and what can be seen of it from outside."""

from __future__ import annotations

import errno
import re
import signal
import time
from pathlib import Path

from mixvec.hub import read_config, read_tensors
from mixvec.training.checkpoint import damage, listed

from .faults import FULL, GRACEFUL, SAVE_EVERY, Fault
from .session import Session, newest_whole, whole

END_WITHIN_S = 60.0
"""For all processes to end after a fault: torchrun alone gives a rank 30 s."""
SIGNS = {"kill-in-checkpoint": ("checkpoints", ".update_"), "kill-in-model-folder": ("", ".hub.new-")}
"""Where a new file shows that the moment has come, and how its name begins."""
LATEST_S = {"kill-in-checkpoint": 0.004, "kill-in-model-folder": 0.004, "kill-at-end": 0.0}
"""How long at most after its moment a fault strikes; what is written here takes milliseconds."""
ANOTHER_RANK = r"rank \d: another rank"


def strike(session: Session, fault: Fault, disk: Path | None, start_s: float) -> bool:
    """Wait for the fault's moment and let it happen; False where the run ends before.

    Args:
        disk: the small disk that the run is on, where there is one.
        start_s: how long the run needs to its first update.
    """
    checkpoints, end = session.run / "checkpoints", f"update_{session.stage.updates:08d}"
    if fault.kind == "full-disk-at-start":
        return True
    if fault.after == 0:
        moment = time.monotonic() + fault.share * start_s
        came = session.wait_for(lambda: time.monotonic() > moment, 0.01)
        ranked = fault.kind in ("kill-rank", "sigusr1")
        came = came and session.wait_for(lambda: session.look() or not ranked, 0.05)
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


def _act(session: Session, fault: Fault, disk: Path | None) -> None:
    ranks = session.ranks
    if fault.kind == "kill-rank":
        session.send(signal.SIGKILL, ranks[int(fault.share * len(ranks)) :][:1])
    elif fault.kind == "sigusr1":
        session.send(signal.SIGUSR1, ranks)
    elif fault.kind == "full-disk" and disk is not None:
        newest = listed(session.run / "checkpoints")[-1:]
        size = sum(path.stat().st_size for folder in newest for path in folder.iterdir())
        fill(disk, int(fault.share * 0.9 * size))
    elif fault.kind in ("sigterm", "sigint", "kill-launcher"):
        number = {"sigterm": signal.SIGTERM, "sigint": signal.SIGINT, "kill-launcher": signal.SIGKILL}[fault.kind]
        session.process.send_signal(number)
    else:
        session.send(signal.SIGKILL, session.tree)


def fill(disk: Path, spare_bytes: int) -> None:
    """Leave room for ``spare_bytes`` alone on the disk; removing the file ``filler`` frees it again."""
    with (disk / "filler").open("wb", buffering=0) as file:
        for piece in (bytes(1 << 20), bytes(1 << 12)):
            try:
                while True:
                    file.write(piece)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
        file.truncate(max(0, file.tell() - spare_bytes))


def aftermath(session: Session, fault: Fault) -> list[str]:
    """Wait until the session has ended; a line on everything that is not as it should be."""
    left = session.left_after(END_WITHIN_S)
    wrong = [f"{left} processes after {END_WITHIN_S:g} s"] if left else []
    session.close()
    wrong += wrong_output(session, "no space left on device" if fault.kind in FULL else None)
    wrong += [f"{path.name}: {damage(path)}" for path in listed(session.run / "checkpoints")
              if path not in (*whole(session.run), *session.harmed)]  # fmt: skip
    if (session.run / "hub").exists():
        read_config(session.run / "hub")
        read_tensors(session.run / "hub")
    if session.process.returncode == 0 and fault.kind != "kill-at-end":
        wrong.append("exit code 0")
    repeated = max(session.from_update, session.update or 0) - newest_whole(session.run)
    alone = fault.kind == "kill-launcher" and session.stage.ranks == 1  # nobody is left to save
    allowed = 0 if fault.kind in GRACEFUL and not alone else 2 * SAVE_EVERY  # the last save may be under way still
    return wrong + ([f"{repeated} updates must be repeated, and {allowed} may be"] if repeated > allowed else [])


def wrong_output(session: Session, expected: str | None) -> list[str]:
    """What a user should not have read in the output, or did not read."""
    output, found = session.output, []
    if re.search(r"^\[rank\d\]: Traceback", output, re.MULTILINE):
        found.append("a rank ended in a traceback")
    errors = re.findall(r"^error: (.*)", output, re.MULTILINE)
    if expected and not (errors and re.search(expected, errors[0])):
        found.append(f"its first error is not {expected!r} but {errors[:1]}")
    if not expected and not all(re.search(ANOTHER_RANK, error) for error in errors):
        found.append(f"an error of its own: {errors[0]}")
    if session.update is not None and session.resumed_from != session.from_update:
        found.append(f"resumed from update {session.resumed_from}, though {session.from_update} was whole")
    for path in session.harmed if session.update is not None else []:
        if not re.search(rf"^{re.escape(str(path))}: ", output, re.MULTILINE):
            found.append(f"{path.name} is damaged and not named")
    return found


def harm_newest(run: Path, fault: Fault) -> bool:
    """Harm one file of the newest of two or more whole checkpoints; False where there is only one."""
    if len(paths := whole(run)) < 2:
        return False
    files = sorted(paths[-1].iterdir())
    file = files[int(fault.share * len(files))]
    data = bytearray(file.read_bytes())
    at = int(fault.share * len(data))
    if fault.kind == "lost-file":
        file.unlink()
    else:
        data[at] ^= 0x10
        file.write_bytes(data[:at] if fault.kind == "cut-file" else data)
    assert damage(paths[-1]) is not None, f"the manifest misses the harm: {file}"
    return True
