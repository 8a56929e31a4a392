from __future__ import annotations

import argparse
import json
import os
import platform
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import torch

import tools.bench
from mixvec.atomic import write_whole
from mixvec.errors import UserError, run_cli

from .measure import Row, measure
from .suites import SUITES, Preset, device

TITLES = ("suite", "case", "system", "seconds (range)", "ratio", "peak MB", "audio s/s", "note")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench", description=tools.bench.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("suites", metavar="SUITE", nargs="*", help=f"some of {', '.join(SUITES)} (all)")
    parser.add_argument("--preset", choices=get_args(Preset), default="cpu", help="shapes and device (cpu)")
    parser.add_argument("--repeats", type=int, metavar="N", help="timed turns of each system (3 to 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to this file")
    args = parser.parse_args()
    if unknown := [suite for suite in args.suites if suite not in SUITES]:
        raise UserError(f"no suite {unknown[0]}: choose among {', '.join(SUITES)}")
    if args.repeats is not None and args.repeats < 1:
        raise UserError(f"--repeats {args.repeats} must be at least 1")
    if args.preset == "gpu" and not torch.cuda.is_available():
        raise UserError("--preset gpu: no CUDA device here")
    run(args.suites or list(SUITES), args.preset, args.repeats, args.json)


def run(suites: list[str], preset: Preset, repeats: int | None, file: Path | None) -> list[Row]:
    """Measure and print case by case; the JSON is written after each, so that an interruption loses one at most."""
    facts = machine(preset)
    print(", ".join(f"{key} {value}" for key, value in facts.items()), end="\n\n")
    print(f"| {' | '.join(TITLES)} |\n{'|---' * len(TITLES)}|", flush=True)
    rows: list[Row] = []
    for suite in suites:
        for case in SUITES[suite](preset):
            found = measure(suite, case, repeats or (2 if preset == "smoke" else case.repeats))
            rows += found
            print("\n".join(map(line, found)), flush=True)
            if file is not None:
                write_whole(file, json.dumps(facts | {"rows": [asdict(row) for row in rows]}, indent=1) + "\n")
    return rows


def line(row: Row) -> str:
    """A row of the table; a dash where nothing was measured."""
    spread = f"{row.seconds:.4g} ({row.seconds_min:.4g} to {row.seconds_max:.4g})" if row.seconds is not None else "-"
    ratio, peak, speed = (
        "-" if value is None else format(value, form)
        for value, form in ((row.ratio, ".2f"), (row.peak_mb, ".0f"), (row.audio_s_per_s, ",.4g"))
    )
    cells = (row.suite, row.case, row.system, spread, ratio, peak, speed, row.note.replace("|", "/"))
    return f"| {' | '.join(cells)} |"


def machine(preset: Preset) -> dict[str, Any]:
    """Where and how it was measured."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.*)", info.read_text(), re.MULTILINE) if info.exists() else []
    name = torch.cuda.get_device_name() if device(preset) == "cuda" else (names or [platform.machine()])[0]
    return {"preset": preset, "device": name, "torch": torch.__version__, "threads": torch.get_num_threads(),
            "cores": os.cpu_count(), "python": platform.python_version()}  # fmt: skip


if __name__ == "__main__":
    run_cli(main)
