"""Kill a two-rank pretraining, and a fine-tuning of its result, again and again; neither may lose anything.

    make soak                                  # 50 faults, 5 minutes on 2 idle cores
    make soak FAULTS=5 SEED=3                  # a few of them

Each run is done twice by the same command: once left alone, and once struck at random moments (``faults.KINDS``) and
started again after each fault. At the end both must be equal bit for bit: weights, optimizer, generators, the model
folder, scores and, but for times, every row of metrics.jsonl. Full disks need a tmpfs of their own: ``make soak`` runs
in a user namespace, where one can be mounted; elsewhere these two kinds are left out, which the output states.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.runs import pretrain

from .faults import FULL, HARMS, KINDS, SAVE_EVERY, Fault, draw, split, updates_for
from .same import differences
from .session import Session, Stage, newest_whole
from .strike import aftermath, fill, harm_newest, strike, wrong_output

FAULTS, SEED = (int(os.environ.get(name, value)) for name, value in (("FAULTS", "50"), ("SEED", "0")))
DISK_MB = 64


@pytest.mark.soak
def test_faults_lose_nothing(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    struck = tmp_path / "struck"
    struck.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(struck)]
    mounted = subprocess.run(mount, capture_output=True).returncode == 0
    faults = draw(FAULTS, SEED, disk=mounted)
    assert mounted or not {fault.kind for fault in faults} & set(FULL)
    wrong: list[str] = []
    with capsys.disabled():
        print("" if mounted else f"\nleft out, for want of a disk of their own: {', '.join(FULL)}")
        for name, own, ranks in zip(("pretrain", "asr"), split(faults), (2, 2), strict=True):
            stage = Stage(name, corpus, ranks, updates_for(own))
            start_s = leave_alone(stage, tmp_path / "alone" / name, tmp_path / "logs")
            wrong += strike_all(stage, own, struck / name, tmp_path / "logs", struck if mounted else None, start_s)
            wrong += differences(tmp_path / "alone" / name, struck / name, stage.updates)
    assert wrong == []


def leave_alone(stage: Stage, run: Path, logs: Path) -> float:
    """The whole run without a fault; seconds to its first update."""
    session, began = Session(stage, run, logs / f"{stage.name}-alone.log"), time.monotonic()
    try:
        session.wait_for(lambda: session.update is not None, 0.05)
        start_s = time.monotonic() - began
        session.finish()
    finally:
        session.close()
    return start_s


def strike_all(
    stage: Stage, faults: list[Fault], run: Path, logs: Path, disk: Path | None, start_s: float
) -> list[str]:
    """Start the run again and again, a fault each time, then to its end; a line on everything that went wrong.

    A checkpoint is harmed between two sessions, as soon as two are whole.
    """
    waiting, wrong, number = list(faults), [], 0
    while True:
        number += 1
        fault = next((fault for fault in waiting if fault.kind not in HARMS), None)
        session_log = logs / f"{stage.name}-{number:02d}-{fault.kind if fault else 'to-the-end'}.log"
        if fault is not None and fault.kind == "full-disk-at-start" and disk is not None:
            fill(disk, 0)
        session = Session(stage, run, session_log)
        try:
            if fault is None:
                session.finish()
                found = wrong_output(session, None)
            else:
                waiting.remove(fault)
                assert strike(session, fault, disk, start_s), f"complete before {fault.kind}: {session_log}"
                found = aftermath(session, fault)
        finally:
            session.close()
            if disk is not None:
                (disk / "filler").unlink(missing_ok=True)
        wrong += [f"{session_log.stem}: {line}" for line in found]
        print(f"{session_log.stem}: update {newest_whole(run)} is whole", *found, sep="\n    ", flush=True)
        if fault is None and not waiting:
            return wrong
        if waiting and waiting[0].kind in HARMS and harm_newest(run, waiting[0]):
            print(f"{stage.name}: {KINDS[waiting.pop(0).kind]}", flush=True)


@pytest.fixture
def runs(corpus: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A short run, and a copy of it."""
    keys = (f"run.save_every={SAVE_EVERY}", f"run.updates={2 * SAVE_EVERY}")
    assert pretrain(corpus, tmp_path / "alone", *keys) == 0
    shutil.copytree(tmp_path / "alone", tmp_path / "struck")
    return tmp_path / "alone", tmp_path / "struck"


@pytest.mark.slow
def test_a_run_that_ended_otherwise_is_found(runs: tuple[Path, Path]) -> None:
    alone, struck = runs
    assert differences(alone, struck, 2 * SAVE_EVERY) == []
    weights = load_file(struck / "hub/model.safetensors")
    next(iter(weights.values())).view(-1)[0] += 0.25
    save_file(weights, struck / "hub/model.safetensors", metadata={"format": "pt"})
    log = (struck / "metrics.jsonl").read_text().splitlines()
    (struck / "metrics.jsonl").write_text("\n".join([*log[:4], log[4].replace('"update": 5', '"update": 6')]) + "\n")
    (struck / ".hub.new-7").mkdir()
    assert [line.split(":")[0] for line in differences(alone, struck, 2 * SAVE_EVERY)] == [
        "hub/model.safetensors", "metrics.jsonl", "metrics.jsonl", "half-written",
    ]  # fmt: skip
    for kind in HARMS:
        shutil.rmtree(struck)
        shutil.copytree(alone, struck)
        assert harm_newest(struck, Fault(kind, 1, 0.5)) and newest_whole(struck) == SAVE_EVERY
        assert not harm_newest(struck, Fault(kind, 1, 0.5)), "only where another is whole"


def test_every_kind_of_fault_is_drawn() -> None:
    assert {fault.kind for fault in draw(len(KINDS), 1, disk=True)} == set(KINDS)
    assert draw(50, 1, disk=True) == draw(50, 1, disk=True) != draw(50, 2, disk=True)
    assert not {fault.kind for fault in draw(50, 1, disk=False)} & set(FULL)
    pretraining, tuning = split(draw(50, 0, disk=True))
    assert (len(pretraining), len(tuning)) == (30, 20)
    assert (pretraining[-1].kind, tuning[-1].kind) == ("kill-at-end", "kill-in-model-folder")
