"""SpeechEncoder: padded = alone everywhere, the paper's sizes, LayerDrop, checkpointing, masking, precision."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise, product

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mixvec import SIZES, EncoderConfig, SpeechEncoder, build_encoder, encoder_config
from mixvec.model.encoder import sinusoidal_positions
from mixvec.model.mixing import plain_branches
from pretrain.objectives.contrastive import Contrastive, ContrastiveConfig

TOY = EncoderConfig(
    mel_bins=40, conv_channels=32, dim=32, num_layers=2, ffn_dim=48, conv_kernel=7, heads=4, dropout=0.0, layer_drop=0.0
)
KINDS = [
    (mixer, block, front_end)
    for mixer, block, front_end in product(
        ("summary", "summary-lite", "attention"), ("conformer", "branchformer"), ("mel", "waveform")
    )
    if (mixer, block) != ("summary-lite", "conformer")
]
every_kind = pytest.mark.parametrize(("mixer", "block", "front_end"), KINDS)


def toy(mixer: str = "summary", block: str = "conformer", front_end: str = "mel") -> EncoderConfig:
    return replace(TOY, mixer=mixer, block=block, front_end=front_end)  # type: ignore[arg-type]


def build(config: EncoderConfig) -> SpeechEncoder:
    """Norms and biases away from one and zero, so that padding would show."""
    torch.manual_seed(0)
    encoder = SpeechEncoder(config)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return encoder.eval()


def speech(lengths: list[int], junk: float = 0.0) -> tuple[Tensor, Tensor]:
    """Noise of unequal loudness and offset (B, S), lengths (B,); ``junk`` is the scale of what lies beyond them."""
    waveforms = junk * torch.randn(len(lengths), max(lengths))
    for row, length in enumerate(lengths):
        waveforms[row, :length] = (row + 1) * torch.randn(length) + row
    return waveforms, torch.tensor(lengths)


@every_kind
@pytest.mark.parametrize("junk", [100.0, 1e30, math.nan])
@torch.no_grad()
def test_padded_equals_alone(mixer: str, block: str, front_end: str, junk: float) -> None:
    """Every layer's output, with junk in the padding and the shortest legal utterance in the batch."""
    encoder = build(toy(mixer, block, front_end))
    shortest = encoder.min_samples
    assert shortest == {"mel": 960, "waveform": 400}[front_end]
    waveforms, lengths = speech([6_401, shortest, 6_401, 5_003], junk)
    output = encoder(waveforms, lengths)
    assert output.lengths[1] == 1
    assert len(output.layers) == 3
    assert output.layers[-1] is output.frames
    for row, samples in enumerate(lengths.tolist()):
        alone = encoder(waveforms[row : row + 1, :samples])
        frames = int(alone.lengths)
        assert frames == output.lengths[row] == encoder.frame_lengths(samples)
        for together, single in zip(output.layers, alone.layers, strict=True):
            torch.testing.assert_close(together[row, :frames], single[0], rtol=0, atol=1e-5)
            assert together[row, frames:].abs().sum() == 0


@every_kind
def test_an_utterance_too_short_for_a_frame_harms_no_other(mixer: str, block: str, front_end: str) -> None:
    """It has no frames; the others keep theirs, and training goes on with finite gradients."""
    encoder = build(toy(mixer, block, front_end)).train()
    waveforms, lengths = speech([5_000, 100])
    output = encoder(waveforms, lengths)
    assert output.lengths[1] == 0
    assert all(layer[1].abs().sum() == 0 for layer in output.layers)
    torch.testing.assert_close(output.frames[:1], encoder(waveforms[:1]).frames, rtol=0, atol=1e-5)
    output.frames.square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def millions(module: nn.Module) -> float:
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


@pytest.mark.parametrize(("mixer", "expected"), [("summary", 154.8), ("attention", 165.3)])
def test_base_has_the_papers_size(mixer: str, expected: float) -> None:
    """arXiv 2407.13377: 154.8 M in pretraining, its attention twin 165.3 M, to 0.1 %."""
    with torch.device("meta"):
        encoder = build_encoder(replace(encoder_config("base"), mixer=mixer))  # type: ignore[arg-type]
        model = Contrastive(encoder, ContrastiveConfig())
    assert millions(model) == pytest.approx(expected, rel=1e-3)
    if mixer == "summary":
        assert millions(model) == pytest.approx(154.76, rel=1e-4)
        assert isinstance(encoder, SpeechEncoder)
        assert millions(encoder.layers) + millions(encoder.norm) == pytest.approx(152.8, rel=1e-3)


@pytest.mark.parametrize(("size", "expected"), [("tiny", 1.2), ("small", 10.5), ("large", 538)])
def test_other_sizes(size: str, expected: float) -> None:
    with torch.device("meta"):
        encoder = SpeechEncoder(encoder_config(size))
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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 3}, r"encoder\.dim=32 is not a multiple of encoder\.heads=3"),
        ({"dim": 15, "heads": 5}, r"encoder\.dim=15 must be even"),
        ({"conv_kernel": 4}, r"encoder\.conv_kernel=4 must be odd"),
        ({"conv_strides": ()}, r"encoder\.conv_strides=\(\)"),
        ({"conv_strides": (2, 0)}, r"encoder\.conv_strides=\(2, 0\)"),
        ({"num_layers": 0}, r"encoder\.num_layers=0 must be at least 1"),
        ({"dropout": 1.0}, r"encoder\.dropout=1\.0"),
        ({"layer_drop": -0.1}, r"encoder\.layer_drop=-0\.1"),
        ({"front_end": "waveform-groupnorm"}, r"encoder\.front_end=waveform-groupnorm leaks padding"),
        ({"kind": "wav2vec2"}, r"encoder\.kind=wav2vec2 needs encoder\.front_end"),
        ({"mixer": "summary-lite"}, r"encoder\.mixer=summary-lite needs encoder\.block=branchformer"),
        ({"block": "branchformer", "ffn_dim": 25}, r"encoder\.ffn_dim=25 must be even"),
    ],
)
def test_contradictory_configurations_name_their_keys(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TOY, **changes)  # type: ignore[arg-type]


def test_batches_that_do_not_fit_are_named() -> None:
    encoder = SpeechEncoder(TOY)
    with pytest.raises(ValueError, match="959 samples are shorter than one frame; pad to at least 960"):
        encoder(torch.zeros(1, 959))
    with pytest.raises(ValueError, match=r"\(2, 960\) and \(1,\)"):
        encoder(torch.zeros(2, 960), torch.tensor([960]))
    with pytest.raises(ValueError, match=r"\(960,\) and None"):
        encoder(torch.zeros(960))


@every_kind
def test_layer_drop_gives_zero_gradients_never_none(mixer: str, block: str, front_end: str) -> None:
    encoder = build(replace(toy(mixer, block, front_end), num_layers=8, layer_drop=0.9)).train()
    torch.manual_seed(1)
    output = encoder(*speech([4_000, 3_000]))
    kept = [not torch.equal(a, b) for a, b in zip(output.layers[:-2], output.layers[1:-1], strict=True)]
    assert True in kept and False in kept
    (output.frames * torch.randn_like(output.frames)).sum().backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None] == []
    for layer, was_kept in zip(encoder.layers, kept, strict=False):
        moved = sum(float(p.grad.abs().sum()) for p in layer.parameters() if p.grad is not None)
        assert (moved > 0) == was_kept


@torch.no_grad()
def test_layer_drop_is_for_training_alone() -> None:
    layers = build(replace(TOY, num_layers=4, layer_drop=0.99))(*speech([4_000])).layers
    assert not any(torch.equal(a, b) for a, b in pairwise(layers[:-1]))


@every_kind
def test_checkpointing_gives_the_same_gradients(mixer: str, block: str, front_end: str) -> None:
    """With dropout and LayerDrop: the second forward draws the same numbers as the first.

    Selective: all modules run again, and hardly any product is computed again."""
    config, batch = (
        replace(toy(mixer, block, front_end), num_layers=4, dropout=0.2, layer_drop=0.3),
        speech([4_000, 3_000]),
    )
    gradients, forwards, flops = [], [], []
    for checkpointing in (False, True, "selective"):
        encoder = build(replace(config, checkpointing=checkpointing)).train()
        calls: list[int] = []
        for layer in encoder.layers:
            layer.norm.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
            layer.mixer.branches = plain_branches  # that of the CPU recomputes its products by itself
        torch.manual_seed(3)
        with FlopCounterMode(display=False) as counter:
            encoder(*batch).frames.square().mean().backward()
        flops.append(counter.get_total_flops())
        forwards.append(len(calls))
        gradients.append([p.grad for p in encoder.parameters()])
    assert forwards[1] == forwards[2] == 2 * forwards[0] > 0
    assert flops[0] <= flops[2] < (flops[0] + flops[1]) / 2 < flops[1], flops
    for other in gradients[1:]:
        torch.testing.assert_close(gradients[0], other, rtol=0, atol=1e-6)


@every_kind
@torch.no_grad()
def test_what_is_under_the_mask_is_hidden(mixer: str, block: str, front_end: str) -> None:
    encoder = build(toy(mixer, block, front_end))
    features, lengths = encoder.features(*speech([6_000, 5_000]))
    mask = torch.zeros(features.shape[:2], dtype=torch.bool)
    mask[0, 3:8] = mask[1, 6:9] = True
    hidden = encoder.encode(features, lengths, mask).frames
    changed = features.masked_fill(mask.unsqueeze(-1), 7.0)
    assert torch.equal(encoder.encode(changed, lengths, mask).frames, hidden)
    assert not torch.allclose(encoder.encode(features, lengths).frames, hidden, atol=1e-3)
    assert torch.equal(
        encoder.encode(features, lengths, torch.zeros_like(mask)).frames, encoder.encode(features, lengths).frames
    )
    encoder.mask_embedding += torch.randn(32)
    assert not torch.allclose(encoder.encode(features, lengths, mask).frames, hidden, atol=1e-3)


def test_mask_embedding_has_a_zero_gradient_where_nothing_is_masked() -> None:
    encoder = build(TOY).train()
    encoder(*speech([4_000])).frames.sum().backward()
    assert encoder.mask_embedding.grad is not None
    assert encoder.mask_embedding.grad.abs().sum() == 0


def test_sinusoidal_positions() -> None:
    got = sinusoidal_positions(50, 16, torch.device("cpu"))
    for t in range(50):
        for i in range(8):
            angle = t / 10_000 ** (2 * i / 16)
            assert float(got[t, 2 * i]) == pytest.approx(math.sin(angle), abs=1e-5)
            assert float(got[t, 2 * i + 1]) == pytest.approx(math.cos(angle), abs=1e-5)


@torch.no_grad()
def test_input_embedding_is_projection_plus_position() -> None:
    encoder = build(TOY)
    features, lengths = encoder.features(*speech([4_000]))
    expected = encoder.project(features) + sinusoidal_positions(features.shape[1], 32, features.device)
    output = encoder.encode(features, lengths)
    torch.testing.assert_close(output.layers[0], expected)
    torch.testing.assert_close(output.layers[1], encoder.layers[0](expected, None))
    torch.testing.assert_close(output.frames, encoder.norm(encoder.layers[1](output.layers[1], None)))


@every_kind
def test_bf16(mixer: str, block: str, front_end: str) -> None:
    """Under autocast and wholly in bf16 the encoder runs, near fp32, forwards and backwards."""
    encoder, batch = build(toy(mixer, block, front_end)), speech([6_000, 4_000])
    with torch.no_grad():
        expected = encoder(*batch).frames
    with torch.autocast("cpu", torch.bfloat16):
        mixed = encoder.train()(*batch).frames
    mixed.float().square().sum().backward()
    pure = encoder.eval().bfloat16()(*batch).frames
    assert pure.dtype == torch.bfloat16
    for got in (mixed, pure):
        assert (got.float() - expected).square().mean().sqrt() < 0.05 * expected.square().mean().sqrt()
