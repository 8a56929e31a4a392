"""The bench: every system runs at toy size, turns alternate, and a failure is a line of the table."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from mixvec import build_encoder
from mixvec.errors import run_cli
from pretrain.objectives import build_objective
from tests.commands import Run, in_process
from tests.runs import ROOT
from tests.tools.bench_systems import BLOCK_MB
from tools.bench import __main__ as bench
from tools.bench.measure import Case, Row, System, measure
from tools.bench.ours import load, training
from tools.bench.suites import FFN_95M, SUITES, TOY, Preset


def fake(**systems: tuple[str, ...]) -> Case:
    made = {name: System(f"tests.tools.bench_systems:{what}", tuple(rest)) for name, (what, *rest) in systems.items()}
    return Case("fake", made, audio_s=2.0)


@pytest.mark.slow
def test_the_smoke_preset_as_a_user_runs_it(tmp_path: Path) -> None:
    """The one test with every suite and every system."""
    words = [sys.executable, "-m", "tools.bench", "--preset", "smoke", "--json", str(tmp_path / "new/rows.json")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "new/rows.json").read_text())
    rows = [Row(**row) for row in facts["rows"]]
    expected = [
        (suite, case.name, name) for suite in SUITES for case in SUITES[suite]("smoke") for name in case.systems
    ]
    assert [(row.suite, row.case, row.system) for row in rows] == expected and facts["threads"] >= 1
    for row in rows:
        if row.seconds is None:
            assert row.system.startswith("speechbrain") and row.note.startswith("not installed"), row
            continue
        peer = next(other for other in rows if other.case == row.case)
        assert row.peer == peer.system and peer.seconds and row.seconds_min and row.seconds_max
        assert row.seconds_min <= row.seconds <= row.seconds_max and row.peak_mb is not None
        assert row.ratio == pytest.approx(row.seconds / peer.seconds)
        assert bench.line(row) in done.stdout.splitlines()


@pytest.mark.slow
def test_turns_alternate(tmp_path: Path) -> None:
    log = tmp_path / "log"
    rows = measure("s", fake(a=("log", "a", str(log)), b=("log", "b", str(log)), c=("log", "c", str(log))), repeats=3)
    assert log.read_text() == "aabbcc" + "abc" * 3, "each warms up, in order; then one turn each"
    assert [(row.note, row.peer) for row in rows] == [("a note", "a")] * 3
    assert all(row.seconds and row.audio_s_per_s == pytest.approx(2 / row.seconds) for row in rows)


@pytest.mark.slow
def test_a_failure_is_a_line_and_the_others_are_measured() -> None:
    case = fake(filled=("fill",), gone=("crash",), wrong=("fail", "a reason\nand more"), greedy=("greedy",))
    case.systems["absent"] = System("tests.no_such_module:update")
    rows = {row.system: row for row in measure("s", case, repeats=2)}
    assert "exit code 7" in rows["gone"].note and rows["wrong"].note == "ValueError: a reason"
    assert rows["absent"].note.startswith("not installed") and rows["greedy"].note == "out of memory"
    for name in ("gone", "wrong", "absent", "greedy"):
        assert rows[name] == Row("s", "fake", name, note=rows[name].note), "nothing is stated that was not measured"
        assert bench.line(rows[name]).count("| - ") == 4
    peak = rows["filled"].peak_mb
    assert peak is not None and 0.9 * BLOCK_MB < peak < 1.5 * BLOCK_MB and rows["filled"].ratio == 1.0


@pytest.mark.slow
def test_without_the_peer_there_is_no_ratio() -> None:
    rows = measure("s", fake(peer=("fail", "x"), other=("fill",)), repeats=1)
    assert rows[0].seconds is None and rows[1].seconds is not None and rows[1].ratio is None


@pytest.mark.parametrize("preset", get_args(Preset))
def test_every_system_exists(preset: Preset) -> None:
    """Its module is not imported, since it may need a framework that is not installed."""
    for suite in SUITES.values():
        for system in (system for case in suite(preset) for system in case.systems.values()):
            module, _, function = system.target.partition(":")
            tree = ast.parse((ROOT / (module.replace(".", "/") + ".py")).read_text())
            assert function in [node.name for node in tree.body if isinstance(node, ast.FunctionDef)], system


def test_our_update_has_the_parameters_that_its_case_names() -> None:
    with torch.device("meta"):
        config = load("base", [FFN_95M])
        model: Any = build_objective(config.objective, build_encoder(config.encoder))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(95.0, rel=0.01)
    toy, loss = training(load("base", TOY), 2, 2.0, "cpu")
    assert 3.0 < float(loss().detach()) < 6.0, "near chance, ln(101)"
    assert sum(p.numel() for p in toy.parameters()) < 1e6


def test_wrong_words_are_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run: Run = in_process(lambda: run_cli(bench.main), monkeypatch, capsys)
    for words, named in ((["mixer"], "no suite mixer: .*mixers"), (["--repeats", "0"], "--repeats 0")):
        done = run(*words)
        assert done.code == 1 and done.err.count("\n") == 1 and re.search(named, done.err)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "--preset gpu" in run("--preset", "gpu").err
