"""Time and memory of mixvec, of its attention baseline and of other frameworks: equal shapes, one run, one machine.

    python -m tools.bench                                  every suite on the CPU, at the sizes that matter (an hour)
    python -m tools.bench mixers --repeats 7               one of them
    python -m tools.bench --preset gpu --json gpu.json     one CUDA device, bf16
    python -m tools.bench --preset smoke                   toy shapes, to see that everything runs

Each system runs in a process of its own; they take turns, so that other load on the machine affects all alike. A ratio
is to the first system of its case, in the same run. A framework that is not installed is noted in the table.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import torch

from mixvec.atomic import write_whole
from mixvec.errors import UserError, run_cli
from mixvec.training.rundir import processor
from tools import command_parser

from .measure import Row, measure
from .suites import SUITES, Preset

TITLES = ("suite", "case", "system", "seconds (range)", "ratio", "peak MB", "audio s/s", "note")


def main() -> None:
    parser = command_parser("bench", __doc__)
    parser.add_argument("suites", metavar="SUITE", nargs="*", help=f"some of {', '.join(SUITES)} (all)")
    parser.add_argument("--preset", choices=get_args(Preset), default="cpu", help="shapes and device (cpu)")
    parser.add_argument("--repeats", type=int, metavar="N", help="timed turns of each system (3; smoke: 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to this file")
    args = parser.parse_args()
    if unknown := [suite for suite in args.suites if suite not in SUITES]:
        raise UserError(f"no suite {unknown[0]}: choose among {', '.join(SUITES)}")
    if args.repeats is not None and args.repeats < 1:
        raise UserError(f"--repeats {args.repeats} must be at least 1")
    if args.preset == "gpu" and not torch.cuda.is_available():
        raise UserError("--preset gpu: no CUDA device here")
    device = torch.cuda.get_device_name() if args.preset == "gpu" else processor()
    facts: dict[str, Any] = {"preset": args.preset, "device": device, "torch": torch.__version__,
                             "threads": torch.get_num_threads()}  # fmt: skip
    rows, smoke = list[Row](), args.preset == "smoke"
    print(", ".join(f"{key} {value}" for key, value in facts.items()), end="\n\n")
    print(f"| {' | '.join(TITLES)} |\n{'|---' * len(TITLES)}|", flush=True)
    for suite in args.suites or SUITES:
        for case in SUITES[suite](args.preset):
            for row in measure(case, args.repeats or (2 if smoke else 3), 0.0 if smoke else 0.3):
                rows.append({"suite": suite, **row})
                print(line(rows[-1]), flush=True)
            if args.json is not None:  # after each case, so that an interruption loses one at most
                write_whole(args.json, json.dumps(facts | {"rows": rows}, indent=1) + "\n")


def line(row: Row) -> str:
    """A row of the table; a dash where nothing was measured."""
    spread = "{seconds:.4g} ({seconds_min:.4g} to {seconds_max:.4g})".format(**row) if "seconds" in row else "-"
    numbers = (row.get("ratio"), ".2f"), (row.get("peak_mb"), ".0f"), (row.get("audio_s_per_s"), ",.4g")
    shown = ["-" if value is None else format(value, form) for value, form in numbers]
    return f"| {' | '.join([row['suite'], row['case'], row['system'], spread, *shown, row['note']])} |"


if __name__ == "__main__":
    run_cli(main)
