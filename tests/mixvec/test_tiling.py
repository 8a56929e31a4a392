"""In tiles of time = whole: the mixer's branches with their gradients, the blocks, the front ends, a whole encoder."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mixvec import EncoderConfig
from mixvec.kernels import cpu
from mixvec.model import tiling
from mixvec.model.tiling import in_tiles, with_context
from tests.mixvec.test_encoder import build, speech

TOY = EncoderConfig(
    mel_bins=20, conv_channels=16, dim=16, num_layers=2, ffn_dim=24, conv_kernel=7, heads=4, dropout=0.0, layer_drop=0.0
)
KINDS = [
    replace(TOY, **changes)
    for changes in (
        {}, {"conv_strides": (2, 2, 2)}, {"front_end": "waveform"}, {"block": "branchformer"},
        {"block": "branchformer", "mixer": "summary-lite"}, {"mixer": "attention"},
    )
]  # fmt: skip


@pytest.fixture(params=[5, 12])
def tile_frames(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """So few frames a part, whatever the batch."""
    monkeypatch.setattr(tiling, "TILE_FRAMES", {"cpu": 1})
    monkeypatch.setattr(tiling, "MIN_TILE_FRAMES", request.param)
    monkeypatch.setattr(cpu, "TILE_NUMBERS", request.param * 3 * TOY.dim)
    return int(request.param)


@pytest.mark.parametrize("config", KINDS, ids=lambda c: f"{c.front_end}-{c.conv_strides}-{c.block}-{c.mixer}")
@pytest.mark.usefixtures("tile_frames")
def test_an_encoder_in_parts_equals_the_whole(config: EncoderConfig) -> None:
    """Every layer, in a padded batch and alone; a gradient being wanted, nothing is done in parts."""
    encoder = build(config)
    waveforms, lengths = speech([9_001, 2_000, 6_400], 9.0)
    hidden = torch.rand(3, int(encoder.frame_lengths(9_001))) < 0.3
    whole = encoder.encode(*encoder.features(waveforms, lengths), hidden)
    assert whole.frames.requires_grad
    with torch.no_grad():
        found = encoder.encode(*encoder.features(waveforms, lengths), hidden)
        alone = encoder(waveforms[:1])
    for one, other in zip(found.layers, whole.layers, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    torch.testing.assert_close(alone.frames, encoder(waveforms[:1]).frames, rtol=0, atol=1e-5)


@pytest.mark.parametrize("frames", [1, 4, 5, 6, 17])
@torch.no_grad()
def test_parts_are_joined_in_order(tile_frames: int, frames: int) -> None:
    x = torch.randn(2, frames, 3)
    asked: list[tuple[int, int]] = []

    def tile(first: int, end: int | None) -> Tensor:
        end = frames if end is None else end
        asked.append((first, end))
        near, inner = with_context(x, first, end, 2)
        assert near.shape[1] == min(frames, end + 2) - max(0, first - 2)
        return near[:, inner]

    assert torch.equal(in_tiles(tile, frames, x), x)
    assert asked == [(i, min(frames, i + tile_frames)) for i in range(0, frames, tile_frames)]
