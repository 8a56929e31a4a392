"""In tiles of time = whole: the mixer's branches, the blocks, the front ends, a whole encoder."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mixvec import EncoderConfig
from mixvec.kernels import cpu
from mixvec.model import tiling
from mixvec.model.tiling import tiled
from tests.mixvec.test_encoder import TOY, build, speech

KINDS = [
    replace(TOY, mel_bins=20, conv_channels=16, dim=16, ffn_dim=24, **changes)  # type: ignore[arg-type]
    for changes in (
        {}, {"conv_strides": (2, 2, 2), "mixer": "attention"}, {"front_end": "waveform", "block": "branchformer"},
        {"block": "branchformer", "mixer": "summary-lite"},
    )
]  # fmt: skip


def set_tiles(monkeypatch: pytest.MonkeyPatch, frames: int) -> None:
    """So few frames a tile, whatever the batch."""
    monkeypatch.setattr(tiling, "TILE_FRAMES", {"cpu": 1})
    monkeypatch.setattr(tiling, "MIN_TILE_FRAMES", frames)
    monkeypatch.setattr(cpu, "TILE_NUMBERS", frames * 3 * 16)


@pytest.mark.parametrize("config", KINDS, ids=lambda c: f"{c.front_end}-{c.conv_strides}-{c.block}-{c.mixer}")
@pytest.mark.parametrize("frames", [5, 12])
def test_an_encoder_in_tiles_equals_the_whole(
    config: EncoderConfig, frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every layer, in a padded batch and alone; a gradient being wanted, nothing is done in tiles."""
    set_tiles(monkeypatch, frames)
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
def test_tiles_see_their_neighbours_and_are_joined_in_order(frames: int, monkeypatch: pytest.MonkeyPatch) -> None:
    set_tiles(monkeypatch, 5)
    x, mask = torch.randn(2, frames, 3), torch.rand(2, frames) < 0.5
    asked: list[int] = []

    def layer(near: Tensor, own: Tensor | None) -> Tensor:
        """The sum over two frames to each side, of those that are not masked."""
        assert own is not None
        asked.append(near.shape[1])
        padded = torch.nn.functional.pad(near * own.unsqueeze(-1), (0, 0, 2, 2))
        return padded.unfold(1, 5, 1).sum(-1)

    whole = layer(x, mask)
    asked.clear()
    torch.testing.assert_close(tiled(layer, x, mask, 2), whole)
    assert asked == [min(frames, i + 7) - max(0, i - 2) for i in range(0, frames, 5)]
