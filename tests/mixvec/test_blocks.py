"""The blocks: their arithmetic written out, what reaches how far, and that padding never reaches a real frame."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixvec import EncoderConfig
from mixvec.model.blocks import BranchformerBlock, ConformerBlock, ConvModule

DIM, FRAMES = 16, 20
LENGTHS = (20, 1, 13)
TOY = EncoderConfig(
    mel_bins=10, conv_channels=8, dim=DIM, num_layers=1, ffn_dim=24, conv_kernel=5, heads=4, dropout=0.0
)


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
