"""The report: what a page shows of runs, whole, compared, running, damaged or hostile."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixvec.errors import run_cli
from mixvec.hub import read_config, save_folder
from mixvec.training.config import load_config
from mixvec.training.rundir import open_directory
from pretrain.config import PretrainConfig
from tests.commands import Run, in_process
from tests.tiny_models import recogniser
from tests.tools.run_folders import HOSTILE, finetuning, lines, pretraining
from tools.publish import to_folder
from tools.report import __main__ as report
from tools.report.figures import POINTS, thin
from tools.report.runs import RunFolder, families, find_runs

TEXTS = [("turn the light on", "turn light off"), ("stop", "stop"), ("one two three", "one two two three")]
LABELS = [("on", "on")] * 6 + [("off", "on")] * 2 + [("off", "off"), ("up", "")]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return in_process(lambda: run_cli(report.main), monkeypatch, capsys)


class Page(HTMLParser):
    """The elements of a page with their attributes, its texts, and its tables by caption."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def after(self, label: str, cells: int = 1) -> list[str]:
        """The texts that follow a text, without white space."""
        shown = [text.strip() for text in self.texts if text.strip()]
        place = shown.index(label)
        return shown[place + 1 : place + 1 + cells]


def page_of(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def test_a_pretraining(tmp_path: Path, run: Run) -> None:
    folder = pretraining(tmp_path / "small")
    done = run(folder)
    assert done.code == 0 and str(folder / "report.html") in done.out
    page = page_of(folder / "report.html")
    assert page.after("state") == ["complete"] and page.after("audio seen") == ["4 h"]
    assert page.after("machine") == ["a processor, 2 cores"] and page.after("commit") == ["abc123"]
    assert page.after("training data") == ["hours, 2.00 h in 1,234 utterances"]
    assert page.after("batch.update_s") == ["20.0"], "a key that differs from its default"
    text = " ".join(page.texts)
    assert "masked frames 4 → 2.5; units' entropy 4.4" in text, "each curve in words"
    assert "masked frames 10.0 % → 40.0 %; commonest unit 3.0 %" in text
    assert "From the input embedding to the last layer. small: 10.0 %, 40.0 %, 30.0 %" in text
    warnings = [text for text in page.texts if "starved-loader" in text or "not finite" in text]
    assert len(warnings) == 2 and "update 20, 20:" in warnings[0] and "update 30:" in warnings[1]
    marks = [text for text in page.texts if text.strip() in ("1", "2")]
    assert len(marks) > 2 * 5, "each warning is numbered in the list and on the curves"


def test_runs_that_differ_in_their_seed_are_one_group_and_pretraining_is_judged(tmp_path: Path, run: Run) -> None:
    for seed, (ours, theirs) in enumerate([(0.41, 0.9), (0.4, 1.0), (0.42, 1.1)]):
        finetuning(tmp_path / f"asr-pretrained-{seed}", "asr", ours, TEXTS, f"runs/sm-{seed}", seed)
        finetuning(tmp_path / f"asr-scratch-{seed}", "asr", theirs, TEXTS, None, seed)
    groups = families(find_runs([tmp_path]))["Fine-tuning: asr"]
    assert [(group.name, len(group.runs)) for group in groups] == [("asr-pretrained", 3), ("asr-scratch", 3)]
    run(tmp_path, "--out", tmp_path / "all.html")
    text = " ".join(page_of(tmp_path / "all.html").texts)
    assert "Pretraining helped: word error rate 41.0 % (3 runs, 40.0 to 42.0) in asr-pretrained, 100.0 %" in text


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict"),
    [(0.3, 0.6, "Pretraining helped"), (0.7, 0.6, "Pretraining did harm"), (0.6, 0.6, "No clear effect")],
)
def test_the_verdict_follows_the_scores(tmp_path: Path, run: Run, ours: float, theirs: float, verdict: str) -> None:
    finetuning(tmp_path / "a", "asr", ours, TEXTS, "runs/sm")
    finetuning(tmp_path / "b", "asr", theirs, TEXTS)
    run(tmp_path, "--out", tmp_path / "r.html")
    text = " ".join(page_of(tmp_path / "r.html").texts)
    assert verdict in text and ("may be chance" in text) == (verdict != "No clear effect")


def test_scores_on_other_data_are_not_compared(tmp_path: Path, run: Run) -> None:
    finetuning(tmp_path / "a", "asr", 0.3, TEXTS, "runs/sm")
    other = finetuning(tmp_path / "b", "asr", 0.6, TEXTS)
    config = other / "config.yaml"
    config.write_text(config.read_text().replace("nowhere", "elsewhere"))
    run(tmp_path, "--out", tmp_path / "r.html")
    text = " ".join(page_of(tmp_path / "r.html").texts)
    assert "Pretraining" not in text and "a: word error rate 30.0 %." in text and "b: word error rate 60.0 %." in text


def test_words_that_differ_are_marked(tmp_path: Path, run: Run) -> None:
    run(finetuning(tmp_path / "asr", "asr", 0.5, TEXTS))
    html = (tmp_path / "asr/report.html").read_text()
    assert "<del>the</del> light <del>on</del> <ins>off</ins>" in html and "1 substituted, 1 deleted" in html
    assert "one <ins>two</ins> two three" in html or "one two <ins>two</ins> three" in html
    assert "gone/" in html and "is not there" in html, "audio that was moved is named"


ORDER = {"intent": "order", "text": None, "slots": []}
SLOTS = [(ORDER, ORDER), (ORDER, ORDER | {"intent": None}), (ORDER, ""), (ORDER | {"intent": "stop"}, ORDER)]


@pytest.mark.parametrize(
    ("task", "rows", "shown", "confused"),
    [("intent", LABELS, "7 of 10 correct (70.0%)", ["off", "on", "2", "up", "-", "1"]),
     ("slots", SLOTS, "1 of 4 correct (25.0%)", ["order", "-", "2", "stop", "order", "1"])],
)  # fmt: skip
def test_confusions_of_labels_and_of_intents(
    tmp_path: Path, run: Run, task: str, rows: list[Any], shown: str, confused: list[str]
) -> None:
    run(finetuning(tmp_path / "a", task, 0.7, rows))
    page = page_of(tmp_path / "a/report.html")
    assert shown in " ".join(page.texts)
    assert page.after("Most frequent confusions, a", 9)[3:] == confused


def test_hostile_text_stays_text(tmp_path: Path, run: Run) -> None:
    """In names of folders, data, warnings, labels, texts, speakers and configuration."""
    folder = tmp_path / HOSTILE.replace("/", "").replace("\x07", "")
    pretraining(folder / "pretrain", name=HOSTILE)
    lines(folder / "pretrain/warnings.jsonl", [{"update": 20, "name": HOSTILE, "text": HOSTILE}])
    finetuning(folder / f"asr {HOSTILE[:8]}", "asr", 0.5, [(HOSTILE, "x"), ("y", HOSTILE), ("z", "z")], HOSTILE)
    finetuning(folder / "intent", "intent", 0.5, [(HOSTILE, "x"), ("x", HOSTILE), ("$", "$")])
    assert run(folder, "--out", tmp_path / "r.html").code == 0
    page = page_of(tmp_path / "r.html")
    names = {name for name, _ in page.elements}
    assert not names & {"script", "iframe", "object", "link-x"} and "img" not in names
    assert not [attributes for _, attributes in page.elements if any(name.startswith("on") for name in attributes)]
    text = "".join(page.texts)
    assert "<script>alert(1)</script>" in text and "{{ 7*7 }}" in text and "&amp;" in text and "\x07" not in text
    assert "49" not in " ".join(page.after("training data"))


def damage(path: Path, kind: str) -> None:
    """Replace a file by something else."""
    if kind == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    elif kind == "bytes":
        path.write_bytes(bytes(range(256)) * 20)
    elif kind == "types":
        path.write_text('{"update": "x", "training": [], "test": 3, "data": [], "run": [1], "reference": {}}\n[1]\n')
    elif kind == "folder":
        path.unlink()
        path.mkdir()
    else:
        path.unlink()


FILES = ("config.yaml", "metrics.jsonl", "warnings.jsonl", "sessions.jsonl", "nonfinite.jsonl", "results.json",
         "test.jsonl", "hub/config.json", "hub/model.safetensors")  # fmt: skip
KINDS = ("cut", "bytes", "types", "folder", "missing")


def damaged(folder: Path, kind: str, files: Iterable[str]) -> Path:
    """A run directory with all kinds of files, some of them damaged."""
    pretraining(folder)
    finetuning(folder / "copy", "asr", 0.5, TEXTS)
    for name in ("results.json", "test.jsonl"):
        (folder / "copy" / name).rename(folder / name)
    (folder / "hub").mkdir()
    (folder / "hub/config.json").write_text(json.dumps({"training": {"data": "hours"}}))
    (folder / "hub/model.safetensors").write_bytes(b"not one")
    for name in files:
        damage(folder / name, kind)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_run_gives_a_page_of_what_is_there(tmp_path: Path, run: Run, kind: str) -> None:
    for name in FILES:
        found = RunFolder(damaged(tmp_path / name.replace("/", "-"), kind, [name]))
        assert kind != "bytes" or name == FILES[-1] or [problem for problem in found.problems if name in problem]
    folder = damaged(tmp_path / "all", kind, FILES[1:])
    assert run(folder).code == 0
    assert page_of(folder / "report.html").after("batch.update_s") == ["20.0"]


@pytest.mark.slow
def test_a_run_with_one_damaged_file_gives_a_page(tmp_path: Path, run: Run) -> None:
    """Each file in turn, of a run of either kind."""
    for name in FILES:
        folder = damaged(tmp_path / name.replace("/", "-"), "types", [name])
        assert run(folder).code == 0, name
        if name in ("results.json", "test.jsonl", "hub/config.json"):
            finetuning(folder / "other", "intent", 0.5, LABELS)
            (folder / "other/config.yaml").rename(folder / "config.yaml")
            assert run(folder).code == 0, name


def test_a_run_that_is_running(tmp_path: Path, run: Run) -> None:
    """Its lock is looked up, not taken: a run that starts meanwhile is not refused."""
    folder = pretraining(tmp_path / "small", updates=20)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"update": 30, "masked_lo')
    assert RunFolder(folder).state == "stopped at update 20 of 40"
    (folder / "config.yaml").rename(folder / "kept.yaml")
    held = open_directory(load_config(PretrainConfig, [f"run.dir={folder}"], ""), print)
    (folder / "kept.yaml").rename(folder / "config.yaml")
    assert RunFolder(folder).state == "running, at update 20 of 40" and not RunFolder(folder).problems
    held.close()
    assert not RunFolder(folder).is_running


def test_watching_ends_with_the_run(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = pretraining(tmp_path / "small", updates=20)
    left = [True, True, False]
    monkeypatch.setattr("tools.report.runs.RunFolder.is_running", property(lambda self: left[0]))
    monkeypatch.setattr(time, "sleep", lambda seconds: left.pop(0))
    done = run(folder, "--watch", "--every", "1")
    assert done.code == 0 and len(done.lines) == 3
    assert "reload" not in (folder / "report.html").read_text(), "the last page does not reload itself"


@pytest.mark.parametrize(
    ("words", "named"),
    [(["no-such-run"], "no-such-run"), (["."], "."), (["small", "--out", "r.pdf"], "--out r.pdf"),
     (["small", "--every", "0"], "--every 0")],
)  # fmt: skip
def test_bad_input_is_one_line(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, words: list[str], named: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if words[0] == "small":
        pretraining(tmp_path / "small")
    done = run(*words)
    assert (done.code, done.out) == (1, "") and named in done.err and done.err.count("\n") == 1
    assert not list(tmp_path.glob("**/*.html"))


def test_curves_are_thinned_to_their_means_and_extremes() -> None:
    updates, values = np.arange(1, 100_001), np.zeros(100_000)
    values[50_000] = 7.0
    at, means, low, high = thin(updates, values)
    assert len(at) == POINTS and at[-1] == 100_000 and high.max() == 7.0 and low.max() == 0.0
    assert means.sum() * 100_000 / POINTS == pytest.approx(7.0, rel=0.01)
    assert len(thin(updates[:5], np.array([1, np.nan, 2, np.inf, 3]))[0]) == 3


def test_a_published_card_shows_pictures(tmp_path: Path) -> None:
    """Of a run's own model, again and again; a model without its run has none."""
    run_dir = finetuning(tmp_path / "intent", "intent", 0.7, LABELS)
    save_folder(recogniser(), run_dir / "hub", {"metrics": {"accuracy": 0.7}})
    config = read_config(run_dir / "hub")
    for _ in range(2):
        to_folder(run_dir / "hub", config, str(tmp_path / "out"))
    card = (tmp_path / "out/README.md").read_text()
    shown = re.findall(r"!\[([^\]]+)\]\(([\w.]+)\)", card)
    assert [name for _, name in shown] == ["loss.png", "score.png", "confusions.png"]
    assert "data.valid 70.0 %" in shown[1][0] and "7 of 10 correct" in shown[2][0]
    assert all((tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG") for _, name in shown)
    to_folder(tmp_path / "out", config, str(tmp_path / "copy"))
    assert "![" not in (tmp_path / "copy/README.md").read_text()


@pytest.mark.slow
def test_a_run_of_300_000_updates_that_logged_each(tmp_path: Path, run: Run) -> None:
    folder = pretraining(tmp_path / "long", of=300_000)
    row = (folder / "metrics.jsonl").read_text().splitlines()[0].replace('"update": 10', '"update": %d')
    with (folder / "metrics.jsonl").open("w") as file:
        file.writelines(f"{row % update}\n" for update in range(1, 300_001))
    lines(
        folder / "warnings.jsonl", ({"update": 10 * n, "name": f"kind-{n % 7}", "text": "x" * 300} for n in range(3000))
    )
    began = time.process_time()
    assert run(folder).code == 0
    assert time.process_time() - began < 20 and (folder / "report.html").stat().st_size < 3e6
    assert page_of(folder / "report.html").after("updates") == ["300,000 of 300000"]
