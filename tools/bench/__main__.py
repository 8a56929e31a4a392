from __future__ import annotations

import argparse
from pathlib import Path

import tools.bench
from mixvec.errors import run_cli
from tools.bench.cases import PRESETS, SUITES
from tools.bench.run import run, run_profiles


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench", description=tools.bench.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("suites", metavar="SUITE", nargs="*", help=f"of {', '.join(SUITES)}; none means all")
    parser.add_argument("--preset", choices=PRESETS, default="cpu", help="shapes and device (cpu)")
    parser.add_argument("--repeats", type=int, metavar="N", help="timed turns of each system (the case's own)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw cost against length there")
    parser.add_argument("--profile", action="store_true", help="where the time of the suite update goes, part by part")
    args = parser.parse_args()
    if args.profile:
        return run_profiles(args.suites, args.preset, args.repeats)
    run(args.suites, args.preset, args.repeats, args.json, args.plot)


if __name__ == "__main__":
    run_cli(main)
