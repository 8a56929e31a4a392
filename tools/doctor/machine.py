"""Disks, memory, processors and limits. Linux alone; limits of containers are those of cgroup v2."""

from __future__ import annotations

import fcntl
import math
import os
import resource
import shutil
import tempfile
import time
from pathlib import Path

from .finding import ROOT, Finding, shown

SCRAP_BYTES = 1 << 20
WRONG_BYTES, TIGHT_BYTES = 200e6, 1e9
"""A rank's loader at the defaults holds 2 workers x 4 batches x 23 MB (batch.max_s=360) in /dev/shm; eight ranks'."""
MEMORY_BYTES = 4e9
OPEN_FILES = 1024


def place(path: Path, need_bytes: float, key: str) -> Finding:
    """Whether files can be written and locked at ``path``, or where it would be made, and that much fits."""
    there = next(p for p in (path.absolute(), *path.absolute().parents) if os.path.exists(p))
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(bytes(SCRAP_BYTES))
            file.flush()
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        free = shutil.disk_usage(there).free
    except OSError as error:
        return Finding(
            "wrong", f"{path}: cannot be written and locked ({error.strerror})", f"{key}, or chmod u+rwx {there}"
        )
    evidence = f"{path}: {shown(free)} free"
    if free < need_bytes:
        return Finding("warning", f"{evidence}, {shown(need_bytes)} may be needed", f"{key}, or du -sh {there}/*")
    return Finding("ok", evidence)


def temporary() -> Finding:
    path = Path(os.environ.get("TMPDIR") or tempfile.gettempdir())
    if not os.path.isdir(path):
        return Finding("wrong", f"TMPDIR={path} is no folder", f"mkdir -p {path} (or unset TMPDIR)")
    return place(path, 1e9, "export TMPDIR=ELSEWHERE")


def shared_memory(path: Path = Path("/dev/shm")) -> Finding:
    """Where the loader's workers hand over their batches."""
    if not path.is_dir():
        return Finding("wrong", f"{path} is missing", "data.workers=0")
    free = shutil.disk_usage(path).free
    if free >= TIGHT_BYTES:
        return Finding("ok", f"{shown(free)} free")
    evidence = f"{shown(free)} free: the loader's workers die (Bus error) where it is full"
    return Finding(
        "wrong" if free < WRONG_BYTES else "warning", evidence, "docker run --shm-size=8g (or data.workers=0)"
    )


def open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= OPEN_FILES:
        return Finding("ok", "unlimited" if soft == resource.RLIM_INFINITY else f"{soft} may be open")
    mend = "docker run --ulimit nofile=65536 (or nofile in /etc/security/limits.conf)"
    if hard == resource.RLIM_INFINITY or hard >= OPEN_FILES:
        mend = f"ulimit -n {hard if hard > 0 else 65536}"
    return Finding("warning", f"{soft} may be open; workers hold many", mend)


def processors() -> Finding:
    """Those that this process may use, against the threads that torch will start in each process."""
    given = len(os.sched_getaffinity(0))
    shares = [quota.split() for quota in limits("cpu.max")]
    allowed = min([given, *(math.ceil(int(quota) / int(period)) for quota, period in shares)])
    threads = os.environ.get("OMP_NUM_THREADS", "")
    evidence = f"{allowed} of {os.cpu_count()}, OMP_NUM_THREADS={threads or 'not set'}"
    if (int(threads) if threads.isdigit() else given) > allowed:
        return Finding("warning", f"{evidence}: threads wait for each other", f"export OMP_NUM_THREADS={allowed}")
    return Finding("ok", evidence)


def memory() -> Finding:
    lines = Path("/proc/meminfo").read_text().splitlines()
    available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    capped = min(map(int, limits("memory.max")), default=None)
    available = min(available, capped or available)
    evidence = f"{shown(available)} available" + (f", limit {shown(capped)}" if capped else "")
    if available < MEMORY_BYTES:
        return Finding("warning", evidence, "a larger limit (docker run --memory, sbatch --mem), or batch.max_s=60")
    return Finding("ok", evidence)


def clock() -> Finding:
    """Behind this checkout it is certainly wrong; certificates are refused then."""
    now, newest = time.time(), (ROOT / "constraints.txt").stat().st_mtime
    read = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now))
    if now < newest - 86400:
        return Finding("wrong", f"{read}, before these files were written", "sudo timedatectl set-ntp true")
    return Finding("ok", read)


def limits(name: str, root: Path = Path("/")) -> list[str]:
    """What a file of cgroup v2 says for this process's group and those above, where it sets a limit."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    own = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    groups = root / "sys/fs/cgroup"
    found = []
    for folder in (groups / own, *(groups / own).parents):
        if folder.is_relative_to(groups) and (folder / name).is_file():
            found.append((folder / name).read_text().strip())
    return [value for value in found if not value.startswith("max")]
