"""Publishing cut off where nothing can be cleared away: killed, or the hub gone for good. And where the token goes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mixvec import UserError
from mixvec.hub import load_model, save_folder
from tests import prepared
from tests.commands import Run, contents
from tests.hub_server import HubServer
from tests.runs import ROOT, finetune, pretrain
from tests.tiny_models import TOKEN, classifier

PUBLISH = """
import os, signal, sys
from mixvec.errors import run_cli
from tools import publish
publish.check = lambda *_: {check}
run_cli(publish.main)
"""
"""With something else instead of the check: all files are written by then, and none is in its place yet."""


@pytest.mark.slow
def test_a_kill_leaves_the_folder_and_the_next_one_clears_up(run: Run, run_dir: Path, tmp_path: Path) -> None:
    target = tmp_path / "place" / "out"
    save_folder(classifier(), target)
    before = contents(target)
    code = PUBLISH.format(check="os.kill(os.getpid(), signal.SIGKILL)")
    done = prepared.run(["-c", code, str(run_dir), "--to", str(target)])
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert contents(target) == before
    (left,) = [path.name for path in target.parent.iterdir() if path != target]
    assert left.startswith(".out.new-"), "what is not whole is hidden"
    assert run(run_dir, "--to", target).code == 0
    assert [path.name for path in target.parent.iterdir()] == ["out"]
    assert "vocab.json" in contents(target)


@pytest.mark.slow
@pytest.mark.parametrize("step", ["PUT /lfs/", "POST /api/models/org/asr/commit"])
def test_an_upload_that_is_killed_is_completed_by_the_next(
    run: Run, taken: HubServer, run_dir: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Killed while the hub has its request; what the hub holds already is not sent again."""
    before, honest, victims = taken.files("org/asr"), taken.fault, []

    def fault(request: str) -> str | None:
        if request.startswith(step) and victims:
            victims.pop().kill()
            return "drop"
        return honest(request)

    monkeypatch.setattr(taken, "fault", fault)
    words = [sys.executable, "-c", PUBLISH.format(check=None), str(run_dir), "--to", "org/asr"]
    victims.append(subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    (victim,) = victims
    output, _ = victim.communicate(timeout=120)
    assert victim.returncode == -signal.SIGKILL, output
    assert TOKEN not in output and taken.files("org/asr") == before
    taken.log.clear()
    assert run(run_dir, "--to", "org/asr").code == 0
    assert sum(request.startswith("PUT") for request in taken.log) == (1 if step.startswith("PUT") else 0)
    assert len(taken.titles("org/asr")) == 2
    again = load_model("org/asr").state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in load_model(run_dir).state_dict().items())


@pytest.mark.slow
def test_the_token_goes_to_the_hub_and_nowhere_else(
    run: Run, taken: HubServer, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All that a pretraining, a fine-tuning and a publishing write and say, with a token in the environment."""
    assert os.environ["HF_TOKEN"] == TOKEN
    work, short = tmp_path / "work", ("run.updates=2", "run.save_every=1")
    assert pretrain(corpus, work / "pretrain", *short) == 0
    assert finetune("asr", corpus, work / "asr", f"pretrained={work}/pretrain", *short) == 0
    with pytest.raises(UserError) as refused:
        finetune("asr", corpus, work / "other", "pretrained=org/nowhere", *short)
    written = str(refused.value) + "".join(capsys.readouterr())
    for target in ("org/asr", f"{work}/published"):
        assert (
            run(work / "asr", "--to", target, "--licence", "mit", "--language", "en").code == 0
        )  # ``run`` looks at what it says
    files = [path for path in work.rglob("*") if path.is_file()]
    assert {work / "asr/config.yaml", work / "published/README.md"} < set(files)
    assert TOKEN not in written
    assert [path for path in files if TOKEN.encode() in path.read_bytes()] == []
    assert not any(TOKEN.encode() in content for content in taken.files("org/asr").values())
