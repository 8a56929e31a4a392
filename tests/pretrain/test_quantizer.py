"""The Gumbel quantizer: what it picks, what it returns, what it learns from, and its temperature."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.objectives.quantizer import GumbelQuantizer, gumbel_temperature

FEATURES, CODEBOOKS, ENTRIES, CODE_DIM, FRAMES = 6, 2, 5, 8, 40
KEYS = torch.tensor([7, 99])


def build() -> GumbelQuantizer:
    return GumbelQuantizer(FEATURES, CODEBOOKS, ENTRIES, CODE_DIM)


def codes_of(quantizer: GumbelQuantizer, entries: Tensor) -> Tensor:
    """Entries (N, G) to codes (N, D): each frame's entries side by side, through the projection."""
    rows = [torch.cat([quantizer.table[g, int(e)] for g, e in enumerate(frame)]) for frame in entries]
    return quantizer.project(torch.stack(rows))


@torch.no_grad()
def test_eval_picks_the_best_entry() -> None:
    quantizer, features = build().eval(), torch.randn(2, FRAMES, FEATURES)
    codes, entries, logits = quantizer(features, 1.0, KEYS)
    assert logits.shape == (2, FRAMES, CODEBOOKS, ENTRIES)
    torch.testing.assert_close(logits.flatten(2), features @ quantizer.score.weight.T + quantizer.score.bias)
    assert torch.equal(entries, logits.argmax(-1))
    torch.testing.assert_close(codes.flatten(0, 1), codes_of(quantizer, entries.flatten(0, 1)))
    assert torch.equal(quantizer(features, 0.1, KEYS).codes, codes)


@torch.no_grad()
def test_training_draws_entries_in_proportion() -> None:
    """The Gumbel trick samples from softmax(logits), whatever the temperature; codes are those of the entries."""
    quantizer, feature = build().train(), torch.randn(1, 1, FEATURES) / 3
    codes, entries, logits = quantizer(feature.expand(2, 10_000, -1), 0.5, KEYS)
    torch.testing.assert_close(codes[0, :50], codes_of(quantizer, entries[0, :50]))
    shares = F.one_hot(entries, ENTRIES).float().mean((0, 1))
    torch.testing.assert_close(shares, logits[0, 0].softmax(-1), rtol=0, atol=0.02)


@torch.no_grad()
def test_noise_belongs_to_the_utterance() -> None:
    """The same entries alone, in another row and with more padding; other entries under another key."""
    quantizer, features = build().train(), torch.randn(2, FRAMES, FEATURES)
    both = quantizer(features, 1.0, KEYS).entries
    alone = quantizer(features[1:, :30], 1.0, KEYS[1:]).entries
    assert torch.equal(both[1:, :30], alone)
    assert torch.equal(quantizer(features.flip(0), 1.0, KEYS.flip(0)).entries, both.flip(0))
    assert not torch.equal(quantizer(features, 1.0, KEYS + 1).entries, both)


@pytest.mark.parametrize("temperature", [2.0, 0.5])
def test_gradient_is_that_of_the_soft_choice(temperature: float) -> None:
    """Straight through: hard codes forwards; backwards the derivative of softmax((logits + noise) / temperature)."""
    quantizer, features = build().train(), torch.randn(2, FRAMES, FEATURES)
    weights = torch.randn(2, FRAMES, CODE_DIM)
    out = quantizer(features, temperature, KEYS)
    (got,) = torch.autograd.grad((out.codes * weights).sum(), quantizer.score.weight)
    noise = quantizer._noise(KEYS, out.logits)
    soft = ((quantizer.logits(features) + noise) / temperature).softmax(-1)
    assert torch.equal(soft.argmax(-1), out.entries)
    chosen = torch.einsum("bngv,gvd->bngd", soft, quantizer.table).flatten(2)
    (expected,) = torch.autograd.grad((quantizer.project(chosen) * weights).sum(), quantizer.score.weight)
    assert got.abs().sum() > 0
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_under_autocast_all_stays_in_fp32() -> None:
    quantizer, features = build().eval(), torch.randn(2, FRAMES, FEATURES)
    expected = quantizer(features, 1.0, KEYS)
    with torch.autocast("cpu", torch.bfloat16):
        got = quantizer(features, 1.0, KEYS)
        half = quantizer(features.bfloat16(), 1.0, KEYS)
    assert torch.equal(got.codes, expected.codes)
    assert torch.equal(got.logits, expected.logits)
    assert half.codes.dtype == half.logits.dtype == torch.float32


def test_temperature_falls_geometrically_then_stays() -> None:
    assert gumbel_temperature(0.0, 2.0, 0.25, 0.7) == 2.0
    assert gumbel_temperature(0.7, 2.0, 0.25, 0.7) == pytest.approx(0.25)
    assert gumbel_temperature(1.0, 2.0, 0.25, 0.7) == pytest.approx(0.25)
    assert gumbel_temperature(0.35, 2.0, 0.25, 0.7) == pytest.approx((2.0 * 0.25) ** 0.5)
    assert gumbel_temperature(0.1, 2.0, 0.25, 0.0) == 0.25
    falling = [gumbel_temperature(i / 100, 2.0, 0.25, 0.7) for i in range(101)]
    assert falling == sorted(falling, reverse=True)
    ratios = {round(b / a, 6) for a, b in itertools.pairwise(falling[:70])}
    assert len(ratios) == 1
