"""Faults inside a run, in numbers, memory, time or another rank: each ends it or leaves an update out, as it should."""

from __future__ import annotations

import json
import math
import os
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from mixvec import UserError
from mixvec.training.config import RunConfig
from mixvec.training.device import start_accelerator
from mixvec.training.run import Run
from pretrain.objectives.base import Step
from pretrain.objectives.contrastive import Contrastive
from tests import prepared
from tests.runs import PRETRAIN, ROOT, finetune, identical, in_forward, pretrain, rows, weights

ONE_BATCH = ("batch.max_s=60", "run.save_every=1", "run.keep=9")
Patch = pytest.MonkeyPatch

IN_RANK_ONE = """
import os, sys
import torch
from mixvec.errors import UserError, run_cli
from pretrain.__main__ import main
from pretrain.objectives.contrastive import Contrastive

forward, calls = Contrastive.forward, []

def patched(self, *rest):
    calls.append(1)
    step = forward(self, *rest)
    if os.environ["RANK"] == "1" and len(calls) == 2:
        {harm}
    return step

Contrastive.forward = patched
run_cli(main)
"""


def infinite_loss(step: Step) -> Step:
    return step._replace(loss=step.loss + torch.inf)


def infinite_gradient(step: Step) -> None:
    step.loss.register_hook(lambda gradient: gradient * torch.inf)


def scale_losses(patch: Patch) -> None:
    """Give pretraining a loss scaler on the CPU, as run.precision=fp16 has one on a GPU."""

    def start(run: RunConfig) -> Accelerator:
        accelerator, scaler = start_accelerator(run), torch.amp.GradScaler("cpu", init_scale=1024.0)
        accelerator.scaler = scaler
        patch.setattr(
            accelerator,
            "unscale_gradients",
            lambda: [scaler.unscale_(own.optimizer) for own in accelerator._optimizers],
        )
        return accelerator

    patch.setattr("pretrain.train.start_accelerator", start)


def left_out(run: Path) -> list[dict[str, Any]]:
    """nonfinite.jsonl"""
    path = run / "nonfinite.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def weights_of(run: Path, update: int) -> dict[str, torch.Tensor]:
    return load_file(run / f"checkpoints/update_{update:08d}/model.safetensors")


@pytest.mark.parametrize(
    ("harm", "scaled", "quantity"),
    [(infinite_loss, False, "loss"), (infinite_gradient, False, "gradient norm"), (infinite_loss, True, "loss")],
)
def test_an_update_that_is_not_finite_is_left_out_and_recorded(
    corpus: Path, tmp_path: Path, monkeypatch: Patch, harm: Callable[[Step], Any], scaled: bool, quantity: str
) -> None:
    if scaled:
        scale_losses(monkeypatch)
    in_forward(monkeypatch, 2, do=harm)
    assert pretrain(corpus, tmp_path / "run", "run.updates=4", *ONE_BATCH) == 0
    (row,) = left_out(tmp_path / "run")
    assert (row["update"], row["quantity"]) == (2, quantity)
    assert row["sources"] and all(Path(source).is_file() for source in row["sources"])
    assert (row["parameter"] is None) == (quantity == "loss"), "an infinite loss alone has a finite gradient here"
    one, two, three = (weights_of(tmp_path / "run", update) for update in (1, 2, 3))
    assert identical(one, two) and not identical(two, three)


def test_a_loss_scaler_that_backs_off_is_no_fault(
    corpus: Path, tmp_path: Path, monkeypatch: Patch, capsys: pytest.CaptureFixture[str]
) -> None:
    scale_losses(monkeypatch)
    in_forward(monkeypatch, 2, 3, do=infinite_gradient)
    run = tmp_path / "run"
    assert pretrain(corpus, run, "run.updates=5", "run.max_nonfinite=3", *ONE_BATCH) == 0
    assert left_out(run) == [] and "exploding-gradient" not in capsys.readouterr().out
    assert [row["scaler_backoffs"] for row in rows(run)] == [0, 1, 1, 0, 0]
    assert [row["nonfinite_updates"] for row in rows(run)] == [0] * 5
    one, two, three, four = (weights_of(run, update) for update in (1, 2, 3, 4))
    assert identical(one, two) and identical(two, three) and not identical(three, four)
    assert json.loads((run / "checkpoints/update_00000004/state.json").read_text())["scaler"]["scale"] == 256.0


def test_a_loss_scaler_that_only_backs_off_ends_the_run(corpus: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    scale_losses(monkeypatch)
    in_forward(monkeypatch, 2, 3, 4, do=infinite_gradient)
    with pytest.raises(UserError, match=r"^3 updates .* update 4\."):
        pretrain(corpus, tmp_path / "run", "run.updates=9", "run.max_nonfinite=3", *ONE_BATCH)
    assert left_out(tmp_path / "run") == []


def test_the_first_parameter_with_a_bad_gradient_is_named(corpus: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    start = Contrastive.__init__

    def with_a_bad_layer(self: Contrastive, *rest: Any) -> None:
        start(self, *rest)
        self.project.bias.register_hook(lambda gradient: gradient * torch.nan)

    monkeypatch.setattr(Contrastive, "__init__", with_a_bad_layer)
    with pytest.raises(UserError, match=r"^3 updates .* update 3\. .*nonfinite\.jsonl"):
        pretrain(corpus, tmp_path / "run", "run.updates=9", "run.max_nonfinite=3", *ONE_BATCH)
    found = [(row["update"], row["parameter"]) for row in left_out(tmp_path / "run")]
    assert found == [(n, "project.bias") for n in (1, 2, 3)]


@pytest.mark.parametrize("size", [1 << 60, 0])
def test_out_of_memory_names_the_batch_and_the_key(corpus: Path, tmp_path: Path, monkeypatch: Patch, size: int) -> None:
    """The CPU's allocator itself, and what torch raises for a GPU."""

    def allocate(_: Step) -> None:
        if size:
            torch.empty(size)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    in_forward(monkeypatch, 3, do=allocate)
    expected = r"update 3: .* \d+ utterances x \d\.\d s, \d+ s .*batch\.max_s \(now 60\)"
    with pytest.raises(UserError, match=expected) as caught:
        pretrain(corpus, tmp_path / "run", "run.updates=4", *ONE_BATCH)
    assert "\n" not in str(caught.value)
    assert sorted(p.name for p in (tmp_path / "run/checkpoints").iterdir()) == ["update_00000001", "update_00000002"]


def test_other_errors_stay_what_they_are(corpus: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    in_forward(monkeypatch, 1, do=lambda _: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        pretrain(corpus, tmp_path / "run", "run.updates=2")


@pytest.mark.parametrize("task", ["pretrain", "asr"])
def test_the_time_limit_saves_and_asks_to_be_requeued(
    corpus: Path, tmp_path: Path, task: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def start(run: str, *keys: str) -> int:
        if task == "pretrain":
            return pretrain(corpus, tmp_path / run, "run.updates=2", *keys)
        return finetune(task, corpus, tmp_path / run, "size=tiny", "run.updates=2", "run.eval_every=2", *keys)

    assert start("whole") == 0
    assert start("parts", "run.max_hours=1e-6") == 75
    assert "run.max_hours=1e-06" in capsys.readouterr().out
    assert len(list((tmp_path / "parts/checkpoints").iterdir())) == 1
    assert start("parts", "run.max_hours=1") == 0
    assert identical(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


def two_ranks(
    corpus: Path, run: Path, script: Path, harm: str, *keys: str, torchrun: bool = True
) -> subprocess.CompletedProcess[str]:
    script.write_text(IN_RANK_ONE.format(harm=harm))
    arguments = [*PRETRAIN, f"data.train={corpus}/unlabelled", f"run.dir={run}", "batch.max_s=60", *keys]
    if not torchrun:
        return prepared.run([str(script), *arguments], ranks=2)
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", script, *arguments],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "torchrun"),
    [("UserError('the disk of rank one is gone')", True), ("ValueError('a fault of ours')", False)],
)
def test_a_rank_that_fails_ends_the_other_and_its_error_comes_first(
    corpus: Path, tmp_path: Path, error: str, torchrun: bool
) -> None:
    began, harm = time.monotonic(), f"raise {error}"
    script = tmp_path / "script.py"
    done = two_ranks(corpus, tmp_path / "run", script, harm, "run.updates=100000", torchrun=torchrun)
    assert done.returncode != 0
    assert time.monotonic() - began < 60
    own, other = done.stderr.find(error.split("'")[1]), done.stderr.find("error: rank 0: ")
    assert own >= 0, done.stderr
    assert other == -1 or own < other
    assert "[rank0]: Traceback" not in done.stderr, done.stderr


@pytest.mark.soak
def test_a_rank_that_hangs_is_given_up_after_the_stated_time(corpus: Path, tmp_path: Path) -> None:
    """Rank 1 freezes; rank 0 waits 5 s and ends in an error, and torchrun kills the other after its own 30 s."""
    began, stop = time.monotonic(), "import signal; os.kill(os.getpid(), signal.SIGSTOP)"
    done = two_ranks(corpus, tmp_path / "run", tmp_path / "script.py", stop, "run.updates=100000", "run.timeout_s=5")
    assert done.returncode != 0 and time.monotonic() - began < 75
    assert re.search(r"error: rank 0: .*run\.timeout_s=5", done.stderr)


def test_the_other_ranks_wait_as_long_as_it_takes(monkeypatch: Patch) -> None:
    """Each gets a broadcast within run.timeout_s, here a fake one's patience, and the answer in the end."""
    line: queue.Queue[list[Any]] = queue.Queue()
    local = threading.local()

    def broadcast(sent: list[Any]) -> list[Any]:
        if local.main:
            line.put(sent)
            return sent
        return line.get(timeout=1.0)

    def rank(main: bool) -> str:
        local.main = main
        place = SimpleNamespace(num_processes=2, is_main_process=main)
        own: Any = SimpleNamespace(accelerator=place, config=SimpleNamespace(run=SimpleNamespace(timeout_s=1.0)))
        return Run.on_main(own, lambda: time.sleep(1.6) or "found")

    monkeypatch.setattr("mixvec.training.run.broadcast_object_list", broadcast)
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(rank, (True, False))) == ["found", "found"]


@pytest.mark.slow
def test_one_rank_without_a_finite_loss_skips_the_update_on_both(corpus: Path, tmp_path: Path) -> None:
    """The other rank's gradient is finite; without agreement the two would part."""
    harm = "step = step._replace(loss=step.loss + torch.inf)"
    keys = ("run.updates=4", "data.max_s=20", *ONE_BATCH[1:])  # so long that no utterance is cut in two
    done = two_ranks(corpus, tmp_path / "run", tmp_path / "script.py", harm, *keys, torchrun=False)
    assert done.returncode == 0, done.stderr
    one, two, three = (weights_of(tmp_path / "run", update) for update in (1, 2, 3))
    assert identical(one, two) and not identical(two, three)
    (row,) = left_out(tmp_path / "run")
    assert (row["update"], row["quantity"], len(row["sources"])) == (2, "loss", len(set(row["sources"])))
    assert len(rows(tmp_path / "run")) == 4


@pytest.mark.slow
def test_the_time_limit_holds_for_both_ranks(corpus: Path, tmp_path: Path) -> None:
    """torchrun itself turns a rank's code into 1; the message has it."""
    done = two_ranks(corpus, tmp_path / "run", tmp_path / "script.py", "pass", "run.updates=9999", "run.max_hours=1e-3")
    assert done.returncode == 1 and "exitcode  : 75" in done.stderr
    assert "(exit code 75" in done.stdout
    assert len(list((tmp_path / "run/checkpoints").iterdir())) == 1


@pytest.mark.slow
def test_fine_tuning_handles_the_same_faults(corpus: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    backward, calls = Accelerator.backward, []

    def patched(self: Accelerator, loss: torch.Tensor) -> None:
        calls.append(1)
        if len(calls) == 4:
            torch.empty(1 << 60)
        backward(self, loss * torch.inf if len(calls) == 2 else loss)

    monkeypatch.setattr(Accelerator, "backward", patched)
    keys = ("size=tiny", "batch.max_s=60", "run.log_every=3", "run.save_every=1", "run.keep=9",
            "run.updates=5")  # fmt: skip
    with pytest.raises(UserError, match=r"update 4: .*batch\.max_s \(now 60\)"):
        finetune("asr", corpus, tmp_path / "run", *keys)
    (row,) = left_out(tmp_path / "run")
    assert (row["update"], row["quantity"]) == (2, "gradient norm") and row["sources"]
    one, two, three = (weights_of(tmp_path / "run", update) for update in (1, 2, 3))
    assert identical(one, two) and not identical(two, three)
    assert math.isfinite(rows(tmp_path / "run")[0]["loss"])
