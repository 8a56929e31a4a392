"""All frozen probes that the data at hand allow, for several models and baselines, in one table.

    python -m tools.probe runs/small runs/other --data DATA --baselines log-mel,random
    python -m tools.probe runs/small --data DATA --tasks intent,speaker --plot weights.png run.updates=500

DATA holds corpora as audiofolders, DATA/CORPUS/{train,validation,test}/metadata.jsonl; the labels in it decide: text is
probed by recognition (asr), intent or label by classification (intent), speaker by verification (speaker), emotion and
language by classification. The heads and schedules are those of configs/probe/*.yaml; key=value changes them for all,
such as cache.dir=DIR, which computes a model's frames once for all heads. The table is in OUT/probes.md and
OUT/probes.json, and is written anew after each probe. A probe that is done is not done again; one that fails is noted,
and the others go on.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from mixvec.atomic import write_whole
from mixvec.errors import UserError, run_cli
from tools.picture import check_plot

from .corpora import TASKS, find_probes
from .picture import draw
from .runs import BASELINES, Job, do, models_of
from .table import entry, markdown


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.probe", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", metavar="MODEL", nargs="+", help="run directory, model folder or org/name; key=value")
    parser.add_argument("--data", metavar="DATA", type=Path, required=True, help="a folder of corpora")
    parser.add_argument("--out", metavar="OUT", type=Path, default=Path("runs/probe"), help="runs/probe")
    parser.add_argument("--baselines", metavar="A,B", default="", help=f"some of {','.join(BASELINES)}")
    parser.add_argument("--tasks", metavar="A,B", default=",".join(TASKS), help=",".join(TASKS))
    parser.add_argument("--fields", metavar="A,B", default="", help="further labels to classify by, such as word")
    parser.add_argument("--plot", metavar="FILE.png", type=Path, help="the weights over layers as a picture")
    args = parser.parse_intermixed_args()
    if args.plot is not None:
        check_plot(args.plot)
    tasks, baselines = _listed(args.tasks, TASKS, "--tasks"), _listed(args.baselines, BASELINES, "--baselines")
    names = [word for word in args.models if "=" not in word or Path(word).exists()]
    if not names:
        raise UserError("name a model: a run directory, a model folder or org/name on the hub")
    keys = tuple(word for word in args.models if word not in names)
    probes, left_out = find_probes(args.data.absolute(), tuple(filter(None, args.fields.split(","))))
    models = models_of([str(Path(name).absolute()) if Path(name).exists() else name for name in names], baselines)
    out = args.out.absolute()
    jobs = [Job(model, probe, out / model.name / probe.name, keys)
            for probe in probes if probe.task in tasks for model in models]  # fmt: skip
    entries = run_all(jobs, left_out, out)
    if args.plot is not None:
        draw(entries, args.plot)
    print("\n" + (out / "probes.md").read_text(encoding="utf-8"), flush=True)
    if any("error" in found for found in entries):
        raise UserError(f"{sum('error' in found for found in entries)} of {len(entries)} probes failed; the same "
                        "command tries these again")  # fmt: skip


def run_all(jobs: list[Job], left_out: list[str], out: Path) -> list[dict[str, Any]]:
    """Every job in order; the table is whole after each."""
    entries: list[dict[str, Any]] = []
    command = shlex.join(["python", "-m", "tools.probe", *sys.argv[1:]])
    for number, job in enumerate(jobs, start=1):
        before, what = job.is_done, f"[{number}/{len(jobs)}] {job.model.name}, {job.probe.name}"
        if not before:
            print(f"{what} ...", flush=True)
        entries.append(found := entry(job, do(job)))
        said = found.get("error") or f"{found['metric']} {found['value']:.3f}{' (done before)' if before else ''}"
        print(f"{what}: {said}", flush=True)
        write_whole(out / "probes.json", json.dumps(entries, indent=2, ensure_ascii=False) + "\n")
        write_whole(out / "probes.md", markdown(entries, left_out, command))
    if not jobs:
        raise UserError("nothing to do: no corpus has labels for these --tasks")
    return entries


def _listed(text: str, known: tuple[str, ...], option: str) -> list[str]:
    asked = [part for part in text.split(",") if part]
    if unknown := [part for part in asked if part not in known]:
        raise UserError(f"{option} {unknown[0]}: choose among {', '.join(known)}")
    return asked


if __name__ == "__main__":
    run_cli(main)
