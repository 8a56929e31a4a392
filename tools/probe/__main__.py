"""Several models and baselines on all tasks that the data at hand allow, frozen or fine-tuned, in one table.

    python -m tools.probe runs/small runs/other --data DATA --baselines log-mel,random
    python -m tools.probe "runs/small-{seed}" --data DATA --baselines scratch --seeds 3 --finetune
    python -m tools.probe runs/small --data DATA --tasks intent,speaker run.updates=500

DATA holds corpora as audiofolders, DATA/CORPUS/{train,validation,test}/metadata.jsonl (or .csv), and the labels in them
choose the tasks: text is probed by recognition (asr), intent or label by classification (intent), slots or entities by
slot filling (slots), speaker by verification (speaker), emotion and language by classification. The encoder is frozen,
heads and schedules are those of configs/probe/*.yaml; --finetune trains the encoder too, after configs/*.yaml.
key=value changes them for all, such as cache.dir=DIR, which computes the frames of a frozen model once for all heads.
With --seeds N each is repeated N times, and {seed} in the name of a model is replaced by 0, 1, ..., so that each repeat
takes a pretraining of its own. The table is in OUT/probes.md and OUT/probes.json, written after each run. A run that is
complete is not repeated; one that fails is noted, and the others continue. ``python -m tools.report OUT`` is a page on
all of them, with the weights over layers.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.config import TASKS
from mixvec.atomic import write_whole
from mixvec.errors import UserError, run_cli
from tools import command_parser

from .jobs import BASELINES, SEED, TUNED, Job, Probe, find_probes, models_of
from .table import entry, markdown


def main() -> None:
    parser = command_parser("probe", __doc__)
    parser.add_argument("models", metavar="MODEL", nargs="+", help="run directory, model folder or org/name; key=value")
    parser.add_argument("--data", metavar="DATA", type=Path, required=True, help="a folder of corpora")
    parser.add_argument("--out", metavar="OUT", type=Path, default=Path("runs/probe"), help="runs/probe")
    parser.add_argument("--baselines", metavar="A,B", default="", help=f"some of {','.join(BASELINES)}")
    parser.add_argument("--tasks", metavar="A,B", default=",".join(TASKS), help=",".join(TASKS))
    parser.add_argument("--corpora", metavar="A,B", default="", help="some of those in DATA (all)")
    parser.add_argument("--seeds", metavar="N", type=int, default=1, help="1")
    parser.add_argument("--finetune", action="store_true", help="train the encoder too")
    args = parser.parse_intermixed_args()
    tasks, baselines = _listed(args.tasks, TASKS, "--tasks"), _listed(args.baselines, BASELINES, "--baselines")
    if args.seeds < 1:
        raise UserError(f"--seeds {args.seeds} must be at least 1")
    names = [word for word in args.models if "=" not in word or Path(word).exists()]
    if not names:
        raise UserError("name a model: a run directory, a model folder or org/name on the hub")
    keys, out = tuple(word for word in args.models if word not in names), args.out.absolute()
    untuned = [task for task in tasks if task not in TUNED] if args.finetune else []
    tasks = [task for task in tasks if task not in untuned]
    probes, left_out = find_probes(args.data.absolute(), tasks, tuple(filter(None, args.corpora.split(","))))
    left_out += [f"{task}: no configuration trains its encoder" for task in untuned]
    # what is not here is a name on the hub
    names = [str(Path(n).absolute()) if Path(n.replace(SEED, "0")).exists() else n for n in names]
    cells = [
        [Job(model, chosen, probe, out / model / "-".join([probe.corpus, probe.task, str(seed)][: 3 if seed else 2]),
             keys, seed, args.finetune) for seed in range(args.seeds)]
        for probe in probes for model, chosen in models_of(names, baselines).items()
    ]  # fmt: skip
    entries = run_all(cells, left_out, out)
    print("\n" + (out / "probes.md").read_text(encoding="utf-8"), flush=True)
    if failed := sum("error" in found for found in entries):
        raise UserError(f"{failed} of {len(entries)} probes failed; the same command tries these again")


def run_all(cells: list[list[Job]], left_out: list[str], out: Path) -> list[dict[str, Any]]:
    """Every job in order, the seeds of one cell together; the table is written after each."""
    entries: list[dict[str, Any]] = []
    command, number = shlex.join(["python", "-m", "tools.probe", *sys.argv[1:]]), 0
    firsts: dict[Probe, list[Job]] = {}
    for cell in cells:
        errors: list[str] = []
        entries.append({})
        for done, job in enumerate(cell, start=1):
            number += 1
            before, what = job.is_done, f"[{number}/{sum(map(len, cells))}] {job.model}, {job.folder.name}"
            if not before:
                print(f"{what} ...", flush=True)
            if error := job.run():
                errors.append(error)
            entries[-1] = found = entry(cell[:done], errors, firsts.get(job.probe, []))
            score = error or f"{found['metric']} {found['values'][-1]:.3f}{' (done before)' if before else ''}"
            print(f"{what}: {score}", flush=True)
            write_whole(out / "probes.json", json.dumps(entries, indent=2, ensure_ascii=False) + "\n")
            write_whole(out / "probes.md", markdown(entries, left_out, command))
        firsts.setdefault(cell[0].probe, cell)
    return entries


def _listed(text: str, known: Sequence[str], option: str) -> list[str]:
    asked = [part for part in text.split(",") if part]
    if unknown := [part for part in asked if part not in known]:
        raise UserError(f"{option} {unknown[0]}: choose among {', '.join(known)}")
    return asked


if __name__ == "__main__":
    run_cli(main)
