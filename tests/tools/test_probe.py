"""tools.probe: what is probed, one table for all, done once; a bad corpus ends nothing but itself."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from finetune.config import TASKS, FinetuneConfig
from finetune.tasks.slots import pairs_of, slot_scores
from finetune.train import train
from mixvec import SpeechEncoder, UserError
from mixvec.hub import load_encoder
from mixvec.training.config import load_config
from tests.commands import Result, in_process
from tests.runs import fresh, written
from tests.tiny_models import encoder, write_wav
from tools.probe import __main__ as command
from tools.probe import jobs, table
from tools.probe.jobs import Job, Probe, find_probes, models_of

BRIEF = ("run.updates=2", "run.eval_every=2", "run.log_every=1", "head.width=16", "data.workers=0",
         "run.precision=fp32", "batch.update_s=10", "speaker.embedding=8")  # fmt: skip


def split(folder: Path, rows: list[dict[str, Any]]) -> None:
    """An audiofolder with noise for audio."""
    for number, row in enumerate(rows):
        write_wav(folder / f"{number}.wav", 0.4)
        row["file_name"] = f"{number}.wav"
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """words: texts, intents, two speakers and a word that no key is for. odd: its test labels are others. broken: names
    audio that is not there. bare: no train split."""
    root = tmp_path_factory.mktemp("data")
    words = [{"text": f"say {w}", "intent": w, "speaker": s, "word": w[0], "emotion": None, "language": "en",
              "slots": {"state": w}}
             for w in ("on", "up") for s in ("ann", "bob")]  # fmt: skip
    for name in ("train", "validation", "test"):
        split(root / "words" / name, [dict(row) for row in words])
    split(root / "odd/train", [{"intent": "a"}, {"intent": "b"}])
    split(root / "odd/test", [{"intent": "c"}, {"intent": "d"}])
    split(root / "broken/train", [{"intent": "a"}, {"intent": "b"}])
    (root / "broken/train/1.wav").unlink()
    split(root / "broken/test", [{"intent": "a"}, {"intent": "b"}])
    split(root / "bare/test", [{"intent": "a"}])
    return root


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Runs of ``python -m finetune`` in this process."""
    seen: list[list[str]] = []

    def here(words: list[str], log: Path) -> str | None:
        fresh()
        seen.append(words)
        try:
            with written():
                return str(code) if (code := train(load_config(FinetuneConfig, words, ""))) else None
        except UserError as error:
            return str(error)

    monkeypatch.setattr(jobs, "launch", here)
    return seen


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    called = in_process(lambda: command.run_cli(command.main), monkeypatch, capsys)
    return lambda *words: called(*words)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = encoder()
    assert isinstance(made, SpeechEncoder)
    run = tmp_path_factory.mktemp("models") / "small"
    made.save_pretrained(run / "hub")
    return run


def test_labels_decide(data: Path) -> None:
    probes, left_out = find_probes(data, list(TASKS))
    assert {p[:2] for p in probes} == {
        ("odd", "intent"),
        *(("words", t) for t in ("asr", "intent", "slots", "speaker")),
    }
    assert [line.split(":")[0] for line in left_out] == ["bare", "broken"] and "1.wav" in left_out[1]
    assert [p[:2] for p in find_probes(data, list(TASKS), ("odd",))[0]] == [("odd", "intent")]
    (slots,) = find_probes(data, ["slots"])[0]
    assert slots.keys == (f"data.train={data}/words/train", f"data.test={data}/words/test",
                          f"data.valid={data}/words/validation")  # fmt: skip
    for folder, tasks, only, named in ((data, TASKS, ("odd", "even"), "--corpora even"),
                                       (data, ("emotion",), (), "--data .*emotion"),
                                       (data / "bare", TASKS, (), "--data .*bare")):  # fmt: skip
        with pytest.raises(UserError, match=named):
            find_probes(folder, list(tasks), only)


@pytest.mark.slow
def test_all_probes_in_one_table_and_each_is_done_once(
    data: Path, model: Path, tmp_path: Path, launched: list[list[str]], probe: Callable[..., Result]
) -> None:
    words = (model, "--data", data, "--out", tmp_path / "out", "--baselines", "log-mel", *BRIEF,
             f"cache.dir={tmp_path / 'cache'}", "--tasks", "asr,intent,speaker")  # fmt: skip
    done = probe(*words)
    assert done.code == 1 and "error: 2 of 8 probes failed; the same command tries these again" in done.err
    assert len(launched) == 8
    entries = json.loads((tmp_path / "out/probes.json").read_text())
    good = [entry for entry in entries if "error" not in entry]
    assert {(e["task"], e["model"]) for e in good} == {
        (t, m) for t in ("asr", "intent", "speaker") for m in ("small", "log-mel")}  # fmt: skip
    assert all(e["low"] <= e["value"] <= e["high"] and e["utterances"] == 4 for e in good)
    (weights,) = {len(e["layer_weights"]) for e in good if e["model"] == "small"}
    assert weights == 3 and all(sum(e["layer_weights"]) == pytest.approx(1) for e in good)
    text = (tmp_path / "out/probes.md").read_text()
    assert text in done.out and "| corpus | task | score | utterances | small | log-mel |" in text
    assert "| odd | intent | accuracy ↑ |  | failed (1) | failed (2) |" in text
    assert "1. small, odd intent: data.test: none of its labels is in the training data" in text
    assert "- left out: broken:" in text and "    python -m tools.probe " in text
    before = {e["run"]: e for e in good}
    assert probe(*words).code == 1 and len(launched) == 10, "only what failed is tried again"
    again = [entry for entry in json.loads((tmp_path / "out/probes.json").read_text()) if "error" not in entry]
    assert {e["run"]: e for e in again} == before
    other = probe(*words, "--tasks", "intent", "optim.lr=1e-2")
    assert "holds a run with other settings: optim.lr (0.0001 → 0.01)" in other.out and other.code == 1


@pytest.mark.slow
def test_seeds_and_whole_models(
    data: Path, model: Path, tmp_path: Path, launched: list[list[str]], probe: Callable[..., Result]
) -> None:
    for seed in (0, 1):
        shutil.copytree(model, tmp_path / f"own-{seed}")
    words = (tmp_path / "own-{seed}", "--data", data, "--out", tmp_path / "out", "--baselines", "scratch", "--seeds", 2,
             "--finetune", "--tasks", "slots,speaker", "--corpora", "words", *BRIEF)  # fmt: skip
    assert probe(*words).code == 0
    whole = [dict(word.split("=", 1) for word in run[1:]) for run in launched]
    found = [(w["pretrained"][-5:], w.get("baseline"), w.get("run.seed"), w["run.dir"].split("out/")[1]) for w in whole]
    assert found == [
        (f"own-{seed}", baseline, "1" if seed else None, f"{name}/words-slots{'-1' if seed else ''}")
        for name, baseline in (("own", None), ("scratch", "scratch")) for seed in (0, 1)
    ]  # fmt: skip
    assert {run[0].split("configs/")[1] for run in launched} == {"slots.yaml"}
    entries = json.loads((tmp_path / "out/probes.json").read_text())
    assert len(entries) == 2
    for entry in entries:
        runs_of = [json.loads((Path(entry["run"] + suffix) / "results.json").read_text()) for suffix in ("", "-1")]
        assert entry["values"] == [found["test"][entry["metric"]] for found in runs_of]
        assert entry["value"] == pytest.approx(sum(entry["values"]) / 2)
        assert entry["low"] <= entry["value"] <= entry["high"]
    own, other = (entries[0], entries[1])
    assert (own["model"], own["difference"], other["model"]) == ("own", None, "scratch")
    less = other["difference"]
    assert less["value"] == pytest.approx(other["value"] - own["value"]) and less["seeds"] == 2
    text = (tmp_path / "out/probes.md").read_text()
    assert f"| words | slots | slu_f1 ↑ | {less['value']:+.3f} [{less['low']:+.3f}, {less['high']:+.3f}] |" in text
    assert "| corpus | task | higher than own by | scratch |" in text
    assert "The mean of 2 seeds; in brackets 95 %" in text
    assert "- left out: speaker: no configuration trains its encoder" in text
    changed = [load_encoder(tmp_path / f"out/{name}/words-slots").state_dict() for name in ("own", "scratch")]
    first = load_encoder(model).state_dict()
    near = [sum(float((own[name] - first[name]).abs().sum()) for name in first) for own in changed]
    assert 0 < near[0] < 0.1 * near[1], "scratch does not start where the pretrained one does"


def test_models_and_their_names(tmp_path: Path) -> None:
    made = models_of(["runs/a", "runs/b/hub", "old/a", "runs/a-{seed}"], ["log-mel", "random"])
    assert list(made) == ["a", "b", "a#2", "a#3", "log-mel", "random"]
    assert made["log-mel"] == ("baseline=log-mel",) and made["random"] == ("pretrained=runs/a", "baseline=random")


def interval(metric: str, rows: list[dict[str, Any]]) -> tuple[float, float]:
    found = table.summary([0.0], [table.resampled_scores(metric, rows)])
    return found["low"], found["high"]


def test_intervals_are_those_of_resampled_scores() -> None:
    rng = np.random.default_rng(1)
    rows = [{"reference": "a", "prediction": "ab"[rng.random() < 0.3]} for _ in range(200)]
    share = sum(row["prediction"] == "a" for row in rows) / 200
    low, high = interval("accuracy", rows)
    wide = 1.96 * (share * (1 - share) / 200) ** 0.5
    assert low == pytest.approx(share - wide, abs=0.02) and high == pytest.approx(share + wide, abs=0.02)
    two = [row | {"speaker": "ann" if number < 100 else "bob"} for number, row in enumerate(rows)]
    own = [sum(r["prediction"] == "a" for r in half) / 100 for half in (rows[:100], rows[100:])]
    assert interval("accuracy", two) == (pytest.approx(min(own)), pytest.approx(max(own)))
    texts = [{"reference": "a b c", "prediction": "a x c d"}, {"reference": "a", "prediction": ""}]
    assert table._parts("wer", texts).tolist() == [[2, 3], [1, 1]]
    assert interval("wer", texts) == (pytest.approx(2 / 3), pytest.approx(1.0))
    apart = table.summary([0.25, 0.75], [np.full(1000, 0.25), np.full(1000, 0.75)])
    assert apart == {"value": 0.5, "low": 0.25, "high": 0.75}, "seeds are drawn again too"
    predicted = [{"slots": [{"type": "a", "value": "on"}]}, {"slots": [{"type": "b", "value": "x"}]}, None]
    slots = [{"reference": {"slots": [{"type": "a", "value": value}]}, "prediction": prediction}
             for value, prediction in zip(("on", "up", "up"), predicted, strict=True)]  # fmt: skip
    parts = table._parts("slu_f1", slots)
    both = [[row["reference"] for row in slots], [row["prediction"] or {"slots": []} for row in slots]]
    assert parts[:, 0].sum() / parts[:, 1].sum() == pytest.approx(slot_scores(pairs_of(*both))["slu_f1"])


def complete(job: Job, wrong: np.ndarray) -> None:
    """The files of a job that is done, with these utterances wrong."""
    rows = [{"source": str(n), "reference": "x", "prediction": "xy"[int(w)]} for n, w in enumerate(wrong)]
    (job.folder / "hub").mkdir(parents=True)
    save_file({"a": np.zeros(1)}, job.folder / "hub/model.safetensors")
    (job.folder / "probe.json").write_text(json.dumps({"words": job.words}))
    (job.folder / "results.json").write_text(json.dumps({"test": {"accuracy": 1 - wrong.mean()}}))
    (job.folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_two_models_are_compared_in_pairs(tmp_path: Path) -> None:
    """Both find the same utterances hard, so the difference is surer than either score."""
    rng, probe = np.random.default_rng(1), Probe("words", "intent", ())
    hard = rng.random(400) < 0.4
    a, b, c = (Job(name, (), probe, tmp_path / name) for name in "abc")
    for job, wrong in ((a, hard), (b, hard | (rng.random(400) < 0.05)), (c, hard[1:])):
        complete(job, wrong)
    found = table.entry([b], [], [a])
    less = found["difference"]
    assert less["from"] == "a" and less["seeds"] == 1 and less["low"] < less["value"] < less["high"] < 0
    assert less["high"] - less["low"] < 0.5 * (found["high"] - found["low"])
    assert table.entry([c], [], [a])["difference"] is None, "other test data"
    assert table.entry([b], [], [])["difference"] is None


def test_a_failure_is_in_the_row_of_its_score(tmp_path: Path) -> None:
    asr = Probe("words", "asr", ())
    for keys, metric in (((), "wer"), (("best_by=wer", "best_by=cer"), "cer")):
        found = table.entry([Job("a", (), asr, tmp_path / "a", keys)], ["no disk"], [])
        assert (found["metric"], found["lower_is_better"], found["error"]) == (metric, True, "no disk")
    assert table.metric_of(Job("a", (), Probe("words", "intent", ()), tmp_path, ("best_by=cer",))) == "accuracy"


def test_what_it_cannot_do_is_one_line(data: Path, model: Path, probe: Callable[..., Result]) -> None:
    for words, named in (
        ((model, "--data", "/nowhere"), "--data /nowhere"),
        ((model, "--data", data, "--baselines", "noise"), "--baselines noise: .*scratch"),
        ((model, "--data", data, "--tasks", "poetry"), "--tasks poetry: .*slots"),
        (("run.updates=3", "--data", data), "name a model"),
        ((model, "--data", data, "--seeds", 0), "--seeds 0"),
    ):
        done = probe(*words)
        assert done.code == 1 and re.match(f"error: {named}", done.err), done.err


@pytest.mark.slow
def test_the_command_that_is_launched(data: Path, tmp_path: Path) -> None:
    probes, _ = find_probes(data, list(TASKS))
    job = Job("x", ("pretrained=x",), probes[0], tmp_path / "run", ("run.updates=3",))
    assert job.words[0].endswith(f"configs/probe/{probes[0].task}.yaml") and job.words[-1] == f"run.dir={tmp_path}/run"
    assert not job.is_done
    assert str(jobs.launch(["nothing.yaml"], tmp_path / "log")).startswith("nothing.yaml: ")
    shutil.rmtree(tmp_path)
