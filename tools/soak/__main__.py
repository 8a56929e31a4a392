from __future__ import annotations

import argparse
import json
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tools.soak
from mixvec.atomic import write_whole
from mixvec.errors import UserError, run_cli
from tools.corpus import CorpusConfig, write_corpus

from .disk import Disk, enter
from .plan import FULL, draw, split
from .session import ROOT
from .stages import soak
from .verdict import table

CORPUS = CorpusConfig(
    hours=0.02, asr_train=6, asr_validation=3, asr_test=4, intent_train=1, intent_validation=1, intent_test=1
)

OWN = ("alone", "struck", "sessions")
"""What is removed when it begins: the runs, and what they said."""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.soak",
        description=tools.soak.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--faults", type=int, default=50, metavar="N", help="how many (50)")
    parser.add_argument("--seed", type=int, default=0, help="from which they are drawn (0)")
    parser.add_argument("--out", type=Path, default=Path("runs/soak"), metavar="DIR", help="for everything (runs/soak)")
    parser.add_argument("--ranks", type=int, default=2, metavar="N", help="of the fine-tuning (2)")
    args = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # else its runs ignore it too, in a shell's background
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no run of it is left
    out = args.out.resolve()
    others = {path.name for path in out.iterdir()} - {*OWN, "corpus", "disk", "results.json"} if out.is_dir() else ()
    if others:
        raise UserError(f"--out {out}: holds {min(others)}, which no soak has put there; choose a new folder")
    why_not = enter(out / "disk")
    for old in OWN:
        shutil.rmtree(out / old, ignore_errors=True)
    began = time.monotonic()
    write_corpus(out / "corpus", CORPUS)
    faults = draw(args.faults, args.seed, disk=why_not is None)
    with place(out, why_not) as (struck, disk):
        results = soak(out, struck, disk, split(faults), args.ranks)
    results |= {"left_out": dict.fromkeys(FULL, why_not) if why_not else {}, "seed": args.seed,
                "commit": commit(), "versions": versions(), "seconds": round(time.monotonic() - began, 1)}  # fmt: skip
    write_whole(out / "results.json", json.dumps(results, indent=2) + "\n")
    sys.exit(verdict(results, args.faults, out))


@contextmanager
def place(out: Path, why_not: str | None) -> Iterator[tuple[Path, Disk | None]]:
    """Where the struck runs are: on the small disk, whence they come to ``out``/struck in the end, or there at once."""
    struck = out / "struck"
    if why_not is not None:
        yield struck, None
        return
    disk = Disk()
    try:
        yield disk.path, disk
    finally:
        shutil.copytree(disk.path, struck)


def commit() -> str:
    """The commit that ran, with a + where files differ from it; "unknown" outside a git checkout."""
    asked = (["git", "rev-parse", "HEAD"], ["git", "status", "--porcelain", "--untracked-files=no"])
    try:
        name, changed = (subprocess.run(words, cwd=ROOT, capture_output=True, text=True).stdout for words in asked)
    except OSError:
        return "unknown"
    return name.strip() + "+" * bool(changed) or "unknown"


def versions() -> dict[str, str]:
    names = ("mixvec", "torch", "accelerate", "safetensors", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def verdict(results: dict[str, Any], wanted: int, out: Path) -> int:
    """Print the table and the last word; the exit code."""
    print(table(results["records"], results["left_out"]))
    wrong = [f"{r['stage']} {r['kind']}: {line}" for r in results["records"] for line in r["wrong"]]
    wrong += [f"{name}: {line}" for name, end in results["ends"].items() for line in end["wrong"]]
    if results["faults_injected"] != wanted:
        wrong.append(f"{results['faults_injected']} faults were injected instead of {wanted}")
    for line in wrong:
        print(f"WRONG {line}")
    print(f"{results['updates_lost']} updates of a checkpoint lost; {results['seconds'] / 60:.1f} min; all of it: "
          f"{out / 'results.json'}\nlargest difference from the runs left alone: {results['final_difference']:g}"
          f"{'' if wrong else ' (bit for bit the same)'}")  # fmt: skip
    return 1 if wrong else 0


if __name__ == "__main__":
    run_cli(main)
