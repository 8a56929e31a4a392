"""The whole path on synthesised speech: pretrain, fine-tune with and without it, publish, transcribe, table, report.

    python -m tools.demo            on 2 cores or more; everything in runs/demo
    python -m tools.demo --smoke    the same path in a minute or two, too short to learn; in runs/smoke

Each step is a command that is printed as anyone would type it. ``results.json`` holds the table's figures.
"""

from __future__ import annotations

import json
import os
import resource
import shlex
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

from mixvec.atomic import write_whole
from mixvec.errors import UserError, run_cli

from . import command_parser
from .probe.jobs import launch

TASKS = {"asr": ("wer", "word error rate"), "intent": ("accuracy", "intent accuracy")}
STARTS = ("scratch", "pretrained")
SEEDS = (0, 1, 2)
TUNED = {
    "asr": ("batch.update_s=30", "run.updates=400", "run.eval_every=200", "optim.lr=4e-3", "optim.encoder_lr=4e-3"),
    "intent": ("batch.update_s=20", "run.updates=200", "run.eval_every=100", "optim.lr=2e-3", "optim.encoder_lr=1e-3",
               "augment.time_prob=0.3", "augment.channel_prob=0", "augment.time_span_frames=5"),
}  # fmt: skip
"""The same for the pretrained encoder and from scratch."""
SMOKE_CORPUS = ("--hours", "0.03", "--asr-train", "4", "--asr-validation", "2", "--asr-test", "3", "--intent-train",
                "1", "--intent-validation", "1", "--intent-test", "1")  # fmt: skip
SMOKE_PRETRAIN = ("run.updates=6", "run.log_every=2", "run.save_every=3", "batch.update_s=20", "batch.max_s=20")
SMOKE_FINETUNE = ("run.updates=4", "run.eval_every=2", "run.log_every=2", "batch.update_s=10")


def main() -> None:
    parser = command_parser("demo", __doc__)
    parser.add_argument("--smoke", action="store_true", help="the shortest form, to see that everything runs")
    smoke, started = parser.parse_args().smoke, time.monotonic()
    os.chdir(Path(__file__).resolve().parent.parent)
    runs = Path("runs/smoke" if smoke else "runs/demo")
    for old in ("pretrain", "finetune", "published", "results.json", "report.html"):
        target = runs / old
        shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
    run("tools.corpus", str(runs / "corpus"), *(SMOKE_CORPUS if smoke else ()))
    run("pretrain", "configs/tiny.yaml", f"data.train={runs}/corpus/unlabelled", f"run.dir={runs}/pretrain",
        *(SMOKE_PRETRAIN if smoke else ()))  # fmt: skip
    results = finetune_all(runs, SEEDS[:1] if smoke else SEEDS, SMOKE_FINETUNE if smoke else ())
    published = runs / "published"
    run("tools.publish", str(runs / "finetune/asr-pretrained-0"), "--to", f"./{published}")
    sample = min((runs / "corpus/asr/test/audio").glob("*.flac"))
    run("mixvec", "transcribe", "--model", str(published), str(sample))
    run("tools.report", str(runs), "--out", str(runs / "report.html"))
    largest_kib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    results |= {"seconds": round(time.monotonic() - started, 1), "peak_memory_mb": round(largest_kib / 1024),
                "published": str(published)}  # fmt: skip
    write_whole(runs / "results.json", json.dumps(results, indent=2) + "\n")
    print(table(results, runs))


def finetune_all(runs: Path, seeds: tuple[int, ...], keys: tuple[str, ...]) -> dict[str, Any]:
    """Both tasks, from scratch and from the pretrained encoder, for each seed; two at a time. The test scores."""
    jobs, results = {}, dict[str, Any]()
    for task, start, seed in product(TASKS, STARTS, seeds):
        data, folder = f"{runs}/corpus/{task}", f"{runs}/finetune/{task}-{start}-{seed}"
        jobs[folder] = [
            f"configs/{task}.yaml", "size=tiny" if start == "scratch" else f"pretrained={runs}/pretrain",
            f"data.train={data}/train", f"data.valid={data}/validation", f"data.test={data}/test",
            f"run.dir={folder}", f"run.seed={seed}", "data.workers=0", *TUNED[task], *keys,
        ]  # fmt: skip
    shown = shlex.join(jobs[f"{runs}/finetune/asr-pretrained-0"])
    print(f"\n$ python -m finetune {shown}\n  and {len(jobs) - 1} more, two at a time", flush=True)
    with ThreadPoolExecutor(max_workers=2) as pool:
        for folder, _ in zip(jobs, pool.map(finetune, jobs.items()), strict=True):
            task, start, _ = Path(folder).name.split("-")
            score = json.loads(Path(folder, "results.json").read_text())["test"][TASKS[task][0]]
            results.setdefault(task, {}).setdefault(f"{start}_{TASKS[task][0]}", []).append(score)
            print(f"  {Path(folder).name}: test {TASKS[task][0]} {score:.3f}", flush=True)
    return results


def run(module: str, *arguments: str) -> None:
    """Print a command and run it, its output on the screen.

    Raises:
        UserError: it failed.
    """
    print(f"\n$ python -m {shlex.join([module, *arguments])}", flush=True)
    if subprocess.run([sys.executable, "-m", module, *arguments]).returncode:
        raise UserError(f"python -m {module} failed; its message is above")


def finetune(job: tuple[str, list[str]]) -> None:
    """Fine-tune on one core into a run directory, with the output in a log beside it.

    Raises:
        UserError: it failed.
    """
    folder, words = job
    if error := launch(words, Path(f"{folder}.log"), threads=1):
        raise UserError(f"python -m finetune {shlex.join(words)} failed (log: {folder}.log): {error}")


def table(results: dict[str, Any], runs: Path) -> str:
    """The figures as people read them: a row per task, in per cent, one value per seed."""
    lines = ["", f"{'test, per cent':<28}{'from scratch':>20}{'pretrained':>20}"]
    for task, (metric, name) in TASKS.items():
        cells = [", ".join(f"{100 * value:.1f}" for value in results[task][f"{start}_{metric}"]) for start in STARTS]
        lines.append(f"{name:<28}{cells[0]:>20}{cells[1]:>20}")
    spent = f"{results['seconds'] / 60:.1f} min, at most {results['peak_memory_mb']} MB in a process"
    return "\n".join([*lines, f"\n{spent}; model: {results['published']}; figures: {runs / 'results.json'}",
                      f"the report of all runs, to open in a browser: {runs / 'report.html'}"])  # fmt: skip


if __name__ == "__main__":
    run_cli(main)
