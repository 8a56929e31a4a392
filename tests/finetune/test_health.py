"""The named warnings of a fine-tuning: fired by real runs made sick, silent on healthy ones."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.config import FinetuneConfig
from finetune.health import diagnose, diagnose_score
from finetune.tasks.intent import Task as IntentTask
from mixvec import UserError
from mixvec.data.utterances import Utterance
from mixvec.training.checkpoint import RunState
from tests.runs import SMALLEST, finetune, rows

Output = pytest.CaptureFixture[str]
SCRATCH = ("size=tiny", *SMALLEST)
RUN = replace(FinetuneConfig().run, updates=1000, eval_every=100)


def warned(said: str) -> set[str]:
    return {line.split(":")[0].removeprefix("WARNING ") for line in said.splitlines() if line.startswith("WARNING")}


def healthy(**others: Any) -> dict[str, Any]:
    return {"update": 500, "gradient_norm_median": 1.0, "wait_share": 0.29, "gradient_outlier_windows": 2,
            "seconds_left": 3600.0, "session_seconds_left": 3600.0 * 20, **others}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "sick", "keys"),
    [
        ("exploding-gradient", {"gradient_outlier_windows": 3}, {}),
        ("exploding-gradient", {"nonfinite_updates": 1}, {}),
        ("starved-loader", {"wait_share": 0.31}, {}),
        ("schedule-too-long", {"seconds_left": 3600.0 * 49}, {}),
        ("frozen-encoder", {}, {"freeze": 0.9}),
        ("frozen-encoder", {}, {"optim": replace(FinetuneConfig().optim, encoder_lr=0.0)}),
    ],
)
def test_the_edges(name: str, sick: dict[str, Any], keys: dict[str, Any]) -> None:
    config = FinetuneConfig(pretrained="x", run=replace(RUN, max_hours=24))
    assert diagnose(healthy(), config) == {} == diagnose(healthy(), replace(config, freeze=1.0))
    ((found, line),) = diagnose(healthy(**sick), replace(config, **keys)).items()
    assert found == name and line.startswith(f"WARNING {name}: ")


@pytest.mark.parametrize(
    ("score", "best", "best_update", "losses", "sick"),
    [
        (0.60, 0.80, 700, (1.0, 0.2), True),
        (0.80, 0.60, 700, (1.0, 0.2), True),  # of an error rate
        (0.60, 0.80, 701, (1.0, 0.2), False),  # not yet for long
        (0.74, 0.80, 700, (1.0, 0.2), False),  # within what 100 utterances say by chance
        (0.60, 0.80, 700, (1.0, 0.95), False),  # training does no better either
    ],
)
def test_overfitting_is_worse_for_long_beyond_chance_while_training_gets_better(
    score: float, best: float, best_update: int, losses: tuple[float, float], sick: bool
) -> None:
    state = RunState(update=900, best=best, best_update=best_update, best_loss=losses[0], loss=losses[1])
    assert bool(diagnose_score(score, "accuracy", 100, state, RUN)) is sick


def test_a_short_healthy_run_prints_no_warning(corpus: Path, tmp_path: Path, capsys: Output) -> None:
    keys = ("size=tiny", "run.updates=6", "run.eval_every=6", "run.log_every=3", "run.max_hours=1")
    assert finetune("intent", corpus, tmp_path / "run", *keys) == 0
    assert warned(capsys.readouterr().out) == set()
    for row in rows(tmp_path / "run")[:2]:
        assert 0 <= row["wait_share"] < 0.3 and row["nonfinite_updates"] == row["gradient_outlier_windows"] == 0


def test_an_exploding_gradient(corpus: Path, tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    loss_sum, calls = IntentTask.loss_sum, []

    def sick(self: IntentTask, *rest: Any) -> torch.Tensor:
        calls.append(1)
        return loss_sum(self, *rest) * {**dict.fromkeys(range(13, 17), 1e5), 18: torch.nan}.get(len(calls), 1)

    monkeypatch.setattr(IntentTask, "loss_sum", sick)
    keys = (*SCRATCH, "data.valid=null", "run.updates=20", "batch.update_s=8", "batch.max_s=1000")
    assert finetune("intent", corpus, tmp_path / "run", *keys) == 0
    assert capsys.readouterr().out.count("WARNING exploding-gradient") == 2
    windows = [row["gradient_outlier_windows"] for row in rows(tmp_path / "run")]
    assert windows[11:17] == [0, 1, 2, 3, 4, 0]


def test_a_window_that_ends_in_an_update_left_out_has_no_norm(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss_sum, calls = IntentTask.loss_sum, []

    def sick(self: IntentTask, *rest: Any) -> torch.Tensor:
        calls.append(1)
        return loss_sum(self, *rest) * (torch.nan if len(calls) == 2 else 1)

    monkeypatch.setattr(IntentTask, "loss_sum", sick)
    keys = (*SCRATCH, "data.valid=null", "run.updates=4", "run.log_every=2", "batch.update_s=8", "batch.max_s=1000")
    assert finetune("intent", corpus, tmp_path / "run", *keys) == 0
    first, second = rows(tmp_path / "run")
    assert first["gradient_norm"] is None and second["gradient_norm"] > 0


def test_a_starved_loader(corpus: Path, tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Utterance.read

    def slowly(self: Utterance, start_s: float = 0.0, duration_s: float | None = None) -> torch.Tensor:
        time.sleep(0.2)
        return read(self, start_s, duration_s)

    monkeypatch.setattr(Utterance, "read", slowly)
    keys = (*SCRATCH, "run.updates=3", "run.log_every=3", "run.eval_every=3", "batch.update_s=4")
    assert finetune("intent", corpus, tmp_path / "run", *keys) == 0
    assert warned(capsys.readouterr().out) == {"starved-loader"}


def test_a_schedule_that_the_time_limit_cuts(corpus: Path, tmp_path: Path, capsys: Output) -> None:
    keys = (*SCRATCH, "run.updates=1000000", "run.eval_every=1000000", "run.max_hours=1e-4")
    assert finetune("intent", corpus, tmp_path / "run", *keys) == 75
    said = capsys.readouterr().out
    assert "schedule-too-long" in warned(said) and said.count("WARNING schedule") == 1


@pytest.mark.parametrize("key", ["freeze=0.95", "optim.encoder_lr=0"])
def test_an_encoder_that_never_learns(source: Path, corpus: Path, tmp_path: Path, capsys: Output, key: str) -> None:
    keys = (f"pretrained={source}", key, "data.valid=null", "run.updates=3")
    assert finetune("intent", corpus, tmp_path / "run", *keys) == 0
    assert capsys.readouterr().out.count(f"WARNING frozen-encoder: {key}") == 1


def test_overfitting(corpus: Path, tmp_path: Path, capsys: Output) -> None:
    """Two labels; those of validation are the wrong ones, so that all that is learnt makes it worse."""
    audio = sorted((corpus / "intent").glob("*/audio/*"), key=lambda path: path.name)
    for split, labels in (("train", "ab"), ("valid", "ba")):
        lines = [f"{path},{labels[i % 2]}" for i, path in enumerate(audio)]
        (tmp_path / f"{split}.csv").write_text("\n".join(["file_name,intent", *lines]) + "\n")
    keys = (*(f"data.{split}={tmp_path}/{split}.csv" for split in ("train", "valid")), "baseline=log-mel",
            "augment.time_prob=0", "augment.channel_prob=0", "head.dropout=0", "optim.lr=2e-2", "data.min_s=0",
            "run.updates=40", "run.eval_every=2", "run.stop_on=[overfitting]")  # fmt: skip
    with pytest.raises(UserError, match=r"run\.stop_on: overfitting: accuracy on data\.valid"):
        finetune("intent", corpus, tmp_path / "run", *keys)
    said = capsys.readouterr().out
    assert "overfitting" in warned(said) and said.count("WARNING overfitting") == 1
    last = rows(tmp_path / "run")[-1]["update"]
    assert last < 40 and (tmp_path / f"run/checkpoints/update_{last:08d}/manifest.json").is_file()
    assert (tmp_path / "run/hub/model.safetensors").is_file()
