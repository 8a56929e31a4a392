from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as TooLate
from functools import partial
from pathlib import Path

import tools.doctor

from . import devices, machine, network, packages, rundir
from .finding import Finding

DEADLINE_S = 18.0
RUNS_BYTES = 6e9
"""What `base` takes: two checkpoints of 1.9 GB, and a third while it is written."""
PACKAGES = ("accelerate", "datasets", "omegaconf", "huggingface_hub", "jiwer")
Check = Callable[[], Finding]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.doctor", description=tools.doctor.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("folder", metavar="FOLDER", nargs="?", type=Path, default=Path("runs"),
                        help="a run directory, or where runs will be (runs)")  # fmt: skip
    parser.add_argument("--json", metavar="FILE", type=Path, help="all findings, for programs")
    args = parser.parse_args()
    rows, wrong = [], 0
    for name, finding in examine(checks(args.folder)):
        rows.append({"check": name, **finding._asdict()})
        wrong += finding.level == "wrong"
        print(line(name, finding), flush=True)
    if args.json is not None:
        try:
            args.json.write_text(json.dumps({"wrong": wrong, "findings": rows}, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            print(f"error: {args.json}: cannot be written ({error.strerror})", file=sys.stderr, flush=True)
            wrong += 1
    os._exit(1 if wrong else 0)  # a check that hangs, on a dead disk perhaps, is left behind


def checks(folder: Path) -> list[tuple[str, Check]]:
    """All of them by name; the quick ones come first, so that none waits for a slow one."""
    cache = Path(os.environ.get("MIXVEC_CACHE") or os.path.expanduser("~/.cache/mixvec"))
    hub_cache = Path(os.environ.get("HF_HUB_CACHE") or network.hub_home() / "hub")
    quick: list[tuple[str, Check]] = [
        ("python", packages.python),
        ("disk for runs", partial(machine.place, folder, RUNS_BYTES, "run.dir=ELSEWHERE")),
        ("disk for index", partial(machine.place, cache, 1e9, "export MIXVEC_CACHE=ELSEWHERE")),
        ("disk for hub", partial(machine.place, hub_cache, 1e9, "export HF_HOME=ELSEWHERE")),
        ("disk for temp", machine.temporary),
        ("/dev/shm", machine.shared_memory),
        ("open files", machine.open_files),
        ("processors", machine.processors),
        ("memory", machine.memory),
        ("clock", machine.clock),
        ("port", network.port),
        ("hub", network.hub),
    ]
    run: list[tuple[str, Check]] = [
        ("lock", partial(rundir.lock, folder)),
        ("room", partial(rundir.room, folder)),
        ("checkpoint", partial(rundir.checkpoint, folder)),
    ]
    imported: list[tuple[str, Check]] = [
        ("libsndfile", packages.libsndfile),
        ("torch", partial(packages.package, "torch")),
        ("torchaudio", packages.torchaudio),
        ("gpus", devices.gpus),
        ("ranks", network.handshake),
        ("fairseq2", packages.fairseq2),
        *((name, partial(packages.package, name)) for name in PACKAGES),
        ("tensorboard", partial(packages.package, "tensorboard", "tensorboard.compat.proto.event_pb2")),
    ]
    return quick + (run if rundir.is_run(folder) else []) + imported


def examine(named: list[tuple[str, Check]], deadline_s: float = DEADLINE_S) -> Iterator[tuple[str, Finding]]:
    """Their findings, in order. A check that fails or hangs is a finding too."""
    ends = time.monotonic() + deadline_s
    pool = ThreadPoolExecutor(max_workers=max(4, os.cpu_count() or 1))
    waiting: list[tuple[str, Future[Finding]]] = [(name, pool.submit(check)) for name, check in named]
    for name, future in waiting:
        try:
            yield name, future.result(max(0.0, ends - time.monotonic()))
        except TooLate:
            again = "the same command again: a first start reads much from disk"
            yield name, Finding("warning", f"no answer within {deadline_s:g} s", again)
        except Exception as error:
            yield name, Finding("warning", f"could not be checked: {type(error).__name__}: {error}")


def line(name: str, finding: Finding) -> str:
    return f"{finding.level:<8} {name:<16} {finding.evidence}" + (f" -> {finding.remedy}" if finding.remedy else "")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        os._exit(130)
