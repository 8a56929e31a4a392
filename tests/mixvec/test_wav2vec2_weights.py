"""transformers' wav2vec 2.0, stored by transformers itself, gives the same frames once it is read as fairseq2's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC, Wav2Vec2ForPreTraining, Wav2Vec2Model

from mixvec import UserError
from mixvec.hub import load_encoder
from mixvec.wav2vec2 import Wav2Vec2Encoder

SHAPE = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96,
    "conv_dim": [32] * 7, "vocab_size": 30,
    "codevector_dim": 16, "proj_codevector_dim": 16, "num_codevectors_per_group": 8,
}  # fmt: skip
LARGE = {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}


def stored(folder: Path, kind: type[Any] = Wav2Vec2Model, **keys: Any) -> Any:
    torch.manual_seed(0)
    model = kind(Wav2Vec2Config(**SHAPE, **keys)).eval()
    for parameter in model.parameters():  # norms and biases too, so that a swap of two shows
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("keys", [{}, LARGE], ids=["base", "large"])
@pytest.mark.parametrize("kind", [Wav2Vec2Model, Wav2Vec2ForPreTraining, Wav2Vec2ForCTC])
def test_every_layer_is_transformers_own(tmp_path: Path, kind: type[Any], keys: dict[str, Any]) -> None:
    theirs = stored(tmp_path / "hf", kind, **keys)
    ours = load_encoder(tmp_path / "hf")
    assert isinstance(ours, Wav2Vec2Encoder) and not ours.training
    waveforms = torch.randn(2, 16_000)
    normal = torch.nn.functional.layer_norm(waveforms, waveforms.shape[-1:])
    inner = getattr(theirs, "wav2vec2", theirs)
    with torch.no_grad():
        expected = inner(normal, output_hidden_states=True)
        given = ours(waveforms)
    torch.testing.assert_close(given.frames, expected.last_hidden_state, rtol=1e-4, atol=1e-4)
    for mine, yours in zip(given.layers[:-1], expected.hidden_states[:-1], strict=True):
        torch.testing.assert_close(mine, yours, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.mask_embedding, inner.masked_spec_embed)


def test_a_model_stored_without_a_mask_embedding_is_read(tmp_path: Path) -> None:
    stored(tmp_path / "hf")
    file = tmp_path / "hf/model.safetensors"
    tensors = load_file(file)
    del tensors["masked_spec_embed"]
    save_file(tensors, file, {"format": "pt"})
    assert load_encoder(tmp_path / "hf").mask_embedding.shape == (64,)


def edit(folder: Path, **keys: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | keys))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"num_conv_pos_embeddings": 64}, "num_conv_pos_embeddings=64 where fairseq2's wav2vec 2.0 has 128"),
        ({"feat_extract_norm": "layer"}, "feat_extract_norm=layer where .* has group"),
        ({"conv_dim": [32] * 6 + [16]}, "conv_dim=.* cannot be read"),
        ({"hidden_size": "wide"}, "config.json: "),
        ({"hidden_size": 48}, "weights do not fit the model: .*misshapen: mask_embedding"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    stored(tmp_path / "hf")
    edit(tmp_path / "hf", **keys)
    with pytest.raises(UserError, match=message):
        load_encoder(tmp_path / "hf")


def test_pickled_weights_are_refused_with_the_remedy(tmp_path: Path) -> None:
    stored(tmp_path / "hf")
    (tmp_path / "hf/model.safetensors").rename(tmp_path / "hf/pytorch_model.bin")
    with pytest.raises(UserError, match=r"no model.safetensors in it, and pickled .*save_pretrained"):
        load_encoder(tmp_path / "hf")
