"""What publishing refuses, what it asks for, and where it writes: tags, stores, secrets, other code, other numbers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from huggingface_hub import constants

from mixvec import CtcRecognizer, UserError
from mixvec.hub import load_encoder, load_model, save_folder
from tests.commands import Run, contents
from tests.hub_server import HubServer
from tests.tiny_models import TOKEN, recogniser
from tools import verify


def change(run_dir: Path, **facts: Any) -> None:
    """Change what the model's ``config.json`` records of its training; None removes a fact."""
    file = run_dir / "hub" / "config.json"
    config = json.loads(file.read_text())
    training = {key: value for key, value in (config["training"] | facts).items() if value is not None}
    file.write_text(json.dumps(config | {"training": training}))


def test_tags_and_revisions(run: Run, hub: HubServer, run_dir: Path, tmp_path: Path) -> None:
    """A tag keeps naming its commit; loaders take it, a token and a cache, and then need no hub."""
    assert run(run_dir, "--to", "hf://org/asr", "--tag", "v1", "--private").code == 0
    first = hub.repos["org/asr"].commits[-1].oid
    change(run_dir, updates=8)
    done = run(run_dir, "--to", "org/asr", "--tag", "v2")
    second = hub.repos["org/asr"].commits[-1].oid
    assert done.code == 0 and f"(commit {second}, tag v2)" in done.out and first != second
    assert hub.repos["org/asr"].tags == {"v1": first, "v2": second}
    change(run_dir, updates=9)
    done = run(run_dir, "--to", "org/asr", "--tag", "v1")
    assert done.code == 1 and "--tag v1" in done.err and first in done.err
    cache = tmp_path / "own"
    for load in (load_model, CtcRecognizer.from_pretrained, load_encoder):
        load("hf://org/asr", revision="v1", token=TOKEN, cache_dir=cache)
    assert [path.name for path in (cache / "models--org--asr" / "snapshots").iterdir()] == [first]
    with pytest.raises(UserError, match=r"org/asr: .*log in"):
        load_model("org/asr", token=False, cache_dir=cache)
    hub.log.clear()
    assert isinstance(load_model("org/asr", revision="v1", cache_dir=cache, local_files_only=True), CtcRecognizer)
    with pytest.raises(UserError, match=r"org/asr: .*cache"):
        load_model("org/asr", revision="v2", cache_dir=cache, local_files_only=True)
    assert hub.log == []


def test_an_offline_machine(
    run: Run, hub: HubServer, run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(run_dir, "--to", "org/asr").code == 0
    load_model("org/asr")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert isinstance(load_model("org/asr"), CtcRecognizer)
    with pytest.raises(UserError, match=r"org/asr: .*HF_HUB_OFFLINE=1"):
        load_model("org/asr", cache_dir=tmp_path / "empty")


@pytest.mark.parametrize("key", ["licence", "language"])
def test_licence_and_language_are_required_on_the_hub(
    run: Run, hub: HubServer, run_dir: Path, tmp_path: Path, key: str
) -> None:
    change(run_dir, **{key: None})
    done = run(run_dir, "--to", "org/asr")
    assert done.code == 1 and f"--{key}" in done.err and not hub.repos
    assert run(run_dir, "--to", "org/asr", f"--{key}", "en").code == 0
    assert run(run_dir, "--to", tmp_path / "out").code == 0, "not in a folder"


@pytest.mark.parametrize(
    "secret",
    [
        TOKEN,
        "hf_" + "a1B2" * 8,
        "AKIA" + "ABCD1234" * 2,
        "s3://user:pass" + "word@host/x",
        "-----BEGIN RSA PRIVATE KEY-----",
    ],
)
def test_a_secret_is_not_published(run: Run, hub: HubServer, run_dir: Path, secret: str) -> None:
    change(run_dir, data=f"corpus of {secret}")
    done = run(run_dir, "--to", "org/asr")
    assert done.code == 1 and "README.md: " in done.err and secret not in done.err and not hub.repos


def test_a_store(run: Run, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """config.json is taken away first and written last, and what comes back is compared."""
    system, order = fsspec.filesystem("memory"), []
    honest = type(system).put_file

    def put_file(self: Any, here: str, there: str, **options: Any) -> None:
        assert not self.exists("/bucket/asr/config.json")
        order.append(there.rsplit("/", 1)[1])
        honest(self, here, there, **options)

    monkeypatch.setattr(type(system), "put_file", put_file)
    for _ in range(2):
        done = run(run_dir, "--to", "memory://bucket/asr")
        assert done.code == 0, done.err
    assert order[-1] == "config.json" and len(order) == 2 * len(set(order)) and "model.safetensors" in order

    def corrupt(self: Any, here: str, there: str, **options: Any) -> None:
        honest(self, here, there, **options)
        if there.endswith("vocab.json"):
            self.pipe_file(there, self.cat_file(there)[:-3] + b" }\n")

    monkeypatch.setattr(type(system), "put_file", corrupt)
    done = run(run_dir, "--to", "memory://bucket/asr")
    assert done.code == 1 and "vocab.json" in done.err
    assert "nowhere-at-all" in run(run_dir, "--to", "nowhere-at-all://bucket/asr").err
    assert "--tag" in run(run_dir, "--to", "memory://bucket/asr", "--tag", "v1").err
    system.rm("/bucket", recursive=True)


def test_other_code_is_reported_and_todays_published(run: Run, run_dir: Path, tmp_path: Path) -> None:
    config = json.loads((run_dir / "hub" / "config.json").read_text())
    (run_dir / "hub" / "config.json").write_text(json.dumps(config | {"sha256": {}}))
    (run_dir / "hub" / "encoder.py").write_text("raise SystemExit('this code ran')\n")
    done = run(run_dir, "--to", tmp_path / "out")
    (line,) = [line for line in done.lines if line.startswith("encoder.py: ")]
    assert done.code == 0 and line.count("…") == 2 and "SystemExit" not in (tmp_path / "out/encoder.py").read_text()
    (run_dir / "hub" / "encoder.py").unlink()
    done = run(run_dir, "--to", tmp_path / "other")
    assert done.code == 1 and "encoder.py" in done.err and not (tmp_path / "other").exists()


def test_a_changed_byte_is_refused(run: Run, run_dir: Path, tmp_path: Path) -> None:
    for name in ("model.safetensors", "vocab.json", "encoder.py"):
        file = run_dir / "hub" / name
        content = file.read_bytes()
        changed = content.replace(b"\xc3\xa9", b"\xc3\xa8") if name == "vocab.json" else content[:-1] + b"\x01"
        assert changed != content
        file.write_bytes(changed)
        done = run(run_dir, "--to", tmp_path / "out")
        (line,) = done.err.splitlines()
        assert done.code == 1 and name in line and line.count("…") == 2 and not (tmp_path / "out").exists()
        file.write_bytes(content)


def test_other_numbers_in_transformers_are_refused(
    run: Run, run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mixvec.model import modeling_mixvec

    honest = modeling_mixvec.MixvecModel.encoded
    monkeypatch.setattr(
        modeling_mixvec.MixvecModel, "encoded", lambda self, x, mask, every: honest(self, 0.5 * x + 0.1, None, every)
    )
    done = run(run_dir, "--to", tmp_path / "out")
    assert done.code == 1 and "transformers" in done.err and "other outputs" in done.err
    assert not (tmp_path / "out").exists()
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setattr(verify, "find_spec", lambda name: None)
    assert run(run_dir, "--to", tmp_path / "out").code == 0, "where transformers is not installed"


def test_every_kind_is_checked_in_transformers(tmp_path: Path) -> None:
    from tests.mixvec.test_golden import GOLDEN

    for name in ("encoder", "decoder", "classifier", "speaker", "wav2vec2", "ctc-log-mel"):
        save_folder(load_model(GOLDEN / name), tmp_path / name)
        verify.check(tmp_path / name, tmp_path / name)
    torch.manual_seed(1)
    save_folder(recogniser(), tmp_path / "other")
    with pytest.raises(UserError, match="transformers"):
        verify.check_in_transformers(tmp_path / "decoder", [t + 1 for t in verify.outputs(tmp_path / "decoder")])
    assert "vocab.json" in contents(tmp_path / "other")
