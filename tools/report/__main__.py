"""One page about a run, or about several side by side, that needs no network: curves, warnings, scores, examples.

    python -m tools.report runs/asr                                  # writes runs/asr/report.html
    python -m tools.report runs/asr runs/asr-scratch --out report.html
    python -m tools.report runs/small --watch                        # again and again, while it runs

RUN is the directory of a pretraining or a fine-tuning, or a folder of such directories. Runs that differ in their seed
alone are one group. What is missing or damaged in a run is noted on the page, and the rest of it is shown.
"""

from __future__ import annotations

import time
from pathlib import Path

from mixvec.atomic import write_whole
from mixvec.errors import UserError, run_cli
from tools import command_parser


def main() -> None:
    parser = command_parser("report", __doc__)
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="run directories, or folders of them")
    parser.add_argument("--out", metavar="FILE.html", type=Path, help="the page (report.html in the first RUN)")
    parser.add_argument("--watch", action="store_true", help="write it again until none of the runs is running")
    parser.add_argument("--every", metavar="SECONDS", type=float, default=30.0, help="between two writings (30)")
    args = parser.parse_args()
    out = args.out or args.runs[0] / "report.html"
    if out.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--out {out}: the report is a page; give it a name that ends in .html")
    if not args.every >= 1:
        raise UserError(f"--every {args.every:g} must be at least 1")
    try:
        from .page import render
        from .runs import find_runs
    except ModuleNotFoundError as error:
        raise UserError(f"the report needs {error.name}: pip install 'mixvec[report]'") from error
    while True:
        began, runs = time.monotonic(), find_runs(args.runs)
        running = args.watch and any(run.is_running for run in runs)
        title = ", ".join(path.absolute().name for path in args.runs)
        page = render(title, runs, args.every if running else None)
        write_whole(out, page)
        print(
            f"{out}: {len(runs)} runs, {len(page.encode()) / 1e6:.2f} MB, {time.monotonic() - began:.1f} s", flush=True
        )
        if not running:
            return
        time.sleep(args.every)


if __name__ == "__main__":
    run_cli(main)
