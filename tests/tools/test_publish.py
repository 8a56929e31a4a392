"""Publishing to a folder: whole or not at all, and only what works when loaded back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mixvec.hub import required_files, save_folder
from tests.commands import Run, card_parts, contents
from tests.tiny_models import classifier, encoder
from tools import publish, verify


def test_to_a_folder(run: Run, run_dir: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / "asr"
    done = run(run_dir, "--to", target, "--licence", "CC-BY-4.0", "--language", "no")
    assert done.code == 0, done.err
    assert f"published: {target}" in done.lines and f"    mixvec transcribe --model {target} speech.wav" in done.lines
    assert (
        sum(line.startswith("with ") for line in done.lines) == 4
        and "    from transformers import pipeline" in done.lines
    )
    assert set(contents(target)) == set(required_files(json.loads((target / "config.json").read_text()))) and [
        path.name for path in target.parent.iterdir()
    ] == ["asr"]
    front, body = card_parts((target / "README.md").read_bytes())
    assert (front["license"], front["language"]) == ("cc-by-4.0", "no")
    assert f'from_pretrained("{target}")' in body and f"--model {target} " in body and "| wer | 25 % |" in body
    ours, theirs = verify.outputs(run_dir / "hub"), verify.outputs(target)
    assert all(map(torch.equal, ours, theirs)) and len(ours) == len(theirs) == 2
    save_folder(encoder(), tmp_path / "encoder")
    assert "    frames, lengths, layers = model(waveform)" in run(tmp_path / "encoder", "--to", tmp_path / "copy").lines


def test_other_outputs_are_refused_and_the_target_is_unchanged(
    run: Run, run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out"
    save_folder(classifier(), target)
    before, honest = contents(target), publish.stage

    def stage(source: Path, folder: Path, config: dict[str, object], name: str) -> None:
        honest(source, folder, config, name)
        tensors = load_file(folder / "model.safetensors")
        tensors["output.bias"][0] += 1e-3
        save_file(tensors, folder / "model.safetensors")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"sha256": {}}))

    monkeypatch.setattr(publish, "stage", stage)
    done = run(run_dir, "--to", target)
    assert done.code == 1 and "other outputs" in done.err
    assert contents(target) == before and sorted(p.name for p in tmp_path.iterdir()) == ["out", "run"]


def test_a_diverged_model_is_refused(run: Run, tmp_path: Path) -> None:
    model = encoder()
    model.norm.weight.data[0] = torch.nan
    save_folder(model, tmp_path / "m")
    done = run(tmp_path / "m", "--to", tmp_path / "out")
    assert done.code == 1 and "not finite" in done.err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["README.md", "config.json", "model.safetensors", "vocab.json"])
def test_an_incomplete_folder_is_refused(run: Run, run_dir: Path, tmp_path: Path, name: str) -> None:
    (run_dir / "hub" / name).unlink()
    done = run(run_dir, "--to", tmp_path / "out")
    (line,) = done.err.splitlines()
    assert done.code == 1 and name in line and str(run_dir) in line and not (tmp_path / "out").exists()


def test_a_model_takes_a_models_place(run: Run, run_dir: Path, tmp_path: Path) -> None:
    save_folder(classifier(), tmp_path / "out")
    assert run(run_dir, "--to", tmp_path / "out").code == 0
    assert "labels.json" not in contents(tmp_path / "out") and "vocab.json" in contents(tmp_path / "out")
    first = contents(tmp_path / "out")
    assert run(tmp_path / "out", "--to", tmp_path / "out").code == 0  # in its own place, a published one again
    assert contents(tmp_path / "out") == first


def test_nothing_else_is_ever_replaced(run: Run, run_dir: Path, tmp_path: Path) -> None:
    home, model = tmp_path / "home", tmp_path / "model"
    home.mkdir()
    (home / "thesis.tex").write_text("years of work")
    save_folder(encoder(), model)
    (model / ".git").mkdir()
    assert "holds files and no mixvec model" in run(run_dir, "--to", home).err
    assert "thesis.tex: " in run(run_dir, "--to", home / "thesis.tex").err
    assert ".git would be lost" in run(run_dir, "--to", model).err
    assert "holds files and no mixvec model" in run(run_dir, "--to", run_dir).err
    assert contents(home) == {"thesis.tex": b"years of work"} and (model / ".git").is_dir()
    (tmp_path / "fresh").mkdir()
    assert run(run_dir, "--to", tmp_path / "fresh").code == 0


@pytest.mark.parametrize("step", ["stage", "check", "fsync"])
def test_an_interrupt_leaves_the_target(
    run: Run, run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    save_folder(classifier(), tmp_path / "out")
    before = contents(tmp_path / "out")

    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr({"fsync": "os.fsync"}.get(step, f"tools.publish.{step}"), interrupt)
    done = run(run_dir, "--to", tmp_path / "out")
    assert (done.code, done.err) == (130, "interrupted\n")
    assert contents(tmp_path / "out") == before and sorted(p.name for p in tmp_path.iterdir()) == ["out", "run"]


def test_folder_or_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there" / "model").mkdir(parents=True)
    folders = ["there", "there/model", "there/new", "new", "a/b/c", "./a/b", "/a/b", "~/b", "../b", "a/b/"]
    assert [target for target in folders if not publish.is_folder(target)] == []
    assert [target for target in ("org/name", "nowhere/model") if publish.is_folder(target)] == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--to", "./out", "--private"], "--private"),
        (["--to", "./out", "--licence", "do what you like"], "--licence"),
        (["--to", "./out", "--language", "English!"], "--language"),
        (["--to", "org/na..me"], "org/na..me: "),
    ],
)
def test_wrong_words(run: Run, run_dir: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str) -> None:
    monkeypatch.chdir(run_dir.parent)
    done = run("run", *words)
    assert done.code == 1 and message in done.err and "\n" not in done.err.strip().replace(publish.RULE, "")
    assert not Path("out").exists()


def test_a_wrong_run_and_the_help(run: Run, tmp_path: Path) -> None:
    assert "nowhere: no such run directory" in run(tmp_path / "nowhere", "--to", tmp_path / "out").err
    assert "not a model folder" in run(tmp_path, "--to", tmp_path / "out").err
    shown = run("--help").out
    assert publish.RULE in shown and "--private" in shown and "--licence" in shown
