"""The whole path on speech that it synthesises: pretrain, fine-tune with and without, publish, transcribe, one table.

    python -m tools.demo            about ten minutes on 2 cores; everything in runs/demo
    python -m tools.demo --smoke    the same path in a minute or two, too short to learn; in runs/smoke

Each step is a command that is printed as anyone would type it. ``results.json`` holds the table's figures.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from mixvec.atomic import write_whole
from mixvec.errors import UserError, run_cli

ROOT = Path(__file__).resolve().parent.parent
TASKS = {"asr": ("wer", "word error rate"), "intent": ("accuracy", "intent accuracy")}

TUNED = {
    "asr": ("batch.update_s=30", "run.updates=400", "run.eval_every=200", "optim.lr=4e-3", "optim.encoder_lr=4e-3"),
    "intent": ("batch.update_s=20", "run.updates=200", "run.eval_every=100", "optim.lr=2e-3", "optim.encoder_lr=1e-3",
               "augment.time_prob=0.3", "augment.channel_prob=0", "augment.time_span_frames=5"),
}  # fmt: skip
"""The same for the pretrained encoder and for scratch."""


@dataclass(frozen=True)
class Plan:
    """How much of everything."""

    dir: Path
    corpus: tuple[str, ...]
    pretrain: tuple[str, ...]
    finetune: tuple[str, ...]
    seeds: tuple[int, ...]


DEMO = Plan(Path("runs/demo"), (), (), (), (0, 1))
SMOKE = Plan(
    Path("runs/smoke"),
    ("--hours", "0.03", "--asr-train", "4", "--asr-validation", "2", "--asr-test", "3", "--intent-train", "1",
     "--intent-validation", "1", "--intent-test", "1"),
    ("run.updates=6", "run.log_every=2", "run.save_every=3", "batch.update_s=20", "batch.max_s=20"),
    ("run.updates=4", "run.eval_every=2", "run.log_every=2", "batch.update_s=10"),
    (0,),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="the shortest form, to see that everything runs")
    plan = SMOKE if parser.parse_args().smoke else DEMO
    started = time.monotonic()
    runs = plan.dir
    for old in ("pretrain", "finetune", "published", "results.json"):
        target = runs / old
        shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
    with peak_memory() as peak:
        run("tools.corpus", str(runs / "corpus"), *plan.corpus)
        run(
            "pretrain",
            "configs/tiny.yaml",
            f"data.train={runs}/corpus/unlabelled",
            f"run.dir={runs}/pretrain",
            *plan.pretrain,
        )
        results = finetune_all(plan)
        published = runs / "published"
        run("tools.publish", str(runs / "finetune/asr-pretrained-0"), "--to", f"./{published}")
        sample = min((runs / "corpus/asr/test/audio").glob("*.flac"))
        print(f"\n{sample} says:", flush=True)
        run("mixvec", "transcribe", "--model", str(published), str(sample))
    results |= {"seconds": round(time.monotonic() - started, 1), "peak_memory_mb": round(peak[0] / 2**20),
                "published": str(published)}  # fmt: skip
    write_whole(runs / "results.json", json.dumps(results, indent=2) + "\n")
    print(table(results, runs))


def finetune_all(plan: Plan) -> dict[str, Any]:
    """Both tasks, from scratch and from the pretrained encoder, for each seed; two at a time. The test scores."""
    runs, jobs = plan.dir, {}
    for task in TASKS:
        for start in ("scratch", "pretrained"):
            for seed in plan.seeds:
                data = f"{runs}/corpus/{task}"
                jobs[task, start, seed] = [
                    "finetune", f"configs/{task}.yaml",
                    "size=tiny" if start == "scratch" else f"pretrained={runs}/pretrain",
                    f"data.train={data}/train", f"data.valid={data}/validation", f"data.test={data}/test",
                    f"run.dir={runs}/finetune/{task}-{start}-{seed}", f"run.seed={seed}", "data.workers=0",
                    *TUNED[task], *plan.finetune,
                ]  # fmt: skip
    (runs / "finetune").mkdir(parents=True, exist_ok=True)
    print(
        f"\n$ python -m {shlex.join(jobs['asr', 'pretrained', 0])}\n  and {len(jobs) - 1} more, two at a time",
        flush=True,
    )
    results: dict[str, Any] = {task: {} for task in TASKS}
    with ThreadPoolExecutor(max_workers=2) as pool:
        for (task, start, seed), _ in zip(jobs, pool.map(quietly, jobs.values()), strict=True):
            folder = runs / f"finetune/{task}-{start}-{seed}"
            metric = TASKS[task][0]
            score = json.loads((folder / "results.json").read_text())["test"][metric]
            results[task].setdefault(f"{start}_{metric}", []).append(score)
            print(f"  {task} {start}, seed {seed}: test {metric} {score:.3f}", flush=True)
    return results


def run(module: str, *arguments: str) -> None:
    """Print a command and run it, its output on the screen.

    Raises:
        UserError: it failed.
    """
    print(f"\n$ python -m {shlex.join([module, *arguments])}", flush=True)
    if subprocess.run([sys.executable, "-m", module, *arguments], cwd=ROOT).returncode:
        raise UserError(f"python -m {module} failed; its message stands above")


def quietly(command: list[str]) -> None:
    """Run a command on one core, its output in a log beside its run directory.

    Raises:
        UserError: it failed; with the end of its log.
    """
    folder = Path(next(a for a in command if a.startswith("run.dir=")).removeprefix("run.dir="))
    log = folder.with_suffix(".log")
    with (ROOT / log).open("w") as file:
        code = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        ).returncode
    if code:
        tail = "\n".join((ROOT / log).read_text().splitlines()[-5:])
        raise UserError(f"python -m {shlex.join(command)} failed (log: {log}):\n{tail}")


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """Bytes resident in this process and all it starts, at most; sampled twice a second."""
    peak, done, own = [0], threading.Event(), psutil.Process()

    def watch() -> None:
        while not done.wait(0.5):
            total = 0
            for process in [own, *own.children(recursive=True)]:
                try:
                    total += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            peak[0] = max(peak[0], total)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def table(results: dict[str, Any], runs: Path) -> str:
    """The figures as people read them: a row per task, in per cent, one value per seed."""
    lines = ["", f"{'test, per cent':<28}{'from scratch':>20}{'pretrained':>20}"]
    for task, (metric, name) in TASKS.items():
        cells = [
            ", ".join(f"{100 * v:.1f}" for v in results[task][f"{start}_{metric}"])
            for start in ("scratch", "pretrained")
        ]
        lines.append(f"{name:<28}{cells[0]:>20}{cells[1]:>20}")
    spent = f"{results['seconds'] / 60:.1f} min, at most {results['peak_memory_mb']} MB"
    return "\n".join([*lines, f"\n{spent}; model: {results['published']}; figures: {runs / 'results.json'}"])


if __name__ == "__main__":
    run_cli(main)
