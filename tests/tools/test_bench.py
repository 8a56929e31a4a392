"""The bench: everything runs at toy size, turns alternate, and what fails is a line of the table, not a crash."""

from __future__ import annotations

import ast
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
import torch

from mixvec.errors import UserError
from pretrain.objectives.contrastive import MaskedPrediction, ObjectiveConfig
from tests import bench_systems
from tools.bench import measure as measuring
from tools.bench import ours, report, work
from tools.bench import profile as profiling
from tools.bench.cases import OURS, PRESETS, Case, System, Work, cases, gpu_cases, smoke_cases
from tools.bench.child import count_flops, reason
from tools.bench.measure import Row, measure
from tools.bench.run import run, run_profiles

ROOT = Path(__file__).resolve().parents[2]
OBJECTIVE = next(case for case in smoke_cases() if case.suite == "objective")
BARE = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocker())
import tools.bench.__main__, tools.bench.child
from tools.bench import ours
from tools.bench.cases import COMPILED, smoke_cases
for case in smoke_cases():
    for system in case.systems:
        if system.module == "ours" and system.variant != "wav2vec2":
            getattr(ours, case.suite)(case, system.variant).step()
"""
NOT_BASE = ("omegaconf", "yaml", "accelerate", "fairseq2", "fairseq2n", "transformers", "datasets", "soundfile",
            "safetensors", "huggingface_hub", "matplotlib", "psutil")  # fmt: skip


def fake(*systems: tuple[str, str]) -> Case:
    """A case of fake systems, as name and variant."""
    made = tuple(System(name, "tests.bench_systems", variant) for name, variant in systems)
    return Case("mixer", "mixer", ((1, 2.0),), made, toy=True)


def test_every_panel_of_the_plot_has_numbers_on_both_axes() -> None:
    """Also where all of a panel lies within one power of ten."""
    rows = [Row("mixer", "mixer", "mixer", s, OURS, 0.1, 0.1, 0.1, 3.0, 700.0 + s) for s in (2.0, 4.0)]
    rows.append(Row("mixer", "block", "block", 2.0, OURS, 0.1, 0.1, 0.1, 3.0, 120.0))
    figure = report.draw({"device": "a CPU", "threads": 1, "torch": "2"}, rows)
    figure.draw_without_rendering()
    assert len(figure.axes) == 2
    for panel in figure.axes:
        for axis in (panel.xaxis, panel.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
            assert [t for t in ticks if t.label1.get_text() and low <= t.get_loc() <= high], axis


def test_the_smoke_preset_as_a_user_runs_it(tmp_path: Path) -> None:
    """The one test with every suite and every system."""
    files = ["--json", str(tmp_path / "new" / "rows.json"), "--plot", str(tmp_path / "new" / "cost.png")]
    done = subprocess.run(
        [sys.executable, "-m", "tools.bench", "--preset", "smoke", *files], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "new" / "rows.json").read_text())
    assert written["torch"] == torch.__version__ and written["threads"] >= 1 and written["device"]
    assert (tmp_path / "new" / "cost.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["cost.png", "rows.json"]
    rows = [Row(**row) for row in written["rows"]]
    expected = [(case.suite, case.name, system.name) for case in smoke_cases() for system in case.systems]
    assert [(row.suite, row.case, row.system) for row in rows] == expected
    for row in rows:
        if row.system == "speechbrain":
            assert row.seconds is None and row.note == "not installed: No module named 'speechbrain'"
            continue
        first = next(other for other in rows if other.case == row.case and other.system == OURS)
        assert row.seconds and row.seconds_min and row.peak_mb is not None and row.audio_s_per_s, row
        assert 0 < row.seconds_min <= row.seconds <= (row.seconds_max or 0)
        assert row.peak_mb >= 0 and first.seconds  # a toy may fit into what the imports had freed
        assert row.ratio_to_ours == pytest.approx(row.seconds / first.seconds)
        assert f"| {row.case} | {row.system} | {row.seconds:.4g} (" in done.stdout


def test_the_audio_per_second_counts_every_batch() -> None:
    case = Case("update", "base", ((36, 10), (18, 20), (12, 30)), ())
    assert (case.audio_s, case.length_s) == (1080, pytest.approx(1080 / 66))
    assert case.name == "base, 36 x 10 s + 18 x 20 s + 12 x 30 s"


def test_turns_alternate(tmp_path: Path) -> None:
    log = tmp_path / "log"
    case = fake((OURS, f"log:a@{log}"), ("second", f"log:b@{log}"), ("third", f"log:c@{log}"))
    rows = measure(case, repeats=4)
    assert log.read_text() == "abc" + "abc" * 4, "each warms up once, in order; then one turn each"
    assert [row.note for row in rows] == ["a note"] * 3


def test_what_fails_is_a_line_and_the_rest_goes_on() -> None:
    case = fake(("gone", "crash:"), (OURS, "fill:"), ("greedy", "greedy:"), ("wrong", "raise:a reason\nand more"))
    case = replace(case, systems=(*case.systems, System("absent", "tests.no_such_module")))
    rows = {row.system: row for row in measure(case, repeats=3)}
    assert rows["gone"].note == "its process ended with code 7"
    assert rows["greedy"].note == "out of memory"
    assert rows["wrong"].note == "ValueError: a reason"
    assert rows["absent"].note == "not installed: No module named 'tests.no_such_module'"
    for name in ("gone", "greedy", "wrong", "absent"):
        empty = Row("mixer", case.name, "mixer", 2.0, name, note=rows[name].note)
        assert rows[name] == empty, "nothing is stated that was not measured"
        assert report.table_row(rows[name]).count("| - ") == 5
    found = rows[OURS].peak_mb
    assert found is not None and 0.9 * bench_systems.BLOCK_MB < found < 1.5 * bench_systems.BLOCK_MB
    assert rows[OURS].ratio_to_ours == 1.0


def test_without_ours_there_is_no_ratio() -> None:
    rows = measure(fake((OURS, "raise:x"), ("other", "fill:")), repeats=1)
    assert rows[0].seconds is None and rows[1].seconds is not None and rows[1].ratio_to_ours is None


def test_a_silent_system_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "patience", lambda deadline: 0.0)
    (row,) = measure(fake((OURS, "fill:")), repeats=1)
    assert row.seconds is None and row.note == "no answer within 0 s"


def test_what_is_left_out_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    short = replace(fake((OURS, "fill:")).systems[0], max_s=1)
    (row,) = measure(replace(fake(), systems=(short,)), repeats=1)
    assert row.note == "left out: over 1 s it takes too long"
    (row,) = measure(fake((OURS, "fill:")), repeats=1, deadline=time.monotonic() - 1)
    assert row.note == "left out: the preset's time is up"
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    notes = {row.note for case in gpu_cases() for row in measure(case, repeats=1)}
    assert notes == {"no CUDA device here"}


def test_reasons_are_one_line() -> None:
    assert reason(MemoryError()) == "out of memory"
    assert reason(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")) == "out of memory"
    assert reason(UserError("no fairseq2")) == "no fairseq2"
    error = torch._dynamo.exc.BackendCompilerFailed
    assert reason(error(print, RuntimeError("no gcc"), None)).startswith("torch.compile: BackendCompilerFailed: ")
    assert len(reason(RuntimeError("x" * 1000))) == 200


@pytest.fixture
def eager() -> Iterator[None]:
    """fairseq2's module switches compilation off for its process, which here is everyone's."""
    yield
    torch.compiler.set_stance("default")


@pytest.mark.parametrize("name", ["ours", "fairseq2_systems", "transformers_systems"])
def test_every_objective_starts_at_chance(name: str, eager: None) -> None:
    """The same definition of the loss: nats per masked frame, whose chance level is ln(K + 1)."""
    pytest.importorskip({"fairseq2_systems": "fairseq2", "transformers_systems": "transformers"}.get(name, "torch"))
    module = ours
    if name == "fairseq2_systems":
        from tools.bench import fairseq2_systems as module
    elif name == "transformers_systems":
        from tools.bench import transformers_systems as module
    loss = float(module.objective(OBJECTIVE, "base").step())
    chance = math.log(work.TOY_DISTRACTORS + 1)
    assert loss == pytest.approx(chance, abs=0.3)
    assert plain_chance_loss() == pytest.approx(loss, abs=0.4)


def plain_chance_loss() -> float:
    """The contrastive loss of random vectors in plain loops."""
    rng = torch.Generator().manual_seed(0)
    vectors = torch.randn(200, 256, generator=rng)
    losses = []
    for i in range(100):
        others = [100 + int(j) for j in torch.randint(0, 100, (work.TOY_DISTRACTORS,), generator=rng)]
        logits = [float(torch.cosine_similarity(vectors[i], vectors[j], dim=0)) / 0.1 for j in [(i + 1) % 100, *others]]
        losses.append(math.log(sum(math.exp(logit) for logit in logits)) - logits[0])
    return sum(losses) / len(losses)


@pytest.mark.parametrize(
    "case", [case for case in smoke_cases() if case.suite not in ("data", "checkpoint")], ids=lambda case: case.name
)
def test_work_is_counted(case: Case) -> None:
    """And a plain product's is what the textbook says, so that a share of the peak means something."""
    assert count_flops(getattr(ours, case.suite)(case, "summary")) > 1e5
    left, right = torch.randn(7, 5), torch.randn(5, 3)
    assert count_flops(Work(lambda: left @ right)) == 2 * 7 * 5 * 3


def test_every_objective_hides_the_same_frames() -> None:
    hidden = work.masks(8, 749)
    assert len(set(hidden.sum(1).tolist())) == 1 and 0.40 < hidden.mean() < 0.52
    assert (hidden == work.masks(8, 749)).all()


def test_materialised_attention_is_attention() -> None:
    torch.manual_seed(0)
    twin, plain = ours.SelfAttention(32, 4, dropout=0.0), ours.MaterialisedAttention(32, 4, dropout=0.0)
    plain.load_state_dict(twin.state_dict())
    x = torch.randn(2, 9, 32)
    torch.testing.assert_close(plain(x), twin(x))


def test_the_95_m_configuration_has_95_m() -> None:
    config = replace(ours._config(replace(OBJECTIVE, toy=False), "base", "summary"), ffn_dim=ours.FFN_95M)
    with torch.device("meta"):
        model = MaskedPrediction(config, ObjectiveConfig())
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(95.0, rel=0.01)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_system_of_a_preset_has_its_suite(preset: str) -> None:
    """Without importing it, since it may be a competitor that is not there."""
    for case in cases(preset):  # type: ignore[arg-type]
        assert [system.name for system in case.systems].count(OURS) == 1
        for system in case.systems:
            source = (ROOT / (system.path.replace(".", "/") + ".py")).read_text()
            defined = [node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
            assert case.suite in defined, f"{system.path} lacks {case.suite}"


def test_ours_runs_with_torch_torchaudio_and_numpy_alone() -> None:
    code = BARE.format(blocked=set(NOT_BASE))
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("suites", "repeats", "message"),
    [(["mixers"], None, "no suite mixers: choose from mixer, "), ([], 0, "at least 1")],
)
def test_wrong_words_are_errors(suites: list[str], repeats: int | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(suites, "smoke", repeats, None, None)


def test_a_plot_needs_matplotlib(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match=r"pip install 'mixvec\[dev\]'"):
        run([], "smoke", None, None, tmp_path / "cost.png")


def test_a_preset_without_a_suite_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    run(["data"], "gpu", None, None, None)
    assert "data: not in the preset gpu" in capsys.readouterr().out


def test_rows_state_what_the_issue_asks_for() -> None:
    names = {field.name for field in fields(Row)}
    assert names >= {"suite", "case", "system", "seconds", "seconds_min", "seconds_max", "peak_mb", "audio_s_per_s",
                     "ratio_to_ours", "note"}  # fmt: skip
    assert asdict(Row("mixer", "c", "g", 1.0, "s"))["seconds"] is None


@pytest.mark.parametrize("variant", ["summary", "attention"])
def test_a_profile_accounts_for_the_update(variant: str) -> None:
    """Each part has its share, twelve blocks' worth of it, and all of them make up the whole."""
    case = next(case for case in smoke_cases() if case.suite == "update")
    total_s, shares = profiling.profile(case, variant, repeats=3)
    parts = {share.part: share for share in shares}
    assert set(parts) == {*profiling.PARTS, profiling.OBJECTIVE, profiling.OPTIMIZER, profiling.REST}
    for part in ("mixer", "feed-forward", "convolution", profiling.OBJECTIVE):
        assert parts[part].forward_s > 0 and parts[part].backward_s > 0, part
    assert sum(share.forward_s + share.backward_s for share in shares) == pytest.approx(total_s, rel=0.5)
    assert "| mixer | " in profiling.table(case, OURS, total_s, shares)


def test_a_stopwatch_counts_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three calls of one module and one of another, in ticks of a clock of our own."""
    ticks = iter(range(100))
    monkeypatch.setattr(profiling.time, "perf_counter", lambda: float(next(ticks)))
    watch, inner, outer = profiling.Stopwatch("cpu"), torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    watch.watch(inner, "inner")
    watch.watch(outer, "outer")
    outer(inner(inner(inner(torch.ones(1, 2, requires_grad=True))))).sum().backward()
    assert watch.seconds() == {"inner forward": 3, "inner backward": 3, "outer forward": 1, "outer backward": 1}
    assert watch.seconds() == {}


def test_a_profile_is_asked_for_rightly(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="--profile looks at the suite update alone, not at mixer"):
        run_profiles(["mixer"], "smoke", 1)
    run_profiles([], "smoke", 1)
    said = capsys.readouterr().out
    assert "base, 2 x 2 s, ours: " in said and "base, 2 x 2 s, attention twin: " in said
