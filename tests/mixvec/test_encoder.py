"""Every kind of encoder, ours and fairseq2's: padded = alone, masking, LayerDrop, checkpointing, precision, sizes."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mixvec import SIZES, Encoder, EncoderConfig, SpeechEncoder, SummaryMixing, build_encoder, encoder_config
from mixvec.model.mixing import plain_branches
from pretrain.objectives.contrastive import Contrastive, ContrastiveConfig
from tests.tiny_models import WAV2VEC2

TOY = EncoderConfig(
    mel_bins=40, conv_channels=32, dim=32, num_layers=2, ffn_dim=48, conv_kernel=7, heads=4, dropout=0.0, layer_drop=0.0
)
LARGE = replace(WAV2VEC2, dropout=0.0, layer_drop=0.0)
BASE = replace(LARGE, front_end="waveform-groupnorm")
LOG_MEL = EncoderConfig(kind="log-mel", dim=40, heads=1, num_layers=0)
KINDS = {
    "conformer": TOY,
    "conformer attention": replace(TOY, mixer="attention"),
    "branchformer": replace(TOY, block="branchformer"),
    "branchformer lite": replace(TOY, block="branchformer", mixer="summary-lite"),
    "branchformer attention": replace(TOY, block="branchformer", mixer="attention"),
    "waveform": replace(TOY, front_end="waveform"),
    "base": BASE,
    "base attention": replace(BASE, mixer="attention"),
    "large": LARGE,
    "large attention": replace(LARGE, mixer="attention"),
}
every_kind = pytest.mark.parametrize("config", KINDS.values(), ids=KINDS)


def build(config: EncoderConfig) -> Encoder:
    """Norms and biases away from one and zero, so that padding would show."""
    torch.manual_seed(0)
    encoder = build_encoder(config)
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if config.kind == "mixvec" or name.endswith("bias"):
                parameter.add_(0.1 * torch.randn_like(parameter))
    return encoder.eval()


def layers_of(encoder: Encoder) -> list[nn.Module]:
    return list(encoder.layers if isinstance(encoder, SpeechEncoder) else encoder.encoder.layers)  # type: ignore


def speech(lengths: list[int], junk: float = 0.0) -> tuple[Tensor, Tensor]:
    """Noise of unequal loudness and offset (B, S), lengths (B,); ``junk`` is the scale of what is beyond them."""
    waveforms = junk * torch.randn(len(lengths), max(lengths))
    for row, length in enumerate(lengths):
        waveforms[row, :length] = (row + 1) * torch.randn(length) + row
    return waveforms, torch.tensor(lengths)


@pytest.mark.parametrize("config", [*KINDS.values(), LOG_MEL], ids=[*KINDS, "log-mel"])
@torch.no_grad()
def test_padded_equals_alone(config: EncoderConfig) -> None:
    """Features and every layer, with NaN in the padding, the shortest utterance, and one without a frame."""
    encoder = build(config)
    shortest = encoder.min_samples
    waveforms, lengths = speech([12_880, shortest, 12_880, 9_000, 100], math.nan)
    features, counts = encoder.features(waveforms, lengths)
    output = encoder.encode(features, counts)
    assert len(output.layers) == config.num_layers + 1 and output.layers[-1] is output.frames
    assert counts.tolist() == output.lengths.tolist() == encoder.frame_lengths(lengths).tolist()
    for row, samples in enumerate(lengths.tolist()):
        frames = int(counts[row])
        assert not any(layer[row, frames:].any() for layer in output.layers)
        if samples >= shortest:
            alone = waveforms[row : row + 1, :samples]
            torch.testing.assert_close(features[row, :frames], encoder.features(alone)[0][0], rtol=0, atol=1e-5)
            for together, single in zip(output.layers, encoder(alone).layers, strict=True):
                torch.testing.assert_close(together[row, :frames], single[0], rtol=0, atol=1e-5)
    last = encoder.encode(features, counts, every_layer=False)
    assert len(last.layers) == 1 and torch.equal(last.frames, output.frames)


@every_kind
def test_an_utterance_too_short_for_a_frame_gives_finite_gradients(config: EncoderConfig) -> None:
    encoder = build(config).train()
    output = encoder(*speech([5_000, 100]))
    assert output.lengths[1] == 0
    output.frames.square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    assert encoder.mask_embedding.grad.abs().sum() == 0  # type: ignore[operator,union-attr]


def millions(module: nn.Module) -> float:
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


def test_sizes() -> None:
    """arXiv 2407.13377: 154.8 M in pretraining, its attention baseline 165.3 M, to 0.1 %."""
    with torch.device("meta"):
        names = ("tiny", "small", "base", "large")
        tiny, small, base, large = (SpeechEncoder(encoder_config(name)) for name in names)
        attention = SpeechEncoder(replace(encoder_config("base"), mixer="attention"))
        ours, theirs = (Contrastive(encoder, ContrastiveConfig()) for encoder in (base, attention))
    assert millions(ours) == pytest.approx(154.76, rel=1e-4)
    assert millions(theirs) == pytest.approx(165.3, rel=1e-3)
    assert millions(base.layers) + millions(base.norm) == pytest.approx(152.8, rel=1e-3)
    for encoder, expected in ((tiny, 1.2), (small, 10.5), (large, 538)):
        assert millions(encoder) == pytest.approx(expected, rel=0.01)


def test_sizes_and_kinds_are_named() -> None:
    with pytest.raises(ValueError, match="size=huge is unknown; choose one of tiny, small, base, large"):
        encoder_config("huge")
    with pytest.raises(ValueError, match="use build_encoder"):
        SpeechEncoder(SIZES["wav2vec2-base"])
    assert isinstance(build_encoder(TOY), SpeechEncoder)
    encoder = SpeechEncoder(TOY)
    assert (encoder.dim, encoder.feature_dim, encoder.num_layers) == (32, 32, 2)
    assert (encoder.sample_rate_hz, encoder.hop_samples) == (16_000, 320)


def test_contradictory_configurations_name_their_keys() -> None:
    faults: list[tuple[dict[str, object], str]] = [
        ({"heads": 3}, "dim=32 is not a multiple of encoder.heads=3"), ({"dim": 15, "heads": 5}, "dim=15 must be even"),
        ({"conv_kernel": 4}, "conv_kernel=4 must be odd"), ({"conv_strides": (2, 0)}, "conv_strides=(2, 0)"),
        ({"num_layers": 0}, "num_layers=0 must be at least 1"), ({"dropout": 1.0}, "dropout=1.0"),
        ({"layer_drop": -0.1}, "layer_drop=-0.1"), ({"kind": "wav2vec2"}, "kind=wav2vec2 needs encoder.front_end"),
        ({"front_end": "waveform-groupnorm"}, "front_end=waveform-groupnorm leaks padding"),
        ({"mixer": "summary-lite"}, "mixer=summary-lite needs encoder.block=branchformer"),
        ({"block": "branchformer", "ffn_dim": 25}, "ffn_dim=25 must be even"),
    ]  # fmt: skip
    for changes, message in faults:
        with pytest.raises(ValueError, match=re.escape(f"encoder.{message}")):
            replace(TOY, **changes)  # type: ignore[arg-type]


def test_batches_that_do_not_fit_are_named() -> None:
    encoder = SpeechEncoder(TOY)
    with pytest.raises(ValueError, match="959 samples are shorter than one frame; pad to at least 960"):
        encoder(torch.zeros(1, 959))
    with pytest.raises(ValueError, match=r"\(2, 960\) and \(1,\)"):
        encoder(torch.zeros(2, 960), torch.tensor([960]))
    with pytest.raises(ValueError, match=r"\(2, 960, 1\)"):
        encoder(torch.zeros(2, 960, 1))


@every_kind
def test_layer_drop_gives_zero_gradients_never_none(config: EncoderConfig) -> None:
    encoder = build(replace(config, num_layers=8, layer_drop=0.9)).train()
    torch.manual_seed(1)
    output = encoder(*speech([4_000, 3_000]))
    kept = [not torch.equal(a, b) for a, b in zip(output.layers[:-2], output.layers[1:-1], strict=True)]
    assert True in kept and False in kept
    (output.frames * torch.randn_like(output.frames)).sum().backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None] == []
    for layer, was_kept in zip(layers_of(encoder), kept, strict=False):
        moved = sum(float(p.grad.abs().sum()) for p in layer.parameters() if p.grad is not None)
        assert (moved > 0) == was_kept
    layers = encoder.eval()(*speech([4_000])).layers
    assert not any(torch.equal(a, b) for a, b in pairwise(layers[:-1])), "for training alone"


@every_kind
def test_checkpointing_gives_the_same_gradients(config: EncoderConfig) -> None:
    """With dropout: the second forward draws the same numbers as the first.

    Selective checkpointing computes hardly any product again."""
    config, batch = replace(config, num_layers=4, dropout=0.2, layer_drop=0.3), speech([4_000, 3_000])
    gradients, flops = [], []
    for checkpointing in (False, True, "selective")[: 3 if config.kind == "mixvec" else 2]:
        encoder = build(replace(config, checkpointing=checkpointing)).train()  # type: ignore[arg-type]
        for module in encoder.modules():
            if isinstance(module, SummaryMixing):
                module.branches = plain_branches  # that of the CPU computes its products again by itself
        torch.manual_seed(3)
        with FlopCounterMode(display=False) as counter:
            encoder(*batch).frames.square().mean().backward()
        flops.append(counter.get_total_flops())
        gradients.append([p.grad for p in encoder.parameters()])
    assert flops[0] < flops[1]
    assert flops[0] <= flops[-1] < (flops[0] + flops[1]) / 2 or config.kind == "wav2vec2"
    for other in gradients[1:]:
        torch.testing.assert_close(gradients[0], other, rtol=0, atol=1e-6)


@every_kind
@torch.no_grad()
def test_what_is_under_the_mask_is_hidden(config: EncoderConfig) -> None:
    encoder = build(config)
    features, lengths = encoder.features(*speech([6_000, 5_000]))
    mask = torch.zeros(features.shape[:2], dtype=torch.bool)
    mask[0, 3:8] = mask[1, 6:9] = True
    hidden, plain = encoder.encode(features, lengths, mask).frames, encoder.encode(features, lengths).frames
    changed = features.masked_fill(mask.unsqueeze(-1), 7.0)
    assert torch.equal(encoder.encode(changed, lengths, mask).frames, hidden)
    assert not torch.allclose(plain, hidden, atol=1e-3)
    assert torch.equal(encoder.encode(features, lengths, torch.zeros_like(mask)).frames, plain)
    encoder.mask_embedding += torch.randn(32)  # type: ignore[operator]
    assert not torch.allclose(encoder.encode(features, lengths, mask).frames, hidden, atol=1e-3)


@every_kind
def test_bf16(config: EncoderConfig) -> None:
    """Under autocast and wholly in bf16 the encoder runs, near fp32, forwards and backwards."""
    encoder, batch = build(config), speech([6_000, 4_000])
    with torch.no_grad():
        expected = encoder(*batch).frames
    with torch.autocast("cpu", torch.bfloat16):
        mixed = encoder.train()(*batch).frames
    mixed.float().square().sum().backward()
    pure = encoder.eval().bfloat16()(*batch).frames
    assert pure.dtype == torch.bfloat16
    for got in (mixed, pure):
        assert (got.float() - expected).square().mean().sqrt() < 0.05 * expected.square().mean().sqrt()
