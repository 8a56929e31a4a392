"""Damaged audio, containers and manifests against the readers, in a process that may crash, hang or run out of memory.

    make fuzz MUTANTS=100000 SEED=1

A mutant is well met if it is refused in one line that names it, or if each of its utterances is skipped with such a
line or reads to finite samples, no more than it states; within ``HANG_S`` seconds and within ``MEMORY_BYTES`` of
address space above what the process began with. Any other is reported by its number and kept in a folder.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

from mixvec import UserError
from mixvec.data.batches import Clip, LoaderConfig, Updates
from mixvec.data.sources import find_utterances
from tests.mutants import Original, mutant, originals

ROOT = Path(__file__).resolve().parent.parent
HANG_S = 20
MEMORY_BYTES = 1 << 30
CROP_S = 30.0
LINE_CHARACTERS = 1_000


def offences(mutants: int, seed: int, keep: Path) -> Iterator[tuple[Path, str]]:
    """The mutants that are not well met, kept in the folder ``keep``, and what is wrong; each ends a child process."""
    first = 0
    while first < mutants:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "tests.fuzz", "--child", folder, str(first), str(mutants), str(seed)]
            environment = os.environ | {
                "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1", "MIXVEC_CACHE": f"{folder}/cache",
                "HF_HOME": f"{folder}/hf", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
            }  # fmt: skip
            done = subprocess.run(command, cwd=ROOT, stdout=-1, stderr=-1, env=environment)
            if done.returncode == 0:
                return
            what = f"exit code {done.returncode}: {done.stderr.decode(errors='replace')[-4_000:]}"
            if not Path(folder, "at").exists():
                raise RuntimeError(f"the child did not begin: {what}")
            number, path = Path(folder, "at").read_text().split(maxsplit=1)
            keep.mkdir(parents=True, exist_ok=True)
            yield Path(shutil.copy(path, keep / f"{seed}-{number}-{Path(path).name}")), what
            first = int(number) + 1


def meet(folder: Path, first: int, last: int, seed: int) -> None:
    """Meet the mutants one after another, the present one named in the file ``at``; end at the first offence."""
    faulthandler.enable()
    among = originals(folder / "originals")
    for original in among:
        if what := fault_of(original):
            sys.exit(f"{original.name}, whole: {what}")  # also imports what is needed, which counts for no mutant
    limit = address_space() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for number in range(first, last):
        original, path, content = mutant(among, seed, number)
        (folder / "at").write_text(f"{number} {path}")
        whole = path.read_bytes()
        path.write_bytes(content)
        os.utime(path, ns=(number + 1, number + 1))  # by which the index tells it from the one before
        faulthandler.dump_traceback_later(HANG_S, exit=True)
        if what := fault_of(original):
            sys.exit(what)
        faulthandler.cancel_dump_traceback_later()
        path.write_bytes(whole)
        os.utime(path, ns=(0, 0))


def address_space() -> int:
    """Bytes that this process has reserved."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def fault_of(original: Original) -> str | None:
    """What is wrong with how a source is met; None where it is well met."""
    try:
        corpus = find_utterances(str(original.source), "data.train", labels=original.labels)
        updates = Updates(corpus, list, LoaderConfig(60, 60, CROP_S, min_s=0.05, workers=0, seed=0))
        found = [fault_of_line(row["reason"]) for row in corpus.skipped]
        for number in range(len(corpus.utterances)):
            try:
                found.append(fault_of_clip(updates.read(number, 0)))
            except UserError as error:
                found.append(fault_of_line(str(error)) or fault_of_cause(error))
    except UserError as error:
        found = [fault_of_line(str(error)) or fault_of_cause(error)]
    except Exception:
        return traceback.format_exc()
    return next(filter(None, found), None)


def fault_of_line(line: str) -> str | None:
    if "\n" in line or len(line) > LINE_CHARACTERS:
        return f"not a line: {line!r}"
    return None if "/originals/" in line else f"names no file: {line}"


def fault_of_cause(error: BaseException | None) -> str | None:
    while error is not None:
        if isinstance(error, MemoryError) or re.search("alloc", str(error)):
            return f"out of memory: {error!r}"
        error = error.__cause__
    return None


def fault_of_clip(clip: Clip) -> str | None:
    if not clip.waveform.isfinite().all():
        return f"{clip.utterance.source}: samples that are not finite"
    at_most = min(clip.utterance.duration_s, CROP_S) * 16_000 * 1.002 + 16  # odd rates are rounded
    if 0 < len(clip.waveform) <= at_most:
        return None
    return f"{clip.utterance.source}: {len(clip.waveform)} samples of {clip.utterance.duration_s} s"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz the readers with damaged files.")
    parser.add_argument("--mutants", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("runs/fuzz"), help="where offending mutants go")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return meet(Path(args.child[0]), *map(int, args.child[1:]))
    count = 0
    for kept, what in offences(args.mutants, args.seed, args.keep):
        count += 1
        print(f"{kept}: {what}", flush=True)
    print(f"{args.mutants:,} mutants of seed {args.seed}, {count} not well met (kept in {args.keep})")
    sys.exit(count > 0)


if __name__ == "__main__":
    main()
