"""fairseq2's wav2vec 2.0 behind the encoder protocol, at toy width; the real sizes are counted without weights."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace

import pytest
import torch
from fairseq2.nn import BatchLayout

from mixvec.errors import UserError
from mixvec.model.config import encoder_config
from mixvec.wav2vec2 import Wav2Vec2Encoder
from tests.mixvec.test_encoder import KINDS, LARGE, build, speech


@pytest.mark.parametrize("kind", ["base", "base attention", "large", "large attention"])
@torch.no_grad()
def test_is_what_fairseq2s_own_encoder_computes(kind: str) -> None:
    """Without a mask: fairseq2's frontend and encoder called as fairseq2 calls them, on normalised waveforms."""
    encoder = build(KINDS[kind])
    assert isinstance(encoder, Wav2Vec2Encoder)
    waveforms, _ = speech([6_000, 6_000])
    normalised = torch.nn.functional.layer_norm(waveforms, waveforms.shape[1:])
    x, layout = encoder.encoder_frontend(normalised, BatchLayout.of(normalised))
    torch.testing.assert_close(encoder(waveforms).frames, encoder.encoder(x, layout), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("size", "parameters"), [("wav2vec2-base", 94_371_712), ("wav2vec2-large", 315_438_720)])
def test_sizes_are_the_published_ones(size: str, parameters: int) -> None:
    """Extractor and encoder of the published BASE and LARGE (LV-60k) with the mask embedding, without the quantizer."""
    with torch.device("meta"):
        encoder = Wav2Vec2Encoder(encoder_config(size))
    assert sum(parameter.numel() for parameter in encoder.parameters()) == parameters


def test_bad_configurations_and_batches_are_named() -> None:
    with pytest.raises(ValueError, match=r"encoder\.dim=36 must be a multiple of 16"):
        Wav2Vec2Encoder(replace(LARGE, dim=36))
    with pytest.raises(ValueError, match=r"not mixvec; use build_encoder"):
        Wav2Vec2Encoder(encoder_config("tiny"))
    encoder = Wav2Vec2Encoder(LARGE)
    with pytest.raises(ValueError, match="399 samples are shorter than one frame; pad to at least 400"):
        encoder(torch.zeros(1, 399))
    with pytest.raises(ValueError, match=r"\(2, 400\) and \(1,\)"):
        encoder(torch.zeros(2, 400), torch.tensor([400]))


def test_without_fairseq2_the_error_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "mixvec.wav2vec2")
    monkeypatch.setitem(sys.modules, "fairseq2.models.transformer", None)
    with pytest.raises(UserError, match=r"mixvec\[fairseq2\]"):
        importlib.import_module("mixvec.wav2vec2")
