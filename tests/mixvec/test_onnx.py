"""Models as ONNX files: equal outputs for any batch and length, int8, use without torch, what cannot be exported."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from mixvec import Classifier, CtcRecognizer, HybridRecognizer, UserError, build_encoder
from mixvec.audio import read_audio
from mixvec.cli.predictor import load_predictor
from mixvec.hub import save_folder
from mixvec.onnx_export import export_onnx
from mixvec.onnx_model import OnnxEncoder, load_onnx
from tests.commands import Run
from tests.tiny_models import LABELS, MEL, VOCABULARY, WAV2VEC2, encoder, recogniser, scattered, write_wav

SMALL = replace(MEL, num_layers=1)
SHAPES = [(1, 1_680), (1, 40_000), (2, 5_000), (3, 16_000), (8, 12_345)]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recogniser with a decoder as a folder and in fp32, a classifier with attention in both. Read-only."""
    folder = tmp_path_factory.mktemp("onnx")
    torch.manual_seed(1)
    save_folder(scattered(HybridRecognizer(build_encoder(SMALL), VOCABULARY)), folder / "asr")
    attention = build_encoder(replace(SMALL, mixer="attention"))
    save_folder(scattered(Classifier(attention, LABELS)), folder / "intent")
    assert export_onnx(folder / "asr", folder / "asr.onnx").without_decoder
    assert not export_onnx(folder / "intent", folder / "int8.onnx", int8=True).without_decoder
    return folder


def outputs(model: nn.Module, *given: Tensor) -> list[Tensor]:
    with torch.inference_mode():
        found = model(*given)
    return [found] if isinstance(found, Tensor) else list(found)


def test_outputs_are_those_of_the_model(files: Path) -> None:
    model, exported = HybridRecognizer.from_pretrained(files / "asr"), load_onnx(files / "asr.onnx")
    assert isinstance(exported, CtcRecognizer) and exported.encoder.min_samples == model.encoder.min_samples
    for (batch, samples), padded in itertools.product(SHAPES, (False, True)):
        given = [0.1 * torch.randn(batch, samples)]
        if padded:
            given.append(torch.tensor([max(model.encoder.min_samples, samples - 700 * row) for row in range(batch)]))
        (log_probs, lengths), (own, own_lengths) = outputs(exported, *given), outputs(model, *given)
        assert torch.equal(lengths, own_lengths)
        torch.testing.assert_close(log_probs, own, rtol=0, atol=1e-4)


def test_int8_quantises_layers_and_leaves_the_mel_filters(files: Path) -> None:
    graph = onnx.load(files / "int8.onnx").graph
    stored = {entry.name: entry for entry in graph.initializer}
    products = [node for node in graph.node if node.op_type == "MatMul" and node.input[1] in stored]
    assert [list(stored[node.input[1]].dims) for node in products] == [[201, SMALL.mel_bins]]
    assert sum(node.op_type == "MatMulInteger" for node in graph.node) >= 8
    model, exported = Classifier.from_pretrained(files / "intent"), load_onnx(files / "int8.onnx")
    waveforms, lengths = 0.1 * torch.randn(3, 16_000), torch.tensor([16_000, 9_000, 5_000])
    difference = outputs(exported, waveforms, lengths)[0] - outputs(model, waveforms, lengths)[0]
    assert 0 < difference.abs().max() < 0.1


def test_the_file_alone_is_enough_without_torch(files: Path, tmp_path: Path) -> None:
    """The example of docs/publishing.md, in a process that cannot import torch or mixvec, reads the same text."""
    page = (Path(__file__).resolve().parents[2] / "docs/publishing.md").read_text()
    example = page.partition("<!-- onnxruntime alone -->\n```python\n")[2].partition("```")[0]
    write_wav(tmp_path / "speech.wav", 1.0)
    blocked = "import sys\nfor name in ('torch', 'mixvec', 'transformers'): sys.modules[name] = None\n"
    code = blocked + example.replace("asr.onnx", str(files / "asr.onnx"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    recogniser = load_onnx(files / "asr.onnx")
    assert isinstance(recogniser, CtcRecognizer)
    text = recogniser.transcribe(read_audio(tmp_path / "speech.wav").unsqueeze(0))[0]
    assert text and done.stdout.strip() == text


def test_commands_take_the_file(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    speech = write_wav(tmp_path / "speech.wav", 1.0, 8_000)
    text = run("transcribe", "--no-gate", "--model", files / "asr.onnx", speech)
    recogniser = HybridRecognizer.from_pretrained(files / "asr")
    waveform = read_audio(speech).unsqueeze(0)
    assert text.out.strip() == recogniser.decode(*outputs(recogniser, waveform))[0] and text.code == 0
    answer = json.loads(run("understand", "--no-gate", "--json", "--model", files / "int8.onnx", speech).out)
    assert answer["label"] in LABELS and sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    wrong = run("transcribe", "--model", files / "int8.onnx", speech)
    assert wrong.code == 1 and "int8.onnx: a Classifier" in wrong.err and wrong.err.count("\n") == 1
    monkeypatch.setattr("mixvec.onnx_export._graph", lambda *_: onnx.load(files / "asr.onnx"))
    assert run("export", "--model", files / "asr", "--to", tmp_path / "again.onnx").out.count("\n") == 1
    wrong = run("export", "--model", files / "asr", "--to", tmp_path)
    assert wrong.code == 1 and f"--to {tmp_path}" in wrong.err
    assert (tmp_path / "again.onnx").read_bytes() == (files / "asr.onnx").read_bytes()


def test_what_cannot_be_exported_is_named_and_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "out" / "model.onnx"
    target.parent.mkdir()
    target.write_bytes(b"old")
    lstm = CtcRecognizer(build_encoder(SMALL), VOCABULARY, kind="lstm", width=8)
    save_folder(lstm, tmp_path / "lstm")
    save_folder(encoder(WAV2VEC2), tmp_path / "w2v")
    for name, cause in (("lstm", "head.kind=lstm"), ("w2v", "Wav2Vec2Encoder"), ("none", "none: no such model")):
        with pytest.raises(UserError, match=cause):
            export_onnx(tmp_path / name, target)
    with pytest.raises(UserError, match=r"model\.bin"):
        export_onnx(tmp_path / "lstm", tmp_path / "model.bin")
    assert [(path.name, path.read_bytes()) for path in target.parent.iterdir()] == [("model.onnx", b"old")]


def test_an_export_with_other_outputs_is_refused(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the graph is that of another model."""
    save_folder(recogniser(SMALL), tmp_path / "other")
    monkeypatch.setattr("mixvec.onnx_export._graph", lambda *_: onnx.load(files / "asr.onnx"))
    with pytest.raises(UserError, match=r"other: the exported file's outputs differ"):
        export_onnx(tmp_path / "other", tmp_path / "out" / "model.onnx")
    assert list((tmp_path / "out").iterdir()) == []


def test_files_that_are_not_ours_are_refused(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad, other, newer = (tmp_path / f"{name}.onnx" for name in ("bad", "other", "newer"))
    bad.write_bytes((files / "asr.onnx").read_bytes()[:3_000])
    graph = onnx.load(files / "asr.onnx")
    stored = {entry.key: entry.value for entry in graph.metadata_props}
    assert (stored["sample_rate_hz"], stored["architecture"]) == ("16000", "CtcRecognizer")
    assert list(json.loads(stored["vocab.json"])) == VOCABULARY
    changed = stored | {"config.json": stored["config.json"].replace('"format": 2', '"format": 99')}
    for file, facts in ((other, {}), (newer, changed)):
        del graph.metadata_props[:]
        onnx.helper.set_model_props(graph, facts)
        onnx.save(graph, file)
    causes = {bad: "cannot|can read", other: "metadata", newer: "99", tmp_path / "no.onnx": "no such file"}
    for file, cause in causes.items():
        with pytest.raises(UserError, match=f"{file.name}.*({cause})"):
            load_onnx(file)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"mixvec\[onnx\]"):
        load_onnx(files / "asr.onnx")
    with pytest.raises(UserError, match=r"onnxruntime.*mixvec\[onnx\]"):
        export_onnx(files / "asr", tmp_path / "model.onnx")


def test_an_encoder_gives_frames(tmp_path: Path) -> None:
    model = encoder(replace(SMALL, block="branchformer", mixer="summary-lite", conv_strides=(2, 1)))
    save_folder(model, tmp_path / "enc")
    export_onnx(tmp_path / "enc", tmp_path / "enc.onnx")
    exported = load_onnx(tmp_path / "enc.onnx")
    assert isinstance(exported, OnnxEncoder)
    given = torch.randn(2, 9_000), torch.tensor([9_000, 4_000])
    frames, lengths, _ = outputs(exported, *given)
    own, own_lengths, _ = outputs(model, *given)
    assert torch.equal(lengths, own_lengths)
    torch.testing.assert_close(frames, own, rtol=0, atol=1e-4)
    features = load_predictor("features", str(tmp_path / "enc.onnx"), torch.device("cpu"))
    found = features.predict([given[0][0], given[0][1, :4_000]])[1].output  # (1, T, D)
    torch.testing.assert_close(found, own[1:, : own_lengths[1]], rtol=0, atol=1e-4)
