"""Log-mel behind the encoder protocol."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mixvec import CtcRecognizer, EncoderConfig, UserError, build_encoder
from mixvec.hub import load_encoder, load_model
from mixvec.model.logmel import DEVIATION, MEAN
from tests.mixvec.test_frontend import mel_oracle
from tests.tiny_models import VOCABULARY, speech

LOG_MEL = EncoderConfig(kind="log-mel", dim=80, heads=1, num_layers=0)


def test_frames_are_log_mel_at_a_fixed_scale() -> None:
    encoder = build_encoder(LOG_MEL)
    assert list(encoder.parameters()) == [] and encoder.state_dict() == {}
    waveforms, lengths = speech(1, 8_000)
    frames, counts, layers = encoder(waveforms, lengths)
    assert counts.tolist() == [51] == [encoder.frame_lengths(8_000)] and len(layers) == 1 and layers[0] is frames
    expected = (torch.from_numpy(mel_oracle(waveforms[0].double().numpy())) - MEAN) / DEVIATION
    torch.testing.assert_close(frames[0].double(), expected, rtol=0, atol=2e-3)


def test_padded_equals_alone_and_loudness_is_gone() -> None:
    encoder, (waveforms, lengths) = build_encoder(LOG_MEL), speech(3)
    frames, counts, _ = encoder(waveforms, lengths)
    for row, (samples, count) in enumerate(zip(lengths.tolist(), counts.tolist(), strict=True)):
        alone = encoder(3.0 * waveforms[row : row + 1, :samples])
        assert alone.lengths.tolist() == [count]
        torch.testing.assert_close(frames[row, :count], alone.frames[0], rtol=0, atol=1e-4)
        assert not frames[row, count:].any()


def test_a_head_on_it_is_published_like_any_other(tmp_path: Path) -> None:
    model = CtcRecognizer(build_encoder(LOG_MEL), VOCABULARY, "weighted").eval()
    model.save_pretrained(tmp_path / "hub")
    again = load_model(tmp_path / "hub")
    waveforms, lengths = speech()
    assert torch.equal(model(waveforms, lengths)[0], again(waveforms, lengths)[0])
    assert load_encoder(tmp_path / "hub").config.kind == "log-mel"


def test_a_folder_with_an_encoder_of_transformers_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "hub/config.json"
    CtcRecognizer(build_encoder(LOG_MEL), VOCABULARY).save_pretrained(tmp_path / "hub")
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"encoder": {"kind": "transformers", "model_type": "hubert"}}))
    with pytest.raises(UserError, match=r"encoder\.kind=transformers"):
        load_model(tmp_path / "hub")
    with pytest.raises(ValueError, match=r"encoder\.num_layers=0 must be at least 1"):
        EncoderConfig(num_layers=0)
