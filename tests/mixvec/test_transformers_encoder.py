"""Encoders that transformers builds: their frames are its own, alone and padded; they teach, and start fine-tuning."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from mixvec import CtcRecognizer, SpeechEncoder, UserError, build_encoder
from mixvec.hub import load_encoder
from mixvec.transformers_encoder import TransformersEncoder
from pretrain.objectives.targets import load_teacher
from tests.tiny_models import MEL, VOCABULARY, recogniser

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
CONV = {"conv_dim": (16,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
KINDS: dict[str, Any] = {
    "wav2vec2": lambda: transformers.Wav2Vec2Config(**TINY, **CONV),
    "hubert": lambda: transformers.HubertConfig(**TINY, **CONV, feat_extract_norm="group"),
    "wavlm": lambda: transformers.WavLMConfig(**TINY, **CONV, feat_extract_norm="layer", do_stable_layer_norm=True),
    "data2vec": lambda: transformers.Data2VecAudioConfig(**TINY, **CONV, conv_pos_kernel_size=3),
    "text": lambda: transformers.BertConfig(**TINY, vocab_size=8),
}


def make(kind: str, folder: Path, **save: Any) -> Any:
    """A model of transformers with weights drawn at random, saved."""
    model = transformers.AutoModel.from_config(KINDS[kind]()).eval()
    model.save_pretrained(folder, **save)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=kind != "wavlm").save_pretrained(folder)
    return model


def frames_of(folder: Path, model: Any, waveform: Tensor) -> list[Tensor]:
    """The input embedding and every layer (1, T, D) that transformers itself computes from one waveform (S,)."""
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    made = model(**extractor(waveform.numpy(), sampling_rate=16_000, return_tensors="pt"), output_hidden_states=True)
    return [*made.hidden_states[:-1], made.last_hidden_state]


@pytest.mark.parametrize("kind", ["wav2vec2", "hubert", "wavlm", "data2vec"])
@torch.no_grad()
def test_frames_are_those_of_transformers_alone_and_padded(kind: str, tmp_path: Path) -> None:
    model, encoder = make(kind, tmp_path), load_encoder(tmp_path)
    waveforms, lengths = torch.randn(3, 9_000), torch.tensor([9_000, 6_123, 200])
    frames, counts, layers = encoder(waveforms, lengths)
    assert len(layers) == encoder.num_layers + 1 and torch.equal(frames, layers[-1])
    for row, samples in enumerate(lengths.tolist()):
        count = int(counts[row])
        assert count == encoder.frame_lengths(samples) and not frames[row, count:].any()
        if samples >= encoder.min_samples:
            expected = frames_of(tmp_path, model, waveforms[row, :samples])
            assert expected[0].shape[1] == count
            for ours, theirs in zip(layers, expected, strict=True):
                torch.testing.assert_close(ours[row, :count], theirs[0, :count], rtol=0, atol=2e-4)
    hidden = torch.zeros(frames.shape[:2], dtype=torch.bool)
    hidden[0, 3:6] = True
    masked = encoder.encode(*encoder.features(waveforms, lengths), hidden).layers[0]
    changed = (masked - layers[0]).abs().amax(-1) > 1e-6
    assert changed[0, 3:6].all() and not changed[1:].any()
    assert encoder.mel_view == (1, 2, 2)
    assert encoder.target_features(waveforms, lengths).shape == (*frames.shape[:2], 160)


def test_a_model_of_ours_opens_as_its_encoder(tmp_path: Path) -> None:
    model = recogniser()
    model.save_pretrained(tmp_path / "asr")
    encoder = load_encoder(tmp_path / "asr")
    assert isinstance(encoder, SpeechEncoder) and not encoder.training
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match=r"none: .*config\.json"):
        load_encoder(tmp_path / "none")


@torch.no_grad()
def test_a_model_on_top_of_it_is_saved_and_loaded(tmp_path: Path) -> None:
    make("hubert", tmp_path / "theirs")
    model = CtcRecognizer(load_encoder(tmp_path / "theirs"), VOCABULARY)
    model.eval().save_pretrained(tmp_path / "ours")
    waveform = torch.randn(1, 9_000)
    loaded = CtcRecognizer.from_pretrained(tmp_path / "ours")
    assert torch.equal(loaded(waveform)[0], model(waveform)[0])
    assert "transformers, whose encoder" in (tmp_path / "ours/README.md").read_text()


def test_it_teaches_and_its_checksum_covers_all_files(tmp_path: Path) -> None:
    """Of a model whose weights are in several files, a change in any one is noticed."""
    model = make("hubert", tmp_path, max_shard_size="40KB")
    files = sorted(tmp_path.glob("*.safetensors"))
    student = build_encoder(MEL)
    teacher, layer, checksum = load_teacher(student, str(tmp_path), None)
    assert isinstance(teacher, TransformersEncoder) and layer == 2 and len(files) > 1
    assert torch.equal(teacher.model.masked_spec_embed, model.masked_spec_embed)
    make("hubert", tmp_path / "other", max_shard_size="40KB")  # other random weights
    shutil.copy(tmp_path / "other" / files[-1].name, files[-1])
    assert load_teacher(student, str(tmp_path), None)[2] != checksum


def test_what_transformers_cannot_give_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled/config.json").write_text('{"model_type": "hubert"}')
    with pytest.raises(UserError, match=r"pickled: .*safetensors"):
        load_encoder(tmp_path / "pickled")
    make("text", tmp_path / "text")
    with pytest.raises(UserError, match=r"text: .*bert"):
        load_encoder(tmp_path / "text")
    (tmp_path / "text/config.json").write_text('{"model_type": "poetry"}')
    with pytest.raises(UserError, match=r"text: .*poetry"):
        load_encoder(tmp_path / "text")
