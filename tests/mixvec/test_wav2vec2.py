"""fairseq2's wav2vec 2.0 behind the encoder protocol, at toy width; the real sizes are counted without weights."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mixvec.errors import UserError
from mixvec.model.config import EncoderConfig, FrontEnd, Mixer, encoder_config
from mixvec.wav2vec2 import SummaryMixingAttention, Wav2Vec2Encoder

torch.set_num_threads(1)

SIZE_OF: dict[FrontEnd, str] = {"waveform-groupnorm": "wav2vec2-base", "waveform": "wav2vec2-large"}
KINDS: list[tuple[FrontEnd, Mixer]] = [
    ("waveform-groupnorm", "attention"),
    ("waveform-groupnorm", "summary"),
    ("waveform", "attention"),
    ("waveform", "summary"),
]
every_kind = pytest.mark.parametrize(("front_end", "mixer"), KINDS)


def toy(front_end: FrontEnd = "waveform", mixer: Mixer = "attention") -> EncoderConfig:
    """BASE or LARGE at width 32, two layers, nothing random in training."""
    size = encoder_config(SIZE_OF[front_end])
    return replace(
        size, mixer=mixer, conv_channels=16, dim=32, num_layers=2, ffn_dim=64, heads=4, dropout=0.0, layer_drop=0.0
    )


def build(config: EncoderConfig) -> Wav2Vec2Encoder:
    """An encoder whose norms' and convolutions' biases are not zero, so that padding would show."""
    torch.manual_seed(0)
    encoder = Wav2Vec2Encoder(config)
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if name.endswith("bias"):
                parameter.uniform_(-0.5, 0.5)
    return encoder.eval()


def speech(lengths: list[int], *, padding: float = 0.0) -> tuple[Tensor, Tensor]:
    """Noise of unequal loudness and offset (B, S), lengths (B,); ``padding`` is the scale of what lies beyond them."""
    generator = torch.Generator().manual_seed(1)
    waveforms = padding * torch.randn(len(lengths), max(lengths), generator=generator)
    for row, length in enumerate(lengths):
        waveforms[row, :length] = (row + 1) * torch.randn(length, generator=generator) + row
    return waveforms, torch.tensor(lengths)


@every_kind
@torch.no_grad()
def test_padded_equals_alone(front_end: FrontEnd, mixer: Mixer) -> None:
    """40 frames, more than half the position encoder's kernel, and rows of equal, unequal and tiny length."""
    encoder = build(toy(front_end, mixer))
    waveforms, lengths = speech([12_880, 9_000, 12_880, 411], padding=100.0)
    output = encoder(waveforms, lengths)
    assert output.lengths.tolist() == [40, 27, 40, 1]
    for row, samples in enumerate(lengths.tolist()):
        alone = encoder(waveforms[row : row + 1, :samples])
        frames = int(alone.lengths)
        assert frames == output.lengths[row] == encoder.frame_lengths(samples)
        for together, single in zip(output.layers, alone.layers, strict=True):
            torch.testing.assert_close(together[row, :frames], single[0], rtol=0, atol=1e-5)
            assert together[row, frames:].abs().sum() == 0


@every_kind
@torch.no_grad()
def test_features_are_padded_equals_alone(front_end: FrontEnd, mixer: Mixer) -> None:
    encoder = build(toy(front_end, mixer))
    waveforms, lengths = speech([3_000, 8_000, 5_000], padding=100.0)
    features, frame_lengths = encoder.features(waveforms, lengths)
    assert features.shape == (3, 24, encoder.feature_dim)
    for row, samples in enumerate(lengths.tolist()):
        alone, (frames,) = encoder.features(waveforms[row : row + 1, :samples])
        assert frames == frame_lengths[row] == alone.shape[1]
        torch.testing.assert_close(features[row, :frames], alone[0], rtol=0, atol=1e-5)
        assert features[row, frames:].abs().sum() == 0


@every_kind
@torch.no_grad()
def test_an_utterance_too_short_for_a_frame_leaves_the_others_alone(front_end: FrontEnd, mixer: Mixer) -> None:
    encoder = build(toy(front_end, mixer))
    waveforms, lengths = speech([5_000, 100])
    output = encoder(waveforms, lengths)
    assert output.lengths.tolist() == [15, 0]
    assert output.frames[1].abs().sum() == 0
    torch.testing.assert_close(output.frames[:1], encoder(waveforms[:1]).frames, rtol=0, atol=1e-5)


@every_kind
@torch.no_grad()
def test_gives_every_layer(front_end: FrontEnd, mixer: Mixer) -> None:
    encoder = build(toy(front_end, mixer))
    output = encoder(*speech([4_000, 3_000]))
    assert len(output.layers) == encoder.num_layers + 1 == 3
    assert output.layers[-1] is output.frames
    assert {layer.shape for layer in output.layers} == {(2, 12, encoder.dim)}
    assert all(not torch.equal(a, b) for a, b in zip(output.layers, output.layers[1:], strict=False))


@every_kind
@torch.no_grad()
def test_is_what_fairseq2s_own_encoder_computes(front_end: FrontEnd, mixer: Mixer) -> None:
    """Without a mask: fairseq2's frontend and encoder called as fairseq2 calls them, on normalised waveforms."""
    from fairseq2.nn import BatchLayout

    encoder = build(toy(front_end, mixer))
    waveforms, _ = speech([6_000, 6_000])
    normalised = torch.nn.functional.layer_norm(waveforms, waveforms.shape[1:])
    x, layout = encoder.encoder_frontend(normalised, BatchLayout.of(normalised))
    torch.testing.assert_close(encoder(waveforms).frames, encoder.encoder(x, layout), rtol=0, atol=1e-6)


@every_kind
@torch.no_grad()
def test_features_under_the_mask_are_hidden(front_end: FrontEnd, mixer: Mixer) -> None:
    encoder = build(toy(front_end, mixer))
    features, lengths = encoder.features(*speech([6_000, 5_000]))
    mask = torch.zeros(features.shape[:2], dtype=torch.bool)
    mask[0, 3:8] = mask[1, 10:13] = True
    hidden = encoder.encode(features, lengths, mask).frames
    changed = features.masked_fill(mask.unsqueeze(-1), 7.0)
    assert torch.equal(encoder.encode(changed, lengths, mask).frames, hidden)
    assert not torch.allclose(encoder.encode(features, lengths).frames, hidden, atol=1e-3)
    encoder.mask_embedding += 1.0
    assert not torch.allclose(encoder.encode(features, lengths, mask).frames, hidden, atol=1e-3)


@every_kind
def test_every_parameter_gets_a_gradient_whatever_is_dropped(front_end: FrontEnd, mixer: Mixer) -> None:
    encoder = build(replace(toy(front_end, mixer), num_layers=6, layer_drop=0.9)).train()
    output = encoder(*speech([4_000, 3_000]))
    kept = [not torch.equal(a, b) for a, b in zip(output.layers[:-2], output.layers[1:-1], strict=True)]
    assert not all(kept)
    output.frames.square().mean().backward()
    assert [name for name, parameter in encoder.named_parameters() if parameter.grad is None] == []
    assert encoder.mask_embedding.grad is not None
    assert encoder.mask_embedding.grad.abs().sum() == 0
    for layer, was_kept in zip(encoder.encoder.layers, kept, strict=False):
        gradients = [p.grad.abs().sum().item() for p in layer.parameters() if p.grad is not None]
        assert (sum(gradients) > 0) == was_kept


@every_kind
def test_checkpointing_gives_the_same_gradients(front_end: FrontEnd, mixer: Mixer) -> None:
    """With dropout: the second forward draws the same numbers as the first."""
    config = replace(toy(front_end, mixer), dropout=0.1)
    gradients = []
    for checkpointing, forwards in ((False, 1), (True, 2)):
        encoder = build(replace(config, checkpointing=checkpointing)).train()
        calls: list[str] = []
        for layer in encoder.encoder.layers:
            layer.ffn.register_forward_pre_hook(lambda *_, calls=calls: calls.append("forward"))
        torch.manual_seed(3)
        output = encoder(*speech([4_000, 3_000]))
        output.frames.square().mean().backward()
        assert len(calls) == forwards * encoder.num_layers
        gradients.append([p.grad for p in encoder.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-6)


@every_kind
@torch.no_grad()
def test_saved_equals_reloaded(front_end: FrontEnd, mixer: Mixer, tmp_path: Path) -> None:
    encoder = build(toy(front_end, mixer))
    waveforms, lengths = speech([4_000, 3_000])
    save_file(encoder.state_dict(), tmp_path / "model.safetensors")
    torch.manual_seed(99)
    other = Wav2Vec2Encoder(encoder.config).eval()
    assert not torch.equal(other(waveforms, lengths).frames, encoder(waveforms, lengths).frames)
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name
    assert torch.equal(other(waveforms, lengths).frames, encoder(waveforms, lengths).frames)


def test_mixer_key_swaps_attention_for_summary_mixing() -> None:
    for mixer, swapped in (("attention", False), ("summary", True)):
        encoder = Wav2Vec2Encoder(toy("waveform", mixer))  # type: ignore[arg-type]
        assert [isinstance(layer.self_attn, SummaryMixingAttention) for layer in encoder.encoder.layers] == [
            swapped
        ] * 2


@pytest.mark.parametrize(("size", "parameters"), [("wav2vec2-base", 94_371_712), ("wav2vec2-large", 315_438_720)])
def test_sizes_are_the_published_ones(size: str, parameters: int) -> None:
    """Extractor and encoder of the published BASE and LARGE (LV-60k) with the mask embedding, without the quantizer."""
    with torch.device("meta"):
        encoder = Wav2Vec2Encoder(encoder_config(size))
    assert sum(parameter.numel() for parameter in encoder.parameters()) == parameters


def test_frame_lengths_of_ints_and_tensors() -> None:
    encoder = Wav2Vec2Encoder(toy())
    assert [encoder.frame_lengths(samples) for samples in (0, 399, 400, 719, 720, 16_000)] == [0, 0, 1, 1, 2, 49]
    assert encoder.frame_lengths(torch.tensor([0, 400, 16_000])).tolist() == [0, 1, 49]
    assert (encoder.min_samples, encoder.hop_samples, encoder.sample_rate_hz) == (400, 320, 16_000)


def test_bad_configurations_and_batches_are_named() -> None:
    with pytest.raises(ValueError, match=r"encoder\.dim=36 must be a multiple of 16"):
        Wav2Vec2Encoder(replace(toy(), dim=36))
    with pytest.raises(ValueError, match=r"not mixvec; use build_encoder"):
        Wav2Vec2Encoder(encoder_config("tiny"))
    encoder = Wav2Vec2Encoder(toy())
    with pytest.raises(ValueError, match="399 samples are shorter than one frame; pad to at least 400"):
        encoder(torch.zeros(1, 399))
    with pytest.raises(ValueError, match=r"\(2, 400\) and \(1,\)"):
        encoder(torch.zeros(2, 400), torch.tensor([400]))


def test_without_fairseq2_the_error_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "mixvec.wav2vec2")
    monkeypatch.setitem(sys.modules, "fairseq2.models.transformer", None)
    with pytest.raises(UserError, match=r"mixvec\[fairseq2\]"):
        importlib.import_module("mixvec.wav2vec2")
