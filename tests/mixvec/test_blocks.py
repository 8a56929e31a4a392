"""The blocks: their arithmetic written out, what reaches how far, and that padding never reaches a real frame."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixvec import EncoderConfig
from mixvec.model.blocks import BranchformerBlock, ConformerBlock, ConvModule, zero_gradient
from mixvec.model.mixing import build_mixer

DIM, FRAMES = 16, 20
LENGTHS = (20, 1, 13)
TOY = EncoderConfig(
    mel_bins=10, conv_channels=8, dim=DIM, num_layers=1, ffn_dim=24, conv_kernel=5, heads=4, dropout=0.0
)
KINDS = [
    ("conformer", "summary"),
    ("conformer", "attention"),
    ("branchformer", "summary"),
    ("branchformer", "summary-lite"),
    ("branchformer", "attention"),
]
every_kind = pytest.mark.parametrize(("block", "mixer"), KINDS)


def build(block: str, mixer: str, config: EncoderConfig = TOY) -> ConformerBlock | BranchformerBlock:
    config = replace(config, block=block, mixer=mixer)  # type: ignore[arg-type]
    module = ConformerBlock(config) if block == "conformer" else BranchformerBlock(config)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module.eval()


def inputs() -> tuple[Tensor, Tensor]:
    """x (B, T, D) with junk in the padding, and the mask (B, T)."""
    mask = torch.arange(FRAMES) < torch.tensor(LENGTHS).unsqueeze(1)
    return torch.randn(3, FRAMES, DIM).masked_fill(~mask.unsqueeze(-1), 1e3), mask


@every_kind
@torch.no_grad()
def test_padded_equals_alone(block: str, mixer: str) -> None:
    module = build(block, mixer)
    x, mask = inputs()
    together = module(x, mask)
    for row, length in enumerate(LENGTHS):
        alone = module(x[row : row + 1, :length], None)[0]
        torch.testing.assert_close(together[row, :length], alone, rtol=0, atol=1e-5)


@torch.no_grad()
def test_conformer_is_its_parts() -> None:
    """½ FFN, mixer, convolution, ½ FFN, each on a residual path, then LayerNorm; and each part matters."""
    module = build("conformer", "summary")
    assert isinstance(module, ConformerBlock)
    x, mask = inputs()
    expected = x + module.ffn_in(x) / 2
    expected = expected + module.mixer(module.mixer_norm(expected), mask)
    expected = expected + module.conv(expected, mask)
    expected = module.norm(expected + module.ffn_out(expected) / 2)
    torch.testing.assert_close(module(x, mask), expected, rtol=0, atol=1e-6)
    for last in (module.ffn_in[4], module.mixer.combine, module.conv.out, module.ffn_out[4]):
        kept = last.weight.clone()
        last.weight.zero_()
        assert not torch.allclose(module(x, mask), expected, atol=1e-2)
        last.weight.copy_(kept)
    torch.testing.assert_close(
        module.ffn_in(x),
        module.ffn_in[4](F.silu(module.ffn_in[1](F.layer_norm(x, (DIM,), *module.ffn_in[0].parameters())))),
    )


@torch.no_grad()
def test_convolution_module_frame_by_frame() -> None:
    module = build("conformer", "summary")
    assert isinstance(module, ConformerBlock)
    conv, (x, mask) = module.conv, inputs()
    assert isinstance(conv, ConvModule)
    value, gate = conv.gate(conv.norm_in(x)).chunk(2, dim=-1)
    hidden = value * torch.sigmoid(gate)
    weight = conv.depthwise.conv.weight[:, 0]  # (D, kernel)
    for row, length in enumerate(LENGTHS):
        for t in range(length):
            near = [(k, t + k - 2) for k in range(5) if 0 <= t + k - 2 < length]
            y = conv.depthwise.conv.bias + sum(weight[:, k] * hidden[row, u] for k, u in near)
            expected = conv.out(F.silu(F.layer_norm(y, (DIM,), conv.norm.weight, conv.norm.bias)))
            torch.testing.assert_close(conv(x, mask)[row, t], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mixer", ["summary", "summary-lite", "attention"])
@torch.no_grad()
def test_branchformer_merges_the_concatenation(mixer: str) -> None:
    """One linear on [mixer; cgMLP], the lite summary repeated over time; with SummaryMixing it becomes an MLP."""
    module = build("branchformer", mixer)
    assert isinstance(module, BranchformerBlock)
    x, mask = inputs()
    mixed = module.mixer(module.mixer_norm(x), mask).expand(-1, FRAMES, -1)
    local, normed = module.local, module.local_norm(x)
    content, gate = F.gelu(local.up(normed)).chunk(2, dim=-1)
    gate = F.conv1d(
        local.norm(gate).masked_fill(~mask.unsqueeze(-1), 0).transpose(1, 2),
        local.depthwise.conv.weight, local.depthwise.conv.bias, padding=2, groups=12,
    ).transpose(1, 2)  # fmt: skip
    merged = module.merge(torch.cat([mixed, local.down(content * gate)], dim=-1))
    if mixer != "attention":
        linear = module.merge_act[1]
        assert isinstance(linear, nn.Linear)
        merged = F.silu(linear(F.silu(merged)))
    real = mask.unsqueeze(-1)
    torch.testing.assert_close(module(x, mask) * real, module.norm(x + merged) * real, rtol=0, atol=1e-5)


@every_kind
@torch.no_grad()
def test_far_frames_are_heard_through_the_mixer_alone(block: str, mixer: str) -> None:
    module = build(block, mixer)
    x = torch.randn(1, FRAMES, DIM)
    other = x.clone()
    other[:, -1] = 2 * torch.randn(DIM)
    assert not torch.allclose(module(x, None)[:, 0], module(other, None)[:, 0], atol=1e-5)
    lite = mixer == "summary-lite"
    module.mixer.forward = lambda x, mask=None: x[:, :1] * 0 if lite else x * 0  # type: ignore[method-assign]
    assert torch.equal(module(x, None)[:, : FRAMES - 3], module(other, None)[:, : FRAMES - 3])
    assert not torch.equal(module(x, None)[:, FRAMES - 3], module(other, None)[:, FRAMES - 3])


@every_kind
def test_every_parameter_learns_and_dropout_is_for_training(block: str, mixer: str) -> None:
    module = build(block, mixer, replace(TOY, dropout=0.3))
    x, mask = inputs()
    x = x.clamp(-3, 3)
    assert torch.equal(module(x, mask), module(x, mask))
    assert not torch.equal(module.train()(x, mask), module(x, mask))
    (module(x, mask) * torch.randn_like(x) * mask.unsqueeze(-1)).sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_zero_gradient_is_zero_and_touches_every_parameter() -> None:
    module = build("conformer", "summary")
    module.norm.weight.requires_grad_(False)
    zero = zero_gradient(module)
    assert zero == 0
    zero.backward()
    for name, parameter in module.named_parameters():
        if name == "norm.weight":
            assert parameter.grad is None
        else:
            assert parameter.grad is not None and parameter.grad.shape == parameter.shape, name
            assert parameter.grad.abs().sum() == 0, name
    assert zero_gradient(module.requires_grad_(False)) == 0


def test_build_mixer_follows_the_configuration() -> None:
    summary = build_mixer(replace(TOY, mixer_norm=False, activation="gelu", dropout=0.4))
    assert isinstance(summary.summary_norm, nn.Identity)
    assert isinstance(summary.act, nn.GELU)
    assert (summary.heads, summary.lite, summary.dropout.p) == (4, False, 0.4)
    lite = build_mixer(replace(TOY, mixer="summary-lite", block="branchformer"))
    assert lite.lite and isinstance(lite.summary_norm, nn.LayerNorm)
    attention = build_mixer(replace(TOY, mixer="attention", heads=2, dropout=0.4))
    assert (attention.heads, attention.dropout) == (2, 0.4)
