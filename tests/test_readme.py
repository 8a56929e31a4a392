"""Every command of the README runs, at the tiny size, in the order it stands there; so does every config it lists."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from finetune.config import FinetuneConfig
from mixvec import SIZES, build_encoder
from mixvec.training.config import load_config
from pretrain.config import PretrainConfig
from tests.runs import ROOT, SMALLEST

README = (ROOT / "README.md").read_text()
TINY_PRETRAIN = ["size=tiny", *SMALLEST, "run.updates=2", "run.log_every=1", "batch.update_s=10", "batch.max_s=10",
                 "data.min_s=1", "data.max_s=5", "data.workers=0", "encoder.layer_drop=0"]  # fmt: skip
FINE_TUNING = ("asr", "intent", "slots")
TINY_FINETUNE = ["run.updates=2", "run.eval_every=2", "run.log_every=1", "batch.update_s=10", "data.workers=0"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> Iterator[str]:
    for block in blocks("bash"):
        lines = block.replace("\\\n", " ").splitlines()
        yield from (line.split(" #")[0].strip() for line in lines if line.strip())


def test_the_readme_has_the_commands_that_matter() -> None:
    words = [command.split()[0] for command in commands()]
    assert {"make", "python", "mixvec", "torchrun"} <= set(words)


def test_every_command_runs(corpus: Path, tmp_path: Path) -> None:
    """All but make's, which CI itself calls, and the bench's, which test_bench.py runs; real corpora and sizes are
    exchanged for tiny ones."""
    for name in ("configs", "pretrain", "finetune", "tools", "mixvec"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copy(next((corpus / "asr/test/audio").iterdir()), tmp_path / "speech.flac")
    ran = 0
    for command in commands():
        if command.startswith("make"):
            target = command.split()[1]
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), command
            continue
        if "tools.bench" in command:
            assert command == "python -m tools.bench --preset smoke", "tests/tools/test_bench.py runs another"
            continue
        done = subprocess.run(
            tiny(command, corpus), cwd=tmp_path, capture_output=True, text=True, timeout=300,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        ran += 1
    assert ran >= 7
    check = "".join(block for block in blocks("python")).replace("speech.wav", "speech.flac")
    done = subprocess.run(
        [sys.executable, "-c", check + "\nassert frames.shape[-1] == 32"], cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_commands_that_take_an_hour_have_keys_that_exist(tmp_path: Path) -> None:
    """The shell runs them with a python that writes down what it is asked; the configurations then take the keys."""
    stand_in, asked = tmp_path / "python", tmp_path / "asked.jsonl"
    note = f"open({str(asked)!r}, 'a').write(json.dumps(sys.argv[1:]) + '\\n')"
    stand_in.write_text(f"#!{sys.executable}\nimport json, sys\n{note}\n")
    stand_in.chmod(0o755)
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    subprocess.run(["bash", "-euc", "\n".join(blocks("sh"))], env=os.environ | {"PATH": path}, check=True)
    modules = []
    for words in map(json.loads, asked.read_text().splitlines()):
        modules.append(words[1])
        keys = [word for word in words if "=" in word]
        if words[1] == "pretrain":
            load_config(PretrainConfig, [str(ROOT / words[2]), *keys], "")
            continue
        assert words[1] in ("tools.probe", "tools.decode")
        task = words[words.index("--tasks") + 1] if "--tasks" in words else "asr"
        folder = "configs" if "--finetune" in words or words[1] == "tools.decode" else "configs/probe"
        load_config(FinetuneConfig, [str(ROOT / folder / f"{task}.yaml"), "pretrained=runs/sm-0", *keys], "")
    assert len(modules) == 11 and set(modules) == {"pretrain", "tools.probe", "tools.decode"}


def tiny(command: str, corpus: Path) -> list[str]:
    """The command as it stands, with this corpus's paths, and keys that make it short."""
    task = "intent" if "intent" in command else "asr"
    for name, path in (
        ("AUDIO", corpus / "unlabelled"),
        ("LABELLED", corpus / task),
        ("DATA", corpus),
        ("speech.wav", "speech.flac"),
    ):
        command = command.replace(name, str(path))
    words = shlex.split(command)
    if "pretrain" in words:
        words += [
            key
            for key in TINY_PRETRAIN
            if not (key == "size=tiny" and any(w.startswith("encoder.kind") for w in words))
        ]
    if "finetune" in words:
        words += TINY_FINETUNE + ([*SMALLEST] if any(w.startswith("size=") for w in words) else [])
    if words[0] == "torchrun":
        return [sys.executable, "-m", "torch.distributed.run", "--standalone", *words[1:]]
    if words[0] == "mixvec":
        return [sys.executable, "-m", "mixvec", *words[1:]]
    return [sys.executable, *words[1:]]


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_every_pretraining_config_is_in_the_table_and_builds(path: Path) -> None:
    """Builds at its own block kind, front end and objective; at width 32, since `large` takes gigabytes."""
    if path.stem in FINE_TUNING:
        return
    from pretrain.objectives.contrastive import MaskedPrediction

    config = load_config(PretrainConfig, [str(path)], "")
    assert config.size in SIZES
    assert f"`{path.name}`" in README
    small = load_config(PretrainConfig, [str(path), *SMALLEST], "")
    assert MaskedPrediction(small.encoder, small.objective).encoder.config.kind == config.encoder.kind


@pytest.mark.parametrize("size", SIZES)
def test_the_table_states_each_size_s_parameters(size: str) -> None:
    """Counted at full size on the meta device, which holds no numbers."""
    with torch.device("meta"):
        parameters = sum(p.numel() for p in build_encoder(SIZES[size]).parameters())
    (row,) = re.findall(rf"^\| `{size}.yaml` .*", README, re.MULTILINE)
    assert f"| {parameters / 1e6:.1f} M" in row


@pytest.mark.parametrize("name", FINE_TUNING)
def test_every_fine_tuning_config_loads(name: str) -> None:
    assert load_config(FinetuneConfig, [str(ROOT / f"configs/{name}.yaml"), "size=tiny"], "").task == name
