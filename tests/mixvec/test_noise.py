"""Noise by keys: uniform and independent, the same for an utterance in any company, and torch's own without keys."""

from __future__ import annotations

import torch
from torch import nn

from mixvec.model.noise import Dropout, fold, gumbel, hashed, set_keys, uniform


def test_one_flipped_bit_flips_half_of_the_others() -> None:
    numbers = torch.randint(0, 2**32, (20_000,))
    before = hashed(numbers)
    for bit in range(32):
        flipped = before ^ hashed(numbers ^ (1 << bit))
        shares = torch.stack([((flipped >> other) & 1).float().mean() for other in range(32)])
        assert (shares - 0.5).abs().max() < 0.025, bit


def test_uniform_and_gumbel_have_their_distributions() -> None:
    """By the Kolmogorov-Smirnov distance, over consecutive keys, frames and channels; never 0, 1 or infinite."""
    keys = fold(fold(torch.arange(50)[:, None, None], torch.arange(40)[:, None]), torch.arange(128))
    drawn = uniform(keys).flatten()
    assert drawn.min() > 0 and drawn.max() < 1
    steps = torch.linspace(0, 1, len(drawn))
    assert (drawn.sort().values - steps).abs().max() < 1.6 / len(drawn) ** 0.5
    extremes = uniform(torch.tensor([0, 2**32 - 1]))
    assert extremes[0] > 0 and extremes[1] < 1 and gumbel(torch.tensor([0, 2**32 - 1])).isfinite().all()
    noise = gumbel(keys).flatten()
    assert ((-(-noise.sort().values).exp()).exp() - steps).abs().max() < 1.6 / len(noise) ** 0.5


def test_dropout_belongs_to_the_utterance() -> None:
    """The same zeros alone, in another row and with more padding; about p of them; the mean stays."""
    layer, keys = Dropout(0.3), torch.tensor([3, 4, 5])
    x = torch.ones(3, 50, 64)
    layer.keys = keys
    dropped = layer(x)
    assert abs(float((dropped == 0).float().mean()) - 0.3) < 0.02
    assert abs(float(dropped.mean()) - 1.0) < 0.03
    layer.keys = keys[1:2]
    assert torch.equal(layer(x[1:2, :20]), dropped[1:2, :20])
    layer.keys = keys.flip(0)
    assert torch.equal(layer(x), dropped.flip(0))
    layer.keys = torch.tensor([8])
    assert not torch.equal(layer(x[:1]), dropped[:1])


def test_each_layer_draws_its_own_and_none_in_eval() -> None:
    model = nn.Sequential(Dropout(0.5), Dropout(0.5)).train()
    set_keys(model, torch.arange(2))
    x = torch.ones(2, 100, 8)
    first, second = model[0](x) != 0, model[1](x) != 0
    assert abs(float((first & second).float().mean()) - 0.25) < 0.05, "independent"
    assert torch.equal(model[0](x) != 0, first), "a layer that runs again, as in checkpointing, draws the same"
    assert torch.equal(model.eval()(x), x)
    set_keys(model.train(), None)
    torch.manual_seed(1)
    one = model(x)
    torch.manual_seed(1)
    assert torch.equal(model(x), one) and not torch.equal(model(x), one), "torch's generator"
