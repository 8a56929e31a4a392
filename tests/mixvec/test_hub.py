"""Models on disk and from the hub: what is written comes back to the bit, and whatever is wrong is named."""

from __future__ import annotations

import errno
import json
import os
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi, constants
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mixvec import Classifier, CtcRecognizer, SpeechEncoder, UserError
from mixvec.errors import run_cli
from mixvec.hub import load_encoder, load_model, save_folder
from tests.tiny_models import (
    LABELS,
    MEL,
    TOKEN,
    VOCABULARY,
    WAV2VEC2,
    WAVEFORM,
    classifier,
    encoder,
    loopback_hub,
    recogniser,
    speech,
)

MODELS: dict[str, Callable[[], nn.Module]] = {
    "mel": lambda: encoder(MEL),
    "waveform": lambda: encoder(WAVEFORM),
    "wav2vec2": lambda: encoder(WAV2VEC2),
    "ctc": lambda: recogniser(),
    "ctc weighted": lambda: recogniser(WAVEFORM, "weighted"),
    "ctc wav2vec2": lambda: recogniser(WAV2VEC2, "weighted"),
    "classifier": lambda: classifier(),
    "classifier weighted": lambda: classifier(MEL, "weighted"),
}

NOWHERE = "http://127.0.0.1:9"


def outputs(model: nn.Module) -> list[Tensor]:
    with torch.inference_mode():
        given = model(*speech())
    values = given if isinstance(given, tuple) else (given,)
    return [tensor for value in values for tensor in (value if isinstance(value, list) else [value])]


def edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a JSON file, or the tensors of a safetensors file, in place."""
    if file.suffix == ".json":
        value = json.loads(file.read_text())
        change(value)
        file.write_text(json.dumps(value))
    else:
        tensors = dict(load_file(file))
        change(tensors)
        save_file(tensors, file)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A recogniser on disk."""
    save_folder(recogniser(), tmp_path / "model")
    return tmp_path / "model"


def refusal(folder: Path | str, load: Callable[[Path | str], object] = load_model) -> str:
    with pytest.raises(UserError) as caught:
        load(folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("kind", MODELS)
def test_saved_equals_reloaded_bitwise(kind: str, tmp_path: Path) -> None:
    model = MODELS[kind]()
    save_folder(model, tmp_path / "a")
    again = load_model(tmp_path / "a")
    assert type(again) is type(model) and not again.training
    ours, theirs = model.state_dict(), again.state_dict()
    assert list(ours) == list(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert all(torch.equal(a, b) for a, b in zip(outputs(model), outputs(again), strict=True))
    save_folder(again, tmp_path / "b")
    assert len({path.stat().st_mode for path in (tmp_path / "a").iterdir()}) == 1, "the same readers"
    files = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()}


def test_each_class_loads_its_own_kind(tmp_path: Path) -> None:
    recogniser(layers="weighted").save_pretrained(tmp_path / "asr")
    classifier().save_pretrained(tmp_path / "run" / "hub")
    asr, intent = CtcRecognizer.from_pretrained(tmp_path / "asr"), Classifier.from_pretrained(str(tmp_path / "run"))
    assert (asr.vocabulary, asr.layers, asr.dropout.p) == (VOCABULARY, "weighted", 0.2)
    assert intent.labels == LABELS
    inner = SpeechEncoder.from_pretrained(tmp_path / "asr")
    assert all(torch.equal(a, b) for a, b in zip(outputs(inner), outputs(asr.encoder), strict=True))
    assert "a Classifier, not a CtcRecognizer" in refusal(tmp_path / "run", CtcRecognizer.from_pretrained)
    inner.save_pretrained(tmp_path / "encoder")
    assert "a SpeechEncoder, not a Classifier" in refusal(tmp_path / "encoder", Classifier.from_pretrained)


def test_missing_extra_and_misshapen_tensors_are_named(folder: Path) -> None:
    def change(tensors: dict[str, Any]) -> None:
        del tensors["head_norm.bias"]
        tensors["a.stranger"] = torch.zeros(1)
        tensors["output.weight"] = torch.zeros(7, 32)

    edit(folder / "model.safetensors", change)
    message = refusal(folder)
    assert str(folder) in message
    assert "1 missing: head_norm.bias" in message
    assert "1 extra: a.stranger" in message
    assert "1 misshapen: output.weight (7, 32) for (6, 32)" in message


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "preprocessor_config.json", "vocab.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert name in refusal(folder) and str(folder) in refusal(folder)


def test_truncated_weights_and_a_pickle_are_refused_and_not_run(folder: Path, tmp_path: Path) -> None:
    marker, whole = tmp_path / "it ran", (folder / "model.safetensors").read_bytes()
    command = f"open({str(marker)!r}, 'w').close()"
    attack = b"cbuiltins\nexec\n(V" + command.encode() + b"\ntR."  # protocol 0: exec(command)
    (folder / "model.safetensors").write_bytes(attack)
    assert "model.safetensors: damaged or not safetensors" in refusal(folder)
    for kept in (0, 4, 200, -1):
        (folder / "model.safetensors").write_bytes(whole[:kept])
        assert "model.safetensors: damaged" in refusal(folder)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(attack)) + attack)
    assert "model.safetensors: damaged or not safetensors" in refusal(folder)
    (folder / "model.safetensors").unlink()
    for other in ("pytorch_model.bin", "model.pt", "model.ckpt"):
        (folder / other).write_bytes(attack)
    assert "model.safetensors missing" in refusal(folder)
    assert not marker.exists()
    exec(command)
    assert marker.exists(), "the attack itself would have shown"


CONFIGS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "unknown encoder key": (lambda c: c["encoder"].update(depth=3), "unknown encoder key depth"),
    "unknown mixer": (lambda c: c["encoder"].update(mixer="fourier"), "encoder.mixer cannot be 'fourier'"),
    "number as text": (lambda c: c["encoder"].update(dim="32"), "encoder.dim cannot be '32'"),
    "strides": (lambda c: c["encoder"].update(conv_strides=["2"]), "encoder.conv_strides cannot be ['2']"),
    "contradiction": (lambda c: c["encoder"].update(heads=5), "encoder.heads=5"),
    "unknown head key": (lambda c: c["head"].update(beams=3), "beams"),
    "no encoder": (lambda c: c.pop("encoder"), "no encoder"),
    "newer": (lambda c: c.update(format=3, mixvec_version="9.9"), "written by mixvec 9.9"),
    "architecture": (lambda c: c.update(architecture="Translator"), "unknown architecture 'Translator'"),
    "another library's": (lambda c: c.update(model_type="whisper"), "not a mixvec model"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_wrong_config_is_refused(folder: Path, case: str) -> None:
    change, message = CONFIGS[case]
    edit(folder / "config.json", change)
    assert message in refusal(folder) and str(folder) in refusal(folder)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("config.json", "{", "config.json: not readable JSON"),
        ("config.json", "[1]", "config.json: not a mixvec model"),
        ("vocab.json", '{"a": 0, "b": 2}', "vocab.json: not a vocabulary"),
        ("vocab.json", '{"a": 0, "b": "1"}', "vocab.json: not a vocabulary"),
        ("vocab.json", '{"[PAD]": 0, "a": 1}', "misshapen: output.weight (6, 32) for (2, 32)"),
    ],
)
def test_wrong_json_is_refused(folder: Path, name: str, text: str, message: str) -> None:
    (folder / name).write_text(text)
    assert message in refusal(folder)


def test_a_wrong_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "empty: not a model folder: it has no config.json" in refusal(tmp_path / "empty")
    assert "no such model folder" in refusal(tmp_path / "nowhere" / "at" / "all")
    assert "no such model folder" in refusal("./nowhere")
    assert "a file; give the model folder" in refusal(folder / "model.safetensors")


def test_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = recogniser()
    save_folder(model, tmp_path / "m")
    with loopback_hub(monkeypatch, tmp_path / "cache") as hub:
        api = HfApi(endpoint=hub.url, token=TOKEN)
        api.create_repo("org/asr")
        api.upload_folder(repo_id="org/asr", folder_path=tmp_path / "m")
        first = api.model_info("org/asr").sha
        edit(tmp_path / "m" / "config.json", lambda c: c.update(architecture="Translator"))
        api.upload_folder(repo_id="org/asr", folder_path=tmp_path / "m")
        again = CtcRecognizer.from_pretrained("org/asr", revision=first)
        assert all(torch.equal(a, b) for a, b in zip(outputs(model), outputs(again), strict=True))
        assert "unknown architecture 'Translator'" in refusal("org/asr")
        assert "no revision v9 of it" in refusal("org/asr", lambda name: load_model(name, revision="v9"))
    monkeypatch.setattr(constants, "ENDPOINT", NOWHERE)
    inner = load_encoder("org/asr", revision=first)  # the cache has it
    assert all(torch.equal(a, b) for a, b in zip(outputs(inner), outputs(model.encoder), strict=True))


def test_a_private_model_needs_its_token_and_a_failing_download_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_folder(recogniser(), tmp_path / "m")
    with loopback_hub(monkeypatch, tmp_path / "cache", token=None) as hub:
        api = HfApi(endpoint=hub.url, token=TOKEN)
        api.create_repo("org/asr", private=True)
        api.upload_folder(repo_id="org/asr", folder_path=tmp_path / "m")
        message = refusal("org/asr")
        assert "no such model on the hub (or it is private: log in)" in message and TOKEN not in message
        monkeypatch.setenv("HF_TOKEN", TOKEN)  # now logged in
        monkeypatch.setattr("time.sleep", lambda seconds: None)
        hub.faults.append([r"GET /org/asr/resolve/.*safetensors", 99, "503"])
        assert "org/asr: the hub did not answer" in refusal("org/asr")
        hub.faults.clear()
        assert isinstance(load_model("org/asr"), CtcRecognizer)


def test_a_disk_that_is_full_during_the_download_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a small disk of its own where one can be mounted, else with writes that fail. Once there is room, it loads."""
    model, cache = recogniser(), tmp_path / "cache"
    save_folder(model, tmp_path / "m")
    cache.mkdir()
    size = (tmp_path / "m/model.safetensors").stat().st_size
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size // 2}", "tmpfs", cache]
    mounted = subprocess.run(mount, capture_output=True).returncode == 0
    try:
        with loopback_hub(monkeypatch, cache) as hub, monkeypatch.context() as patch:
            api = HfApi(endpoint=hub.url, token=TOKEN)
            api.create_repo("org/asr")
            api.upload_folder(repo_id="org/asr", folder_path=tmp_path / "m")
            if not mounted:
                patch.setattr("huggingface_hub.file_download.http_get", full_disk)
            with pytest.raises(SystemExit, match="1"):
                run_cli(lambda: print(load_model("org/asr")))
            assert capsys.readouterr() == ("", f"error: no space left on device (org/asr in {cache}): free some space "
                                               "or choose another location, then rerun\n")  # fmt: skip
            assert not [path for path in cache.rglob("*.safetensors") if path.exists()]
            patch.undo()
            if mounted:
                subprocess.run(["mount", "-o", f"remount,size={4 * size + (1 << 20)}", cache], check=True)
            assert all(map(torch.equal, outputs(load_model("org/asr")), outputs(model.eval())))
            assert not list(cache.rglob("*.incomplete"))
    finally:
        if mounted:
            subprocess.run(["umount", cache], check=True)


def full_disk(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_what_is_not_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with loopback_hub(monkeypatch, tmp_path / "cache"):
        assert "org/none: no such folder here, and no such model on the hub" in refusal("org/none")
        assert "no such model on the hub" in refusal("--bad..name-")
    monkeypatch.setattr(constants, "ENDPOINT", NOWHERE)
    assert "the hub cannot be reached" in refusal("org/none")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE=1" in refusal("org/none") and "revision v2" in refusal("hf://org/none@v2")
