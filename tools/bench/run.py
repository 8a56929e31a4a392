"""The command: cases one after another, each line of the table as soon as it is known."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from mixvec.errors import UserError

from .cases import BUDGET_S, FUSED, SUITES, SUMMARY, TWIN, Preset, cases
from .measure import Row, measure
from .report import header, require_matplotlib, table_head, table_row, write_json, write_plot


def run(suites: list[str], preset: Preset, repeats: int | None, json: Path | None, plot: Path | None) -> None:
    """Measure and print; the JSON is written anew after each case, so that an interruption loses one at most.

    Args:
        suites: none means all that the preset has.
        repeats: instead of each case's own.

    Raises:
        UserError: an unknown suite, less than one repeat, or a plot that cannot be drawn here.
    """
    deadline = time.monotonic() + BUDGET_S[preset]
    unknown = [suite for suite in suites if suite not in SUITES]
    if unknown:
        raise UserError(f"no suite {', '.join(unknown)}: choose from {', '.join(SUITES)}")
    if repeats is not None and repeats < 1:
        raise UserError(f"--repeats {repeats} must be at least 1")
    if plot is not None:
        require_matplotlib()
    chosen = [case for case in cases(preset) if not suites or case.suite in suites]
    for suite in dict.fromkeys(suites):
        if all(case.suite != suite for case in chosen):
            print(f"{suite}: not in the preset {preset}")
    facts = header(preset, "cuda" if preset == "gpu" else "cpu")
    print(", ".join(f"{key} {value}" for key, value in facts.items()), end="\n\n")
    print(table_head(), flush=True)
    rows: list[Row] = []
    for case in chosen:
        found = measure(case, repeats or case.repeats, deadline)
        rows += found
        print("\n".join(table_row(row) for row in found), flush=True)
        if json is not None:
            write_json(json, facts, rows)
    if plot is not None:
        write_plot(plot, facts, rows)
        print(f"\nplot: {plot}")
    if json is not None:
        print(f"\nrows: {json}")


def run_profiles(suites: list[str], preset: Preset, repeats: int | None) -> None:
    """Print where each update of the preset spends its time: ours, on a GPU with its kernels too, and the twin's.

    Raises:
        UserError: another suite than update was named, or there is no CUDA device for the preset.
    """
    from .profile import profile, table

    if suites not in ([], ["update"]):
        raise UserError(f"--profile looks at the suite update alone, not at {', '.join(suites)}")
    if preset == "gpu" and not torch.cuda.is_available():
        raise UserError("--preset gpu: no CUDA device here")
    facts = header(preset, "cuda" if preset == "gpu" else "cpu")
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    for case in cases(preset):
        if case.suite == "update" and case.group == "base":
            for system in (SUMMARY, FUSED, TWIN) if case.device == "cuda" else (SUMMARY, TWIN):
                total_s, shares = profile(case, system.variant, repeats or case.repeats)
                print("\n" + table(case, system.name, total_s, shares), flush=True)
