"""The named warnings: raised by recorded failures and by runs made to fail, silent on healthy runs."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from mixvec import UserError, encoder_config
from mixvec.audio import read_audio
from mixvec.build import build_encoder
from mixvec.data.utterances import Utterance
from mixvec.training.checkpoint import RunState
from mixvec.training.log import REPEAT_LINES, Log
from mixvec.training.optim import is_outlier, median_norm, remember
from pretrain import report
from pretrain.config import DIAGNOSES, PretrainConfig
from pretrain.objectives import build_objective
from tests.runs import PRETRAIN, command, in_forward, pretrain, rows

Output = pytest.CaptureFixture[str]
COLLAPSE = ("optim.lr=10", "optim.warmup_fraction=0", "run.updates=20", "batch.max_s=60")


def row(loss: float, accuracy: float, codes: float, share: float = 0.5, **others: float) -> dict[str, Any]:
    update = round(share * PretrainConfig().run.updates)
    return {"update": update, "contrastive_loss": loss, "chance_loss": 4.615, "accuracy": accuracy,
            "code_perplexity": codes, "max_perplexity": 640, "width": 768, "gradient_norm_median": 1.0,
            **others}  # fmt: skip


def diagnose(found: dict[str, Any], config: PretrainConfig) -> dict[str, str]:
    encoder = build_encoder(encoder_config("tiny"))
    return report.diagnose(found, config, build_objective(config.objective, encoder))


def healthy(**others: float) -> dict[str, Any]:
    return row(1.5, 0.7, 300.0, **others)


def warned(said: str) -> set[str]:
    """The names of the warnings on the screen, but for that on the short budget, which every test's run has."""
    lines = [line.removeprefix("WARNING ") for line in said.splitlines() if line.startswith("WARNING")]
    return {line.split(":")[0] for line in lines} - {"small-budget"}


@pytest.mark.parametrize(
    "sick",
    [
        row(0.0, 1.0, 2.0),  # all targets one code: every distractor drops out
        row(0.3, 0.95, 50.0),
        row(2.853, 0.570, 3.0, share=0.2),  # `small` with lr 1.5e-3 and diversity weight 0.1 on one-minute batches
        row(4.240, 0.325, 5.0, share=0.2),  # its attention twin
    ],
)
def test_a_collapsed_codebook_is_named(sick: dict[str, Any]) -> None:
    assert "objective.diversity_weight" in diagnose(sick, PretrainConfig())["collapsed-codebook"]


def test_stuck_at_chance_is_named_after_warm_up_alone() -> None:
    assert list(diagnose(row(4.61, 0.02, 500.0), PretrainConfig())) == ["stuck-at-chance"]
    assert diagnose(row(4.61, 0.02, 500.0, share=0.05), PretrainConfig()) == {}


@pytest.mark.parametrize(
    "others",
    [
        {"gradient_outlier_windows": 2, "nonfinite_updates": 0, "effective_rank": 7.7, "wait_share": 0.29},
        {"update": 30_000, "effective_rank": 1.5},
        {"seconds_left": 3600.0 * 47, "session_seconds_left": 3600.0 * 20},
    ],
)
def test_a_healthy_run_is_left_in_peace(others: dict[str, float]) -> None:
    config = PretrainConfig(run=replace(PretrainConfig().run, max_hours=24))
    for numbers in ((3.582, 0.212, 59.0), (4.096, 0.072, 593.0), (1.5, 0.7, 300.0)):
        assert diagnose(row(*numbers, session_seconds_left=3600.0) | others, config) == {}


@pytest.mark.parametrize(
    ("name", "sick"),
    [
        ("exploding-gradient", healthy(gradient_outlier_windows=3)),
        ("exploding-gradient", healthy(nonfinite_updates=1)),
        ("dimensional-collapse", healthy(effective_rank=7.6)),
        ("dimensional-collapse", healthy(share=0.01, effective_rank=1.4)),
        ("starved-loader", healthy(wait_share=0.31)),
        ("schedule-too-long", healthy(seconds_left=3600.0 * 49, session_seconds_left=3600.0 * 20)),
        ("schedule-too-long", healthy(share=0.01, seconds_left=3600.0 * 297, session_seconds_left=3600.0 * 20)),
    ],
)
def test_the_edges(name: str, sick: dict[str, Any]) -> None:
    config = PretrainConfig(run=replace(PretrainConfig().run, max_hours=24))
    (found,) = diagnose(sick | {"session_seconds_left": sick.get("session_seconds_left", 1e9)}, config).items()
    assert found[0] == name and found[1].startswith(f"WARNING {name}: ")


def test_a_session_that_is_over_reaches_no_further() -> None:
    config = PretrainConfig(run=replace(PretrainConfig().run, max_hours=24))
    found = diagnose(healthy(seconds_left=3600.0 * 49, session_seconds_left=-3600.0), config)
    assert "(near 150000)" in found["schedule-too-long"]


@pytest.mark.slow
def test_a_short_healthy_run_prints_no_warning(corpus: Path, tmp_path: Path, capsys: Output) -> None:
    keys = ("objective.mask_prob=0.3", "encoder.dropout=0", "encoder.layer_drop=0", "run.updates=120",
            "run.log_every=60", "run.max_hours=1")  # fmt: skip
    assert pretrain(corpus, tmp_path / "run", *keys) == 0
    assert warned(capsys.readouterr().out) == set()
    for found in rows(tmp_path / "run"):
        assert 2 <= found["code_perplexity"] <= found["max_perplexity"] == 32
        assert 2 <= found["probability_perplexity"] <= 32
        assert 1 <= found["effective_rank"] <= found["width"] == 32
        assert found["feature_norm"] > 0 and found["memory_mb"] > 100
        assert 0 <= found["wait_share"] < 0.3 and 0 <= found["padding_waste"] < 2
        assert 0 < found["gradient_norm_median"] < 10 and found["nonfinite_updates"] == 0


def test_a_rate_far_too_high_collapses_codebook_and_dimensions(corpus: Path, tmp_path: Path, capsys: Output) -> None:
    assert pretrain(corpus, tmp_path / "run", *COLLAPSE) == 0
    assert {"collapsed-codebook", "dimensional-collapse"} <= warned(capsys.readouterr().out)


@pytest.mark.slow
def test_a_rate_of_nothing_is_stuck_at_chance(corpus: Path, tmp_path: Path, capsys: Output) -> None:
    assert pretrain(corpus, tmp_path / "run", "optim.lr=0", "run.updates=100", "run.log_every=100") == 0
    assert warned(capsys.readouterr().out) == {"stuck-at-chance"}


def test_an_exploding_gradient(corpus: Path, tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    in_forward(monkeypatch, *range(14, 18), do=lambda step: step._replace(loss=step.loss * 1e4))
    assert pretrain(corpus, tmp_path / "run", "run.updates=20", "batch.max_s=60") == 0
    assert "exploding-gradient: its norm was over 10 times its running median" in capsys.readouterr().out
    assert [found["gradient_outlier_windows"] for found in rows(tmp_path / "run")][12:18] == [0, 1, 2, 3, 4, 0]


def test_a_gradient_that_is_not_finite(
    corpus: Path, tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The update that was left out adds nothing to the numbers of its log line."""
    in_forward(
        monkeypatch,
        3,
        do=lambda step: step._replace(loss=step.loss * torch.nan, sums={n: v / 0 for n, v in step.sums.items()}),
    )
    assert pretrain(corpus, tmp_path / "run", "run.updates=4", "run.log_every=2", "batch.max_s=60") == 0
    assert "exploding-gradient: 1 updates since the last line were not finite" in capsys.readouterr().out
    assert [found["nonfinite_updates"] for found in rows(tmp_path / "run")] == [0, 1]
    assert all(math.isfinite(found["contrastive_loss"]) for found in rows(tmp_path / "run"))


@pytest.mark.slow
def test_a_starved_loader(corpus: Path, tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Utterance.read

    def slowly(self: Utterance, start_s: float = 0.0, duration_s: float | None = None) -> torch.Tensor:
        time.sleep(0.1)
        return read(self, start_s, duration_s)

    monkeypatch.setattr(Utterance, "read", slowly)
    assert pretrain(corpus, tmp_path / "run", "run.updates=4", "run.log_every=4") == 0
    assert warned(capsys.readouterr().out) == {"starved-loader"}
    assert 0.3 < rows(tmp_path / "run")[0]["wait_share"] < 1


def test_a_schedule_that_the_time_limit_cuts(corpus: Path, tmp_path: Path, capsys: Output) -> None:
    assert pretrain(corpus, tmp_path / "run", "run.updates=1000000", "run.max_hours=3e-4", "run.log_every=10") == 75
    said = capsys.readouterr().out
    assert warned(said) - {"starved-loader"} == {"schedule-too-long"}  # which a busy machine starves
    assert "before the warm-up ends at 100000" in said


def test_a_small_batch_for_a_large_size(corpus: Path, tmp_path: Path, capsys: Output) -> None:
    assert pretrain(corpus, tmp_path / "run", "size=base", "run.updates=3") == 0
    said = capsys.readouterr().out
    assert warned(said) == {"small-batch"} and said.count("WARNING") == 2


def test_stop_on_ends_with_a_checkpoint_and_an_error(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"run\.stop_on: dimensional-collapse: the encoder's frames vary in about 1"):
        pretrain(corpus, tmp_path / "run", *COLLAPSE, "run.stop_on=[dimensional-collapse]")
    last = rows(tmp_path / "run")[-1]["update"]
    assert last < 20 and (tmp_path / f"run/checkpoints/update_{last:08d}/manifest.json").is_file()
    assert pretrain(corpus, tmp_path / "run", *COLLAPSE) == 0, "without the key it goes on"


@pytest.mark.slow
def test_stop_on_ends_all_ranks(corpus: Path, tmp_path: Path) -> None:
    keys = [f"data.train={corpus}/unlabelled", f"run.dir={tmp_path / 'run'}", f"run.stop_on=[{','.join(DIAGNOSES)}]"]
    done = command("pretrain", *PRETRAIN, *COLLAPSE, *keys, ranks=2)
    assert done.returncode != 0 and "error: rank 0: run.stop_on: dimensional-collapse: " in done.stderr
    assert len(list((tmp_path / "run/checkpoints").iterdir())) == 1


def test_effective_rank_is_that_of_its_definition() -> None:
    accelerator, frames = Accelerator(cpu=True), torch.randn(500, 6) * torch.tensor([9.0, 3.0, 1.0, 1.0, 0.1, 0.0]) + 5
    shares = np.linalg.eigvalsh(np.cov(frames.double().numpy().T, bias=True)).clip(min=0)
    shares = shares[shares > 1e-9] / shares.sum()
    real = torch.ones(500)
    assert report.effective_rank(accelerator, frames, real) == pytest.approx(math.exp(-(shares * np.log(shares)).sum()))
    padded, mask = torch.cat([frames, torch.full((70, 6), 1e3)]), torch.cat([real, torch.zeros(70)])
    assert report.effective_rank(accelerator, padded, mask) == pytest.approx(
        report.effective_rank(accelerator, frames, real)
    )
    line = torch.linspace(-1, 1, 50).unsqueeze(1) * torch.ones(6)
    assert report.effective_rank(accelerator, line, torch.ones(50)) == pytest.approx(1, abs=1e-4)
    assert report.effective_rank(accelerator, torch.ones(50, 6), torch.ones(50)) == pytest.approx(1)
    assert report.effective_rank(accelerator, torch.eye(6).repeat(9, 1), torch.ones(54)) == pytest.approx(5)


def test_the_running_median_forgets_and_ignores_outliers() -> None:
    state = RunState()
    assert math.isnan(median_norm(state)) and not is_outlier(state, 1e9)
    for norm in [*[1.0] * 50, *[2.0] * 100]:
        remember(state, norm)
    assert (median_norm(state), len(state.grad_norms)) == (2.0, 100)
    for _ in range(1000):
        remember(state, 30.0)
    assert median_norm(state) == 2.0
    remember(state, 30.0)
    assert median_norm(state) == 30.0, "a level that stays is the new one"


def test_padding_waste_is_padded_over_real(corpus: Path, tmp_path: Path) -> None:
    """All utterances in one micro-batch: each takes as long as the longest."""
    keys = ("run.updates=1", "batch.update_s=1000", "batch.max_s=1000", "data.max_s=100")
    assert pretrain(corpus, tmp_path / "run", *keys) == 0
    paths = (corpus / "unlabelled").rglob("*.flac")
    seconds = [s for s in (len(read_audio(path)) / 16_000 for path in paths) if s >= 1]
    expected = len(seconds) * max(seconds) / sum(seconds) - 1
    assert rows(tmp_path / "run")[0]["padding_waste"] == pytest.approx(expected, abs=1e-3)


def test_a_warning_that_persists_is_a_name_on_the_next_lines(capsys: Output, tmp_path: Path) -> None:
    log = Log(tmp_path, main=True)
    collapsed, once = {"collapsed-codebook": "WARNING collapsed"}, {"small-batch": "WARNING small"}
    for found in (*([collapsed | once] * (REPEAT_LINES + 1)), {}, collapsed | once):
        log.warn({}, "line", found)
        log.warn({}, "", {"overfitting": "WARNING overfitting"})
    printed = capsys.readouterr().out
    assert printed.count("overfitting") == 1
    lines = ["line" + part for part in printed.replace("WARNING overfitting", "").split("line")[1:]]
    full = [i for i, line in enumerate(lines) if "WARNING collapsed" in line]
    assert full == [0, REPEAT_LINES, REPEAT_LINES + 2]
    assert [i for i, line in enumerate(lines) if "small" in line] == [0]
    assert "still: collapsed-codebook" in lines[1] and "still" not in lines[REPEAT_LINES + 1]
