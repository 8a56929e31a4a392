"""Published folders in transformers: the same numbers as in mixvec, from the folder's own code and from the package's.

The version of transformers is the pinned one; `make compat` runs others. ``remote`` classes come from a folder's code.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForCTC, AutoProcessor, pipeline

from mixvec import CtcRecognizer, UserError, build_encoder
from mixvec.folder import CODE, code_files, sha256
from mixvec.hub import load_model, save_folder
from mixvec.model.pretrained import AUTO_MAP
from tests.mixvec.test_golden import GOLDEN
from tests.tiny_models import LABELS, MEL, VOCABULARY, classifier, scattered

PUBLISHED = ("encoder", "attention", "branchformer-lite", "waveform", "ctc", "ctc-lstm", "decoder", "tagger",
             "decoder-tagger", "classifier", "probe", "speaker")  # fmt: skip
"""The golden folders whose encoder is ours."""
AUTO_OF = {path.split(".")[1]: name for name, path in AUTO_MAP.items()}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden models in today's format."""
    folder = tmp_path_factory.mktemp("models")
    for name in PUBLISHED:
        save_folder(load_model(GOLDEN / name), folder / name)
    return folder


@pytest.fixture(scope="module")
def asr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recogniser with text in its output."""
    folder = tmp_path_factory.mktemp("asr") / "model"
    save_folder(talkative(), folder)
    return folder


def talkative(vocabulary: list[str] = VOCABULARY) -> CtcRecognizer:
    """A recogniser whose random weights choose many tokens."""
    torch.manual_seed(4)
    model = scattered(CtcRecognizer(build_encoder(MEL), vocabulary))
    with torch.no_grad():
        model.output.weight.mul_(8)
    return model


def auto(folder: Path, remote: bool) -> Any:
    """The model of a folder, by the Auto class that its configuration is for, by its own code or the package's."""
    name = json.loads((folder / "config.json").read_text())["architectures"][0]
    return getattr(transformers, AUTO_OF[name]).from_pretrained(folder, trust_remote_code=remote).eval()


def noise(*seconds: float) -> list[Any]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(round(16_000 * s), generator=generator).numpy() for s in seconds]


def same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("name", "remote"),
    [("waveform", True), ("ctc-lstm", True), ("classifier", False), ("decoder", False), ("speaker", False)],
)
def test_golden_numbers_in_transformers(models: Path, name: str, remote: bool) -> None:
    """Every layer and every output, with nothing missing, where `norm` of heads and encoder could be exchanged.

    tests/test_compat.py loads all of them by their folders' own code."""
    golden = load_file(GOLDEN / name / "golden.safetensors")
    waveforms, lengths = golden["waveforms"], golden["lengths"]
    mask = (torch.arange(waveforms.shape[1]) < lengths[:, None]).long()
    model = auto(models / name, remote)
    assert type(model).__module__.startswith("transformers_modules" if remote else "mixvec.model")
    with torch.inference_mode():
        output = model(waveforms, attention_mask=mask, output_hidden_states=True)
        inner = AutoModel.from_pretrained(models / name, trust_remote_code=remote).eval()
        frames = inner(waveforms, attention_mask=mask).last_hidden_state
    for number, layer in enumerate(output.hidden_states):
        same(layer, golden[f"layer.{number}"])
    same(frames, golden[f"layer.{len(output.hidden_states) - 1}"])
    if "output" in golden:
        found = output.embeddings if name == "speaker" else output.logits
        own = torch.arange(found.shape[1]) < golden["frame_lengths"][:, None] if found.dim() == 3 else ...
        same(found[own], golden["output"][own])


def test_the_folder_holds_the_code_byte_for_byte(models: Path) -> None:
    config = json.loads((models / "ctc" / "config.json").read_text())
    assert {"modeling_mixvec.py", "configuration_mixvec.py", "encoder.py", "ctc.py"} <= set(code_files())
    for name in code_files():
        assert (models / "ctc" / name).read_bytes() == (CODE / name).read_bytes()
        assert config["sha256"][name] == sha256(CODE / name)


@pytest.mark.parametrize(
    ("name", "remote"),
    [("encoder", True), ("ctc", True), ("ctc", False), ("classifier", True), ("speaker", False), ("decoder", True)],
)
def test_what_transformers_saves_both_load(models: Path, tmp_path: Path, name: str, remote: bool) -> None:
    model, target = auto(models / name, remote), tmp_path / "saved"
    model.save_pretrained(target)
    if (models / name / "vocab.json").is_file():
        AutoProcessor.from_pretrained(models / name).save_pretrained(target)
    assert set(code_files()) - {path.name for path in target.glob("*.py")} <= {"tokenization_mixvec.py"}
    ours, theirs = load_model(models / name), load_model(target)
    assert type(ours) is type(theirs)
    assert all(torch.equal(theirs.state_dict()[key], tensor) for key, tensor in ours.state_dict().items())
    again = auto(target, remote).state_dict()
    assert all(torch.equal(again[key], tensor) for key, tensor in ours.state_dict().items())


def test_the_encoder_of_a_recogniser_is_saved_as_an_encoder(models: Path, tmp_path: Path) -> None:
    inner = AutoModelForCTC.from_pretrained(models / "ctc").encoder
    inner.save_pretrained(tmp_path / "inner")
    AutoModel.from_pretrained(models / "ctc").save_pretrained(tmp_path / "auto")
    for folder in (tmp_path / "inner", tmp_path / "auto"):
        config = json.loads((folder / "config.json").read_text())
        assert (config["architecture"], config.get("head")) == ("SpeechEncoder", None)
        found = load_model(folder).state_dict()
        assert all(torch.equal(found[key], value) for key, value in inner.state_dict().items())


def test_pipeline_recognises_as_mixvec_does(asr: Path) -> None:
    recognise = pipeline("automatic-speech-recognition", model=str(asr), trust_remote_code=True)
    clips, model = noise(1.0, 2.3, 0.7, 0.05), load_model(asr)
    expected = [model.transcribe(torch.from_numpy(clip)[None])[0] for clip in clips[:3]]
    assert len(set(expected)) == 3 and all(len(text) > 4 for text in expected)
    alone = [" ".join(recognise(clip)["text"].split()) for clip in clips]
    assert alone[:3] == expected and isinstance(alone[3], str)
    assert [" ".join(row["text"].split()) for row in recognise(clips, batch_size=4)] == alone
    for kind in ("char", "word"):
        timed = recognise(clips[1], return_timestamps=kind)
        chunks = timed["chunks"]
        assert ("" if kind == "char" else " ").join(chunk["text"] for chunk in chunks).split() == expected[1].split()
        assert " ".join(timed["text"].split()) == expected[1]
        starts = [chunk["timestamp"][0] for chunk in chunks]
        assert starts == sorted(starts) and all(0 <= a < b <= 2.4 for a, b in (c["timestamp"] for c in chunks))
    long = noise(9.0)[0]
    cut = recognise(long, chunk_length_s=3, stride_length_s=0.5)["text"]
    assert recognise([long], chunk_length_s=3, stride_length_s=0.5, batch_size=3)[0]["text"] == cut and len(cut) > 30
    assert recognise({"raw": clips[0][::2].copy(), "sampling_rate": 8_000})["text"]


def test_pipeline_classifies_as_mixvec_does(tmp_path: Path) -> None:
    save_folder(model := classifier(), tmp_path / "m")
    classify = pipeline("audio-classification", model=str(tmp_path / "m"), trust_remote_code=True)
    clips = noise(1, 2, 3)
    alone = [{row["label"]: row["score"] for row in classify(clip)} for clip in clips]
    batch = [{row["label"]: row["score"] for row in rows} for rows in classify(clips, batch_size=3)]
    expected = [model.understand(torch.from_numpy(clip)[None])[0] for clip in clips]
    assert set(alone[0]) == set(LABELS)
    for one, other, ours in zip(alone, batch, expected, strict=True):
        assert one == pytest.approx(ours, abs=2e-6) and other == pytest.approx(ours, abs=2e-6)


def test_tokens_of_several_letters_keep_their_spaces(tmp_path: Path) -> None:
    pieces = ["[PAD]", "▁", "▁the", "cat", "s", "▁a", "qs", "é"]
    save_folder(talkative(pieces), tmp_path / "m")
    tokenizer = AutoProcessor.from_pretrained(tmp_path / "m", trust_remote_code=True).tokenizer
    frames = [2, 2, 0, 1, 3, 3, 4, 0, 0, 5, 6, 6]
    assert tokenizer.decode(frames) == "the cats aqs"
    timed = tokenizer.decode(frames, output_word_offsets=True, output_char_offsets=True)
    words = [(row["word"], row["start_offset"], row["end_offset"]) for row in timed.word_offsets]
    assert words == [("the", 0, 2), ("cats", 4, 7), ("aqs", 9, 12)]
    recognise = pipeline("automatic-speech-recognition", model=str(tmp_path / "m"), trust_remote_code=True)
    clip = noise(2)[0]
    text = load_model(tmp_path / "m").transcribe(torch.from_numpy(clip)[None])[0]
    assert recognise(clip)["text"] == text and " " in text
    chunks = recognise(clip, return_timestamps="word")["chunks"]
    assert [chunk["text"] for chunk in chunks] == text.split()


def test_configuration_and_features(models: Path) -> None:
    config = AutoConfig.from_pretrained(models / "ctc", trust_remote_code=True)
    assert (config.hidden_size, config.num_hidden_layers, config.inputs_to_logits_ratio) == (16, 2, 640)
    assert (config.vocab_size, config.pad_token_id, config.layer_drop) == (6, 0, 0.0)
    extractor = AutoFeatureExtractor.from_pretrained(models / "encoder")
    quiet = noise(1.0)[0] * 1e-3
    batch = extractor([quiet, quiet[:9_000]], sampling_rate=16_000, padding=True, return_tensors="pt")
    assert torch.equal(batch["input_values"][0], torch.from_numpy(quiet)), "the model alone normalises"
    assert batch["attention_mask"].sum(-1).tolist() == [16_000, 9_000]
    processor = AutoProcessor.from_pretrained(models / "ctc")
    assert processor.tokenizer("ab éx").input_ids == [3, 4, 1, 5, 0]


def test_a_wrong_configuration_and_padding_on_the_left_are_refused(asr: Path) -> None:
    config = json.loads((asr / "config.json").read_text())
    del config["model_type"], config["auto_map"]
    changes: dict[str, dict[str, Any]] = {
        "format 3": {"format": 3}, "format 1": {"format": 1}, "depth": {"encoder": {"depth": 3}},
        "encoder.heads=5": {"encoder": {"heads": 5}}, "Classifier": {"architecture": "Classifier"},
    }  # fmt: skip
    for named, change in changes.items():
        with pytest.raises(ValueError, match=named) as refused:
            AutoModelForCTC.from_config(AutoConfig.for_model("mixvec", **(config | change)))
        assert "\n" not in str(refused.value)
    mask = torch.ones(1, 16_000, dtype=torch.long)
    mask[0, :100] = 0
    with pytest.raises(ValueError, match="attention_mask"):
        AutoModel.from_pretrained(asr)(torch.zeros(1, 16_000), attention_mask=mask)


def test_labels_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    save_folder(classifier(), tmp_path / "m")
    transformers.AutoModelForAudioClassification.from_pretrained(tmp_path / "m").save_pretrained(tmp_path / "m")
    assert load_model(tmp_path / "m").labels == LABELS
    (tmp_path / "m" / "labels.json").write_text('["x", "y", "z"]')
    with pytest.raises(UserError, match=r"labels\.json.*id2label"):
        load_model(tmp_path / "m")
