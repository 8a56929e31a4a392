"""The bench: every system runs at toy size, turns alternate, and a failure is a line of the table."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mixvec import build_encoder
from mixvec.data.batches import Clip
from mixvec.data.utterances import Utterance
from mixvec.errors import UserError, run_cli
from pretrain.objectives import build_objective
from tests.commands import Run, in_process
from tests.runs import ROOT
from tests.tools.bench_systems import BLOCK_MB, crash, fail, fill, greedy, log
from tools.bench import __main__ as bench
from tools.bench import learning, ours, peers
from tools.bench.measure import Case, System, measure
from tools.bench.ours import learner, load
from tools.bench.suites import FFN_95M, SUITES, TOY


@pytest.mark.slow
def test_the_smoke_preset_as_a_user_runs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one test with every suite and every system."""
    words = [sys.executable, "-m", "tools.bench", "--preset", "smoke", "--json", str(tmp_path / "new/rows.json")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "new/rows.json").read_text())
    monkeypatch.setattr(ours, "publish", lambda *_: None)  # the cases need no files
    expected = [
        (suite, case.name, name) for suite in SUITES for case in SUITES[suite]("smoke") for name in case.systems
    ]
    assert [(row["suite"], row["case"], row["system"]) for row in facts["rows"]] == expected and facts["threads"] >= 1
    for row in facts["rows"]:
        peer = next(other for other in facts["rows"] if other["case"] == row["case"])
        assert row["seconds_min"] <= row["seconds"] <= row["seconds_max"] and row["peak_mb"] >= 0, row
        assert row["peer"] == peer["system"] and row["ratio"] == pytest.approx(row["seconds"] / peer["seconds"])
        assert bench.line(row) in done.stdout.splitlines()


@pytest.mark.parametrize("kind", ["Wav2Vec2", "Wav2Vec2Conformer"])
def test_a_peer_of_transformers_sees_padding_where_there_is_some(kind: str) -> None:
    """A clip alone takes the path without a mask; the Conformer is in no smoke preset."""
    peer = peers.transformers(kind, (peers.CONFORMER if "Conformer" in kind else {}) | peers.TOY)
    clips = [Clip(Utterance("a", 1.0), torch.randn(samples), np.random.default_rng(0)) for samples in (16_000, 12_000)]
    alone, padded = peer.collate(clips[:1]), peer.collate(clips)
    assert alone.real is None and padded.real.sum(1).tolist() == [16_000, 12_000]
    for loss in peer.losses([alone, padded], 1, 0.5):
        assert loss.isfinite() and loss.requires_grad


@pytest.mark.slow
def test_turns_alternate(tmp_path: Path) -> None:
    case = Case("c", {name: System(log, (name, str(tmp_path / "log"))) for name in "ab"}, audio_s=2.0)
    rows = measure(case, repeats=3, turn_s=0.01)
    assert (tmp_path / "log").read_text() == "aabb" + "ab" * 3, "each warms up, in order; then one turn each"
    assert [(row["note"], row["peer"]) for row in rows] == [("a note", "a")] * 2
    assert all(row["audio_s_per_s"] == pytest.approx(2 / row["seconds"]) for row in rows)


@pytest.mark.slow
def test_a_failure_is_a_line_and_the_others_are_measured() -> None:
    systems = {build.__name__: System(build) for build in (fill, crash, fail, greedy)}
    systems["absent"] = System(fill, (), "no_module")
    rows = {row["system"]: row for row in measure(Case("c", systems, 1.0), 1, 0.0)}
    assert "died" in rows["crash"]["note"] and rows["fail"]["note"] == "ValueError: a reason"
    assert rows["absent"]["note"].startswith("not installed") and rows["greedy"]["note"] == "out of memory"
    for name in ("crash", "fail", "absent", "greedy"):
        assert set(rows[name]) == {"case", "system", "note"}, "nothing is stated that was not measured"
        assert bench.line(rows[name] | {"suite": "s"}).count("| - ") == 4
    assert 0.9 * BLOCK_MB < rows["fill"]["peak_mb"] < 1.5 * BLOCK_MB and rows["fill"]["ratio"] == 1.0
    peer, other = measure(Case("c", {"peer": System(fail), "other": System(fill)}, 1.0), 1, 0.0)
    assert "seconds" not in peer and "seconds" in other and "ratio" not in other


@pytest.mark.slow
def test_learning_trains_and_probes_ours_and_the_peers(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    systems = ["units", "transformers wav2vec 2.0", "fairseq2 wav2vec 2.0"]
    words = ["bench.learning", f"{corpus}/unlabelled", "--minutes", "0.02", "--seconds", "3", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [*words, "--systems", ";".join(systems)])
    learning.main()
    rows = json.loads((tmp_path / "learning.json").read_text())
    assert [row["system"] for row in rows] == systems
    assert all(0 < row["phone"] < 1 and row["updates"] >= 1 and row["hours_seen"] > 0 for row in rows)
    assert (tmp_path / "learning.svg").stat().st_size > 1000
    trained = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    learning.main()  # what is complete is not trained again
    assert capsys.readouterr().out.count("phone accuracy") == 6
    assert len(trained) == 3 and trained == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    monkeypatch.setattr(sys, "argv", [*words, "--systems", "fairseq"])
    with pytest.raises(UserError, match=r"--systems: no system fairseq"):
        learning.main()


def test_our_update_has_the_parameters_that_its_case_names() -> None:
    with torch.device("meta"):
        config = load("base", [FFN_95M])
        model: Any = build_objective(config.objective, build_encoder(config.encoder))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(95.0, rel=0.01)
    toy = learner(load("base", TOY))
    clips = [Clip(Utterance("noise", 2.0), torch.randn(32_000), np.random.default_rng(n)) for n in range(2)]
    (loss,) = toy.losses([toy.collate(clips)], 1, 0.5)
    assert 3.0 < float(loss.detach()) < 6.0, "near chance, ln(101)"
    assert sum(p.numel() for p in toy.model.parameters()) < 1e6


def test_wrong_words_are_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run: Run = in_process(lambda: run_cli(bench.main), monkeypatch, capsys)
    for words, named in ((["mixer"], "mixer: .*mixers"), (["--repeats", "0"], "--repeats 0")):
        done = run(*words)
        assert done.code == 1 and done.err.count("\n") == 1 and re.search(named, done.err)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "--preset gpu" in run("--preset", "gpu").err
