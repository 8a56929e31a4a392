"""Check what training needs and no other tool shows: the run directory, disk room, shared memory, libsndfile, fairseq2.

    python -m tools.doctor               this machine, and the disk of runs/
    python -m tools.doctor runs/base     a run directory too: its lock, its checkpoints, room for the next one

Nothing is changed, and nothing outside this machine is asked. Each line that begins with ``wrong`` ends with a
remedy, and the exit code is then 1. ``accelerate env`` prints the versions of Python, packages, CUDA and GPUs.
"""

from __future__ import annotations

import fcntl
import io
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from importlib import metadata
from pathlib import Path
from typing import Literal, NamedTuple

from mixvec.errors import run_cli
from mixvec.training.checkpoint import damage
from tools import command_parser, lock_holder

RUN_GB = 6.0
"""Disk that a run of `base` takes: two checkpoints of 1.9 GB, and a third one while it is written."""
SHM_GB = 1.0
"""Shared memory of a rank's loader with room to spare: 2 workers x 4 batches x 23 MB (batch.max_s=360)."""
FORMATS = (("WAV", None), ("FLAC", None), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None), ("NIST", None))


class Finding(NamedTuple):
    """The result of one check; ``remedy`` is a command or a key."""

    check: str
    level: Literal["ok", "warning", "wrong"]
    evidence: str
    remedy: str = ""


def main() -> None:
    parser = command_parser("doctor", __doc__)
    parser.add_argument("run", metavar="RUN", nargs="?", type=Path, default=Path("runs"), help="a run directory (runs)")
    wrong = False
    for found in findings(parser.parse_args().run):
        wrong |= found.level == "wrong"
        remedy = f" -> {found.remedy}" if found.remedy else ""
        print(f"{found.level:<8} {found.check:<12} {found.evidence}{remedy}", flush=True)
    print("packages, CUDA and GPUs: accelerate env")
    sys.exit(1 if wrong else 0)


def findings(run: Path) -> Iterator[Finding]:
    """All checks in order; those of a run directory only where ``run`` is one."""
    yield disk(run)
    if (run / "config.yaml").is_file() or (run / "checkpoints").is_dir():
        yield lock(run)
        yield from checkpoints(run)
    yield shared_memory()
    yield libsndfile()
    yield fairseq2()


def disk(run: Path) -> Finding:
    """Room for the next checkpoint, which is written before the oldest is removed, on a disk that can be written."""
    there = next(path for path in (run.absolute(), *run.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        return Finding("disk", "wrong", f"{there} cannot be written", f"run.dir=ELSEWHERE, or chmod u+w {there}")
    found, free_gb = sorted((run / "checkpoints").glob("update_*")), shutil.disk_usage(there).free / 1e9
    need_gb = sum(path.stat().st_size for path in found[-1].iterdir()) / 1e9 if found else RUN_GB
    what = "the next checkpoint takes" if found else "a run of base takes"
    evidence = f"{free_gb:.3g} GB free; {what} {need_gb:.3g} GB"
    if free_gb >= need_gb:
        return Finding("disk", "ok", evidence)
    remedy = "free some (du -sh runs/*/checkpoints/*), run.keep=2, run.keep_every=0"
    return Finding("disk", "wrong" if found else "warning", evidence, remedy)


def lock(run: Path) -> Finding:
    """Whether a process is training in the run directory."""
    path = run / ".lock"
    with path.open() if path.is_file() else nullcontext() as file:
        try:
            if file is not None:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:  # by a process of any container or machine, of which this one may know nothing
            by = f" by process {holder}" if (holder := lock_holder(run)) else ""
            return Finding("lock", "warning", f"in use{by}", "wait for it, or choose another run.dir")
        except OSError:
            return Finding("lock", "warning", "its file system has no locks", "make sure that no second run uses it")
    return Finding("lock", "ok", "free")


def checkpoints(run: Path) -> Iterator[Finding]:
    """The newest whole checkpoint, and those that are damaged, whose files differ from their SHA-256."""
    found = {path: damage(path) for path in sorted((run / "checkpoints").glob("update_*"), reverse=True)}
    whole = next((path.name for path, fault in found.items() if not fault), None)
    remedy = f"none needed: {whole} is whole" if whole else (
        f"restore it from a copy, or start from the beginning: rm -r {run / 'checkpoints'}")  # fmt: skip
    for path, fault in found.items():
        if fault:
            yield Finding("checkpoint", "warning" if whole else "wrong", f"{path.name}: {fault}", remedy)
    if whole or not found:
        yield Finding("checkpoint", "ok", f"{whole} is whole, to resume from" if whole else "none yet")


def shared_memory(path: Path = Path("/dev/shm")) -> Finding:
    """Room in shared memory, where the loader's workers put their batches; full, they die of a bus error."""
    free_gb = shutil.disk_usage(path).free / 1e9 if path.is_dir() else 0.0
    remedy = "" if free_gb >= SHM_GB else "data.workers=0, or docker run --shm-size=8g"
    return Finding("/dev/shm", "warning" if remedy else "ok", f"{free_gb:.3g} GB free", remedy)


def libsndfile() -> Finding:
    """Whether libsndfile writes and reads every format; MP3 came with its version 1.1."""
    remedy = "pip install --force-reinstall --only-binary=soundfile soundfile"
    try:
        import soundfile
    except (ImportError, OSError) as error:
        return Finding("libsndfile", "wrong", f"soundfile cannot be imported: {error}", remedy)
    version, lacking = soundfile.__libsndfile_version__, []
    for name, subtype in FORMATS:
        file = io.BytesIO()
        try:
            soundfile.write(file, [0.0] * 16_000, 16_000, format=name, subtype=subtype)
            soundfile.read(io.BytesIO(file.getvalue()))
        except (soundfile.LibsndfileError, ValueError):
            lacking.append(subtype or name)
    if lacking:
        return Finding("libsndfile", "wrong", f"{version} has no {', '.join(lacking)}", remedy)
    return Finding("libsndfile", "ok", f"{version}: {', '.join(subtype or name for name, subtype in FORMATS)}")


def fairseq2() -> Finding:
    """Whether torch is the one that fairseq2n, the compiled part of fairseq2, is built for."""
    try:
        pins = [re.match(r"torch==([\d.]+)", line) for line in metadata.requires("fairseq2n") or []]
    except metadata.PackageNotFoundError:
        return Finding("fairseq2", "ok", "not installed; only encoder.kind=wav2vec2 needs it")
    built, torch = next((pin[1] for pin in pins if pin), ""), metadata.version("torch").split("+")[0]
    if built and built != torch:
        remedy = f"pip install torch=={built} torchaudio=={built}, or pip uninstall fairseq2 fairseq2n"
        return Finding("fairseq2", "wrong", f"built for torch {built}, and torch is {torch}", remedy)
    return Finding("fairseq2", "ok", f"{metadata.version('fairseq2n')}, built for torch {torch}")


if __name__ == "__main__":
    run_cli(main)
