"""Publishing to a hub on loopback with the real client: in one commit, verified, through faults, never half."""

from __future__ import annotations

import _thread
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from mixvec.folder import FILES as FOLDER
from mixvec.folder import code_files
from mixvec.hub import load_model
from tests.commands import Run, card_parts
from tests.hub_server import HubServer
from tests.hub_store import Answer, Request

FILES = {*FOLDER, "vocab.json", "tokenizer_config.json", *code_files()}


def test_there_and_back(run: Run, hub: HubServer, run_dir: Path) -> None:
    done = run(run_dir, "--to", "org/asr", "--private", "--licence", "cc-by-4.0", "--language", "en")
    assert done.code == 0, done.err
    assert "to the hub as org/asr" in done.out and "    mixvec transcribe --model org/asr speech.wav" in done.out
    assert len(hub.titles("org/asr")) == 1 and hub.repos["org/asr"].private
    assert f"{hub.url}/org/asr (commit {hub.repos['org/asr'].commits[-1].oid})" in done.out
    files = hub.files("org/asr")
    assert set(files) == FILES
    assert files["model.safetensors"] == (run_dir / "hub" / "model.safetensors").read_bytes()
    front, body = card_parts(files["README.md"])
    assert front["license"] == "cc-by-4.0" and 'from_pretrained("org/asr")' in body
    again = load_model("org/asr").state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in load_model(run_dir).state_dict().items())


def test_again(run: Run, hub: HubServer, run_dir: Path) -> None:
    assert [run(run_dir, "--to", "org/asr").code for _ in range(2)] == [0, 0]
    assert len(hub.titles("org/asr")) == 1, "nothing new, no commit"
    done = run(run_dir, "--to", "org/asr", "--private")
    assert done.code == 1 and "org/asr: is public on the hub already" in done.err
    assert not hub.repos["org/asr"].private and len(hub.titles("org/asr")) == 1


STEPS = {
    "create": "POST /api/repos/create",
    "preupload": "POST /api/models/org/asr/preupload",
    "batch": "POST /org/asr.git/info/lfs/objects/batch",
    "put": "PUT /lfs/",
    "verify": "POST /lfs/verify",
    "commit": "POST /api/models/org/asr/commit",
    "info": "GET /api/models/org/asr/revision",
    "download": "GET /org/asr/resolve/.*safetensors",
}


FAULTS = [("503", step) for step in STEPS] + [("cut", step) for step in STEPS] + [("429", "commit"), ("drop", "create"),
          ("drop", "put"), ("drop", "commit"), ("drop", "download")]  # fmt: skip


@pytest.mark.parametrize(("fault", "step"), FAULTS)
def test_one_fault_does_no_harm(
    run: Run, hub: HubServer, run_dir: Path, monkeypatch: pytest.MonkeyPatch, step: str, fault: str
) -> None:
    """cut: the hub does what it was asked and the answer is lost; a commit must not be made twice."""
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    hub.faults.append([STEPS[step], 1, fault])
    done = run(run_dir, "--to", "org/asr")
    assert done.code == 0, done.err
    assert hub.faults[0][1] == 0, "the fault was met"
    assert len(hub.titles("org/asr")) == 1 and set(hub.files("org/asr")) == FILES


def test_a_hub_that_stays_down(run: Run, taken: HubServer, run_dir: Path) -> None:
    before = taken.files("org/asr")
    taken.faults.append([STEPS["commit"], 99, "503"])
    done = run(run_dir, "--to", "org/asr")
    assert done.code == 1 and taken.faults[0][1] == 95
    assert "503" in done.err.splitlines()[-1] and done.err.count("\n") == 4 and taken.files("org/asr") == before


@pytest.mark.parametrize(
    ("step", "status", "named"),
    [("create", "401", "HF_TOKEN"), ("create", "404", "organisation"), ("preupload", "403", "may not write"),
     ("commit", "400", "400")],
)  # fmt: skip
def test_a_refusal_is_not_tried_again(
    run: Run, hub: HubServer, run_dir: Path, step: str, status: str, named: str
) -> None:
    hub.faults.append([STEPS[step], 99, status])
    done = run(run_dir, "--to", "org/asr")
    (line,) = done.err.splitlines()
    assert done.code == 1 and line.startswith("error: org/asr: ") and named in line
    assert "org/asr" not in hub.repos or hub.titles("org/asr") == []


@pytest.mark.parametrize("token", [None, "hf_wrong"])
def test_without_a_valid_token(
    run: Run, hub: HubServer, run_dir: Path, monkeypatch: pytest.MonkeyPatch, token: str | None
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    done = run(run_dir, "--to", "org/asr")
    (line,) = done.err.splitlines()
    assert done.code == 1 and "log in with `hf auth login`" in line and "hf_wrong" not in line and not hub.repos


def test_without_a_network(run: Run, hub: HubServer, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    done = run(run_dir, "--to", "org/asr")
    assert done.code == 1 and "http://127.0.0.1:9 cannot be reached" in done.err.splitlines()[-1]


def test_a_corrupted_download_is_seen(run: Run, hub: HubServer, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the same size, which the hub client takes for good."""
    honest = hub.answer

    def corrupt(request: Request) -> Answer:
        answer = honest(request)
        if "/resolve/" in request.path and request.path.endswith("preprocessor_config.json"):
            answer.body = answer.body[:-3] + b" " + answer.body[-2:]
        return answer

    monkeypatch.setattr(hub, "answer", corrupt)
    done = run(run_dir, "--to", "org/asr")
    commit = hub.repos["org/asr"].commits[-1].oid
    assert done.code == 1 and "published" not in done.out
    assert commit in done.err and "preprocessor_config.json" in done.err


@pytest.mark.parametrize("step", ["put", "verify", "commit"])
def test_an_interrupt_leaves_the_old_or_the_new(
    run: Run, taken: HubServer, run_dir: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Ctrl-C while the hub answers a request of the upload."""
    before, honest = taken.files("org/asr"), taken.fault

    def fault(request: str) -> str | None:
        if request.startswith(STEPS[step]):
            _thread.interrupt_main()
        return honest(request)

    monkeypatch.setattr(taken, "fault", fault)
    done = run(run_dir, "--to", "org/asr")
    assert (done.code, done.err.splitlines()[-1]) == (130, "interrupted")
    after = taken.files("org/asr")
    assert after == before if step != "commit" else set(after) in (set(before), FILES | set(before))
