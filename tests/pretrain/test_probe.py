"""The probe: its classifier against a plain loop, what it reads, and that it does not change the run."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mixvec import UserError
from mixvec.data.utterances import Utterance, Utterances
from mixvec.training.run import Run
from pretrain.config import ProbeConfig
from pretrain.probe import RIDGE, Probe, choose, layer_accuracies, left_out_accuracy, open_probe
from tests.runs import PRETRAIN, command, identical, in_forward, pretrain, rows, weights

TIMING = {"audio_s_per_s", "seconds_left", "wait_share", "memory_mb", "energy_kwh", "probe_s"}
DROPS = ("encoder.dropout=0.1", "encoder.layer_drop=0.2")


def probe_data(corpus: Path) -> str:
    """Eight labels, an utterance of each in every split."""
    return f"probe.data=[{','.join(str(corpus / 'intent' / name) for name in ('train', 'validation', 'test'))}]"


def timeless(run: Path, *, probed: bool = True) -> list[dict[str, Any]]:
    return [
        {k: v for k, v in row.items() if k not in TIMING and (probed or not k.startswith("probe"))} for row in rows(run)
    ]


def test_the_classifier_equals_one_refitted_without_each_utterance() -> None:
    """Ridge regression by its normal equations, the intercept free of the penalty; labels of unequal number."""
    inputs, labels = torch.randn(40, 7).double(), torch.arange(40) % 4 % 3
    inputs[:, :3] += 0.8 * torch.nn.functional.one_hot(labels)
    x = ((inputs - inputs.mean(0)) / inputs.std(0, correction=0)).numpy()
    y = torch.nn.functional.one_hot(labels).numpy().astype(float)
    right = 0
    for i in range(40):
        rest = np.arange(40) != i
        design = np.column_stack([x[rest], np.ones(39)])
        penalty = np.diag([RIDGE * 7] * 7 + [0])
        fitted = np.linalg.solve(design.T @ design + penalty, design.T @ y[rest])
        right += int(np.argmax(np.append(x[i], 1) @ fitted) == int(labels[i]))
    assert 20 < right < 40, "neither useless nor perfect, or nothing is compared"
    assert left_out_accuracy(inputs, labels) == pytest.approx(right / 40)
    assert left_out_accuracy(inputs * torch.nan, labels) == 0.0


def test_utterances_are_chosen_evenly_over_the_labels_within_both_bounds() -> None:
    """Of label n there are n + 1; a hundred labels are too many for 80 utterances, four of each label at the least."""
    labels = [f"{n:02}" for n in range(100) for _ in range(n + 1)]
    utterances = Utterances(Utterance(str(i), 2.0, label=label) for i, label in enumerate(labels))
    for probe in (ProbeConfig(max_utterances=80), ProbeConfig(max_utterances=1000, max_s=160.0)):
        chosen = choose(utterances, probe)
        counts = Counter(u.label for u in chosen)
        assert set(counts.values()) == {4} and set(counts) == {f"{n:02}" for n in range(80, 100)}
        assert chosen == choose(utterances, probe)
    few = Utterances(utterances[i] for i in range(6))  # 1, 2 and 3 of a label
    assert Counter(u.label for u in choose(few, ProbeConfig())) == {"01": 2, "02": 3}


def test_the_run_is_bitwise_the_same_with_and_without(corpus: Path, tmp_path: Path) -> None:
    """Weights, moments, every generator and the log; the probe comes before updates that drop layers and units."""
    keys = ("run.updates=4", "run.log_every=1", "run.save_every=4", *DROPS)
    assert pretrain(corpus, tmp_path / "without", *keys) == 0
    assert pretrain(corpus, tmp_path / "with", *keys, probe_data(corpus), "probe.every=2") == 0
    assert identical(weights(tmp_path / "without"), weights(tmp_path / "with"))
    sums = [
        json.loads((tmp_path / name / "checkpoints/update_00000004/manifest.json").read_text())["files"]
        for name in ("without", "with")
    ]
    for name in ("model.safetensors", "optimizer.safetensors", "rng.safetensors"):
        assert sums[0][name] == sums[1][name], name
    assert timeless(tmp_path / "without") == timeless(tmp_path / "with", probed=False)


def test_when_it_is_due_and_what_it_logs(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = ("run.updates=11", "run.log_every=2", probe_data(corpus), "probe.every=5")
    assert pretrain(corpus, tmp_path / "run", *keys) == 0
    output = capsys.readouterr().out
    probed = {row["update"]: row for row in rows(tmp_path / "run") if "probe_accuracy" in row}
    assert set(probed) == {6, 10, 11}
    for row in probed.values():
        assert len(row["probe_layers"]) == 3 and row["probe_last"] == row["probe_layers"][-1]
        assert row["probe_accuracy"] == max(row["probe_layers"]) == row["probe_layers"][row["probe_layer"]]
        assert 0 < row["probe_chance"] < 0.5 and 0 < row["probe_log_mel"] <= 1 and row["probe_s"] > 0
        assert f"  probe {row['probe_accuracy']:.3f} (layer {row['probe_layer']}, log-mel " in output
    assert "probe: " in output and output.count("  probe ") == 3
    assert len({row["probe_untrained"] for row in probed.values()}) == 1


def test_a_run_that_stops_does_not_wait_for_it(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_forward(monkeypatch, 2, do=lambda _: os.kill(os.getpid(), signal.SIGTERM))
    keys = ("run.updates=3", "batch.max_s=60", probe_data(corpus), "probe.every=1")
    assert pretrain(corpus, tmp_path / "run", *keys) == 143
    assert ["probe_accuracy" in row for row in rows(tmp_path / "run")] == [True, False]


def test_a_resumed_run_logs_the_same_and_its_keys_may_change(corpus: Path, tmp_path: Path) -> None:
    keys = ("run.updates=4", "run.save_every=2", *DROPS, probe_data(corpus), "probe.every=2")
    assert pretrain(corpus, tmp_path / "whole", *keys) == 0
    assert pretrain(corpus, tmp_path / "parts", *keys) == 0
    shutil.rmtree(tmp_path / "parts/checkpoints/update_00000004")
    assert pretrain(corpus, tmp_path / "parts", *keys) == 0
    assert timeless(tmp_path / "whole") == timeless(tmp_path / "parts")
    assert pretrain(corpus, tmp_path / "whole", *keys[:2], *DROPS, "probe.every=9") == 0, "nothing computed is changed"


@pytest.mark.slow
def test_two_ranks_log_what_one_does(corpus: Path, tmp_path: Path) -> None:
    """At a learning rate of 0 the weights are the same, and so must every accuracy be."""
    keys = ["optim.lr=0", "run.updates=2", probe_data(corpus), "probe.every=1"]
    arguments = [*PRETRAIN, f"data.train={corpus}/unlabelled", *keys]
    for ranks in (1, 2):
        done = command("pretrain", *arguments, f"run.dir={tmp_path / str(ranks)}", ranks=ranks)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("probe: ") == 1
    one, two = (
        [{k: v for k, v in row.items() if k.startswith("probe") and k != "probe_s"} for row in rows(tmp_path / ranks)]
        for ranks in ("1", "2")
    )
    assert one == two and one[0]["probe_accuracy"] == one[0]["probe_untrained"]


def test_the_encoder_is_left_as_it_was(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[tuple[Any, ...]] = []

    def look(run: Run, encoder: torch.nn.Module) -> Probe | None:
        encoder.train()
        encoder.norm.eval()  # type: ignore[operator, union-attr]
        probe = open_probe(run, encoder)
        assert probe is not None
        modes = [module.training for module in encoder.modules()]
        found.append((layer_accuracies(run, probe), layer_accuracies(run, probe)))
        assert modes == [module.training for module in encoder.modules()] and True in modes and False in modes
        assert all(parameter.grad is None for parameter in encoder.parameters())
        return probe

    monkeypatch.setattr("pretrain.train.open_probe", look)
    keys = ("run.updates=1", "encoder.dropout=0.5", "encoder.layer_drop=0.5", probe_data(corpus))
    assert pretrain(corpus, tmp_path / "run", *keys) == 0
    ((once, again),) = found
    assert once == again


@pytest.mark.parametrize(
    "keys", [("encoder.kind=wav2vec2", "encoder.front_end=waveform-groupnorm"), ("run.precision=bf16",)]
)
def test_any_encoder_and_precision(corpus: Path, tmp_path: Path, keys: tuple[str, ...]) -> None:
    probe = (probe_data(corpus), "probe.every=1", "run.updates=1", "batch.update_s=6")
    assert pretrain(corpus, tmp_path / "run", *keys, *probe) == 0
    assert len(rows(tmp_path / "run")[0]["probe_layers"]) == 3


def test_an_unreadable_utterance_is_left_out_and_named(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    audio = sorted((corpus / "intent/train/audio").iterdir())[:5]
    lines = ["file_name,intent", "bad.flac,a", *(f"{path},{'ab'[i % 2]}" for i, path in enumerate(audio))]
    (tmp_path / "bad.flac").write_bytes(audio[0].read_bytes()[: audio[0].stat().st_size // 2])
    (tmp_path / "metadata.csv").write_text("\n".join(lines) + "\n")
    assert pretrain(corpus, tmp_path / "run", "run.updates=1", f"probe.data={tmp_path}") == 0
    assert "bad.flac" in (tmp_path / "run/skipped.jsonl").read_text()
    assert "probe: 5 utterances of 2 labels" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{corpus}/asr/train", r"probe\.data=.*two labels.*no label"),
        ("{corpus}/nowhere", r"probe\.data=.*nowhere: "),
    ],
)
def test_unusable_data_is_named(corpus: Path, tmp_path: Path, source: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        pretrain(corpus, tmp_path / "run", "run.updates=1", "probe.data=" + source.format(corpus=corpus))
