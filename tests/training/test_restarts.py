"""Automatic restarts, by torchrun's --max-restarts and by Slurm: no update is lost, and the weights stay the same.

There is no Slurm here: fakes of srun and scontrol come first on the PATH, and tasks are signalled as Slurm does.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from mixvec import UserError
from tests.runs import PRETRAIN, ROOT, command, identical, pretrain, rows, weights

UPDATES = 40
SRUN = f"""#!{sys.executable}
import os, subprocess, sys
from pathlib import Path
words = sys.argv[1:]
Path("options").write_text(" ".join(words[: words.index("bash")]))
ranks = [str(n) for n in range(int(os.environ["SLURM_NTASKS"]))]
tasks = [subprocess.Popen(words[words.index("bash"):], env=os.environ | {{"SLURM_PROCID": n, "SLURM_LOCALID": n}})
         for n in ranks]
Path("tasks").write_text(" ".join(str(task.pid) for task in tasks))
codes = [task.wait() for task in tasks]
sys.exit(max(code if code >= 0 else 128 - code for code in codes))
"""
SCONTROL = """#!/usr/bin/env bash
case "$1" in
    show) printf '%s\\n' 127.0.0.1 another ;;
    requeue) echo "$2" >> requeued ;;
esac
"""


def arguments(corpus: Path, run: Path, *keys: str) -> list[str]:
    return ["pretrain", *PRETRAIN, f"data.train={corpus}/unlabelled", f"run.dir={run}", f"run.updates={UPDATES}", *keys]


def torchrun(corpus: Path, run: Path, *words: str) -> subprocess.Popen[str]:
    """Two ranks; ``words`` are options of torchrun's, and keys."""
    options, keys = [word for word in words if word.startswith("--")], [word for word in words if "." in word]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *options, "-m"]
    return start([*launch, *arguments(corpus, run, *keys)], run.parent, TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1")


def slurm(cluster: Path, *words: str) -> subprocess.Popen[str]:
    """``sbatch tools/slurm.sh WORDS`` with two tasks."""
    return start(
        ["bash", str(ROOT / "tools/slurm.sh"), *words], cluster, PATH=f"{cluster}:{os.environ['PATH']}",
        SLURM_JOB_ID="77", SLURM_NTASKS="2", SLURM_JOB_NODELIST="node[1-2]", SLURM_CPUS_PER_TASK="3",
    )  # fmt: skip


def start(words: list[str], folder: Path, **environment: str) -> subprocess.Popen[str]:
    """Start a command in ``folder``; its output is added to the log there."""
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with (folder / "log").open("a") as log:
        return subprocess.Popen(
            words, cwd=folder, env=os.environ | environment, stdout=log, stderr=subprocess.STDOUT, text=True
        )


def executable(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def wait_for(run: Path, update: int, process: subprocess.Popen[str]) -> None:
    """Wait until the run has logged this update."""
    log = run / "metrics.jsonl"
    while not log.exists() or log.read_text().count("\n") < update:
        assert process.poll() is None, (run.parent / "log").read_text()
        time.sleep(0.05)


def children(process: subprocess.Popen[str]) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


@pytest.fixture(scope="module")
def whole(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run of two ranks without an interruption."""
    run = tmp_path_factory.mktemp("whole") / "run"
    done = command(*arguments(corpus, run), ranks=2)
    assert done.returncode == 0, done.stderr
    return run


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    """A folder with srun, scontrol and python in it."""
    executable(tmp_path / "srun", SRUN)
    executable(tmp_path / "scontrol", SCONTROL)
    executable(tmp_path / "python", f'#!/usr/bin/env bash\nexec {sys.executable} "$@"\n')
    return tmp_path


@pytest.mark.slow
def test_torchrun_restarts_the_ranks(corpus: Path, tmp_path: Path, whole: Path) -> None:
    run = tmp_path / "run"
    process = torchrun(corpus, run, "--max-restarts=1", "run.save_every=5")
    wait_for(run, 12, process)
    os.kill(children(process)[0], signal.SIGKILL)
    assert process.wait(120) == 0, (tmp_path / "log").read_text()
    assert f"resuming from {run}/checkpoints/update_000000" in (tmp_path / "log").read_text()
    assert [row["update"] for row in rows(run)] == list(range(1, UPDATES + 1))
    assert identical(weights(run), weights(whole))


def test_torchrun_settings_whose_restarts_would_fail_are_refused(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What torchrun sets for --max-restarts where its store outlives the ranks."""
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "1")
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    with pytest.raises(UserError, match="TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"):
        pretrain(corpus, tmp_path / "run", "run.updates=1")
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "0")
    assert pretrain(corpus, tmp_path / "run", "run.updates=1") == 0


@pytest.mark.slow
def test_a_killed_run_can_be_started_again_at_once(corpus: Path, tmp_path: Path) -> None:
    """Its worker processes outlive it by seconds, and must not hold the run directory."""
    run = tmp_path / "run"
    process = start([sys.executable, "-m", *arguments(corpus, run, "data.workers=2")], tmp_path)
    wait_for(run, 1, process)
    process.kill()
    process.wait()
    assert pretrain(corpus, run, f"run.updates={UPDATES}") == 0


@pytest.mark.slow
@pytest.mark.parametrize("starting", [True, False])
def test_ranks_do_not_outlive_torchrun(corpus: Path, tmp_path: Path, starting: bool) -> None:
    """A killed torchrun cannot signal them; they save, if there is anything, and end."""
    run = tmp_path / "run"
    process = torchrun(corpus, run, "run.updates=100000", "run.save_every=100000", "run.max_hours=0.03")
    if starting:
        while len(ranks := children(process)) < 2 or not all(map(imports_torch, ranks)):
            assert process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.05)
    else:
        wait_for(run, 3, process)
        ranks = children(process)
    process.kill()
    process.wait()
    ends = [psutil.Process(rank) for rank in ranks if psutil.pid_exists(rank)]
    assert psutil.wait_procs(ends, 30)[1] == []
    assert len(list((run / "checkpoints").glob("update_*"))) == (0 if starting else 1)


def imports_torch(rank: int) -> bool:
    return "libtorch" in Path(f"/proc/{rank}/maps").read_text()


@pytest.mark.slow
def test_slurm_requeues_a_stopped_run_and_it_resumes(corpus: Path, cluster: Path, whole: Path) -> None:
    run = cluster / "run"
    process = slurm(cluster, *arguments(corpus, run))
    wait_for(run, 5, process)
    for task in (cluster / "tasks").read_text().split():  # --signal=USR1@300: each task, none of their children
        os.kill(int(task), signal.SIGUSR1)
    assert process.wait(120) == 0
    stopped = len(rows(run))
    assert stopped < UPDATES
    assert (cluster / "requeued").read_text() == "77\n"
    assert slurm(cluster, *arguments(corpus, run)).wait(120) == 0
    output = (cluster / "log").read_text()
    assert "2 x cpu" in output and "--cpus-per-task=3" in (cluster / "options").read_text()
    assert f"resuming from {run}/checkpoints/update_{stopped:08d}" in output
    assert (cluster / "requeued").read_text() == "77\n", "once"
    assert [row["update"] for row in rows(run)] == list(range(1, UPDATES + 1))
    assert identical(weights(run), weights(whole))


@pytest.mark.parametrize(("codes", "again"), [("0 0", 0), ("1 143", 0), ("75 75", 1), ("138 138", 1), ("143 143", 0)])
def test_slurm_requeues_only_what_asks_for_it(cluster: Path, codes: str, again: int) -> None:
    """Complete, an error, out of time by the clock and by the signal, cancelled; each task knows its rank."""
    executable(
        cluster / "python",
        f"""#!/usr/bin/env bash
echo "$RANK $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR $MASTER_PORT $OMP_NUM_THREADS: $*"
codes=({codes})
exit "${{codes[RANK]}}"
""",
    )
    ended = slurm(cluster, "finetune", "a b").wait(120)
    output = sorted((cluster / "log").read_text().splitlines())
    assert output == [f"{rank} {rank} 2 127.0.0.1 20077 1: -m finetune a b" for rank in "01"]
    assert (cluster / "requeued").exists() == bool(again)
    assert ended == (0 if again else max(map(int, codes.split())))
