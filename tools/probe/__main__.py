"""All tasks that the data at hand allow, for several models and baselines, in one table.

    python -m tools.probe runs/small runs/other --data DATA --baselines log-mel,random
    python -m tools.probe "runs/small-{seed}" --data DATA --baselines scratch --seeds 3 --finetune
    python -m tools.probe runs/small --data DATA --tasks intent,speaker --plot weights.png run.updates=500

DATA holds corpora as audiofolders, DATA/CORPUS/{train,validation,test}/metadata.jsonl; the labels in it decide: text is
probed by recognition (asr), intent or label by classification (intent), slots or entities by slot filling (slots),
speaker by verification (speaker), emotion and language by classification. The encoder is frozen, heads and schedules
are those of configs/probe/*.yaml; --finetune trains the encoder too, after configs/*.yaml. key=value changes them for
all, such as cache.dir=DIR, which computes a frozen model's frames once for all heads. With --seeds N each is done N
times, and {seed} in a model's name stands for 0, 1, …, so that each takes a pretraining of its own. The table is in
OUT/probes.md and OUT/probes.json, and is written anew after each run. What is done is not done again; what fails is
noted, and the others go on.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.config import TASKS
from mixvec.atomic import write_whole
from mixvec.errors import UserError, run_cli
from tools.picture import check_plot

from .corpora import find_probes
from .picture import draw
from .runs import BASELINES, SEED, TUNED, Job, do, models_of
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
    parser.add_argument("--corpora", metavar="A,B", default="", help="all that are in DATA")
    parser.add_argument("--seeds", metavar="N", type=int, default=1, help="1")
    parser.add_argument("--finetune", action="store_true", help="train the encoder too")
    parser.add_argument("--plot", metavar="FILE.png", type=Path, help="the weights over layers as a picture")
    args = parser.parse_intermixed_args()
    if args.plot is not None:
        check_plot(args.plot)
    tasks, baselines = _listed(args.tasks, TASKS, "--tasks"), _listed(args.baselines, BASELINES, "--baselines")
    if args.seeds < 1:
        raise UserError(f"--seeds {args.seeds} must be at least 1")
    names = [word for word in args.models if "=" not in word or Path(word).exists()]
    if not names:
        raise UserError("name a model: a run directory, a model folder or org/name on the hub")
    keys = tuple(word for word in args.models if word not in names)
    corpora, fields = (tuple(filter(None, text.split(","))) for text in (args.corpora, args.fields))
    probes, left_out = find_probes(args.data.absolute(), fields, corpora)
    models, out = models_of([_placed(name) for name in names], baselines), args.out.absolute()
    probes = [probe for probe in probes if probe.task in tasks]
    if args.finetune:
        left_out += [
            f"{probe.name}: no configuration trains its encoder" for probe in probes if probe.task not in TUNED
        ]
        probes = [probe for probe in probes if probe.task in TUNED]
    cells = [
        [Job(model, probe, out / model.name / (probe.name + (f"-{seed}" if seed else "")), keys, seed, args.finetune)
         for seed in range(args.seeds)]
        for probe in probes for model in models
    ]  # fmt: skip
    entries = run_all(cells, left_out, out)
    if args.plot is not None:
        draw(entries, args.plot)
    print("\n" + (out / "probes.md").read_text(encoding="utf-8"), flush=True)
    if any("error" in found for found in entries):
        raise UserError(f"{sum('error' in found for found in entries)} of {len(entries)} probes failed; the same "
                        "command tries these again")  # fmt: skip


def run_all(cells: list[list[Job]], left_out: list[str], out: Path) -> list[dict[str, Any]]:
    """Every job in order, those of one cell of the table, a seed each, together; the table is whole after each."""
    entries: list[dict[str, Any]] = []
    command = shlex.join(["python", "-m", "tools.probe", *sys.argv[1:]])
    count, number = sum(map(len, cells)), 0
    firsts: dict[str, list[Job]] = {}
    for cell in cells:
        errors: list[str] = []
        entries.append({})
        for done, job in enumerate(cell, start=1):
            number += 1
            before, what = job.is_done, f"[{number}/{count}] {job.model.name}, {job.folder.name}"
            if not before:
                print(f"{what} ...", flush=True)
            if error := do(job):
                errors.append(error)
            entries[-1] = found = entry(cell[:done], errors, firsts.get(job.probe.name, []))
            said = error or f"{found['metric']} {found['values'][-1]:.3f}{' (done before)' if before else ''}"
            print(f"{what}: {said}", flush=True)
            write_whole(out / "probes.json", json.dumps(entries, indent=2, ensure_ascii=False) + "\n")
            write_whole(out / "probes.md", markdown(entries, left_out, command))
        firsts.setdefault(cell[0].probe.name, cell)
    if not cells:
        raise UserError("nothing to do: no corpus has labels for these --tasks")
    return entries


def _placed(name: str) -> str:
    """A path where there is one, for the first seed at least; else a name on the hub."""
    return str(Path(name).absolute()) if Path(name.replace(SEED, "0")).exists() else name


def _listed(text: str, known: Sequence[str], option: str) -> list[str]:
    asked = [part for part in text.split(",") if part]
    if unknown := [part for part in asked if part not in known]:
        raise UserError(f"{option} {unknown[0]}: choose among {', '.join(known)}")
    return asked


if __name__ == "__main__":
    run_cli(main)
