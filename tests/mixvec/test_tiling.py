"""In tiles of time = whole: the mixer's branches with their gradients, the blocks, the front ends, a whole encoder."""

from __future__ import annotations

import weakref
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mixvec import CtcRecognizer, EncoderConfig, SpeechEncoder, SummaryMixing
from mixvec.kernels import cpu
from mixvec.model import tiling
from mixvec.model.mixing import plain_branches
from mixvec.model.tiling import in_tiles, with_context

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


def lively(module: torch.nn.Module) -> torch.nn.Module:
    """Norms and biases away from one and zero, so that padding would show."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module.eval()


def speech(lengths: list[int]) -> tuple[Tensor, Tensor]:
    """Noise (B, S) with junk beyond each length, and lengths (B,)."""
    waveforms = torch.full((len(lengths), max(lengths)), 9.0)
    for row, length in enumerate(lengths):
        waveforms[row, :length] = (row + 1) * torch.randn(length) + row
    return waveforms, torch.tensor(lengths)


@pytest.mark.parametrize("config", KINDS, ids=lambda c: f"{c.front_end}-{c.conv_strides}-{c.block}-{c.mixer}")
@pytest.mark.usefixtures("tile_frames")
def test_an_encoder_in_parts_equals_the_whole(config: EncoderConfig) -> None:
    """Every layer, in a padded batch and alone; a gradient being wanted, nothing is done in parts."""
    encoder = lively(SpeechEncoder(config))
    waveforms, lengths = speech([9_001, 2_000, 6_400])
    hidden = torch.rand(3, int(encoder.frame_lengths(9_001))) < 0.3
    whole = encoder.encode(*encoder.features(waveforms, lengths), hidden)
    assert whole.frames.requires_grad
    with torch.no_grad():
        found = encoder.encode(*encoder.features(waveforms, lengths), hidden)
        alone = encoder(waveforms[:1])
    for one, other in zip(found.layers, whole.layers, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    torch.testing.assert_close(alone.frames, encoder(waveforms[:1]).frames, rtol=0, atol=1e-5)


def test_a_part_is_all_that_the_wide_layers_see(tile_frames: int) -> None:
    encoder = lively(SpeechEncoder(TOY))
    seen: list[int] = []
    for name in ("ffn_in", "conv", "ffn_out"):
        for layer in encoder.layers:
            getattr(layer, name).register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[1]))
    for layer in encoder.front_end.convs:
        layer.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[2] // 4))
    with torch.no_grad():
        encoder(torch.randn(1, 16_000))
    assert tile_frames <= max(seen) <= tile_frames + 2 * (TOY.conv_kernel // 2)
    seen.clear()
    encoder(torch.randn(1, 16_000))
    assert max(seen) == encoder.frame_lengths(16_000) == 48


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


@pytest.mark.parametrize("lite", [False, True])
@pytest.mark.parametrize("act", ["swish", "gelu"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.usefixtures("tile_frames")
def test_the_cpu_form_equals_the_plain_one(lite: bool, act: str, masked: bool, bf16: bool) -> None:
    """Forwards and backwards, with NaN under the padding where there is any."""
    mixer = lively(SummaryMixing(16, 4, lite=lite, act=act))  # type: ignore[arg-type]
    assert isinstance(mixer, SummaryMixing)
    mask = torch.arange(23) < torch.tensor([[23], [1], [11]]) if masked else None
    x = torch.randn(3, 23, 16, requires_grad=True)
    named, found = [*mixer.first.parameters(), *mixer.second.parameters()], []
    dtype = torch.bfloat16 if bf16 else torch.float32
    for form in (plain_branches, cpu.branches):
        weights = [weight.detach().to(dtype).requires_grad_() for weight in named]
        f, mean = form(x.to(dtype), mask, *weights, act == "gelu")  # type: ignore[arg-type]
        torch.manual_seed(1)
        loss = (mean * torch.randn(mean.shape)).sum() + (f * torch.randn(f.shape)).sum()
        found.append([f, mean, *torch.autograd.grad(loss, [x, *weights])])
    for plain, own in zip(*found, strict=True):
        assert plain.dtype == own.dtype and plain.shape == own.shape
        scale = float(plain.detach().abs().max()) if plain.numel() else 1.0
        torch.testing.assert_close(own, plain, rtol=0, atol=(3e-2 if bf16 else 1e-5) * max(scale, 1.0))


def test_nothing_but_the_input_waits_for_the_backward_pass() -> None:
    """Of f and s themselves no hidden layer is kept: x and the weights, and what c and the norms keep."""
    mixer = SummaryMixing(16, 4, norm=False, dropout=0.0)
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        if tensor.dim() == 3 and tensor.shape[1] == 1000:
            kept.append(tensor.data_ptr())
        return tensor

    x = torch.randn(1, 1000, 16, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        mixer(x)
    assert len(set(kept)) == 2  # x, and what the activation was given; c keeps f in two dimensions


@pytest.mark.parametrize(("layers", "count"), [("last", 1), ("weighted", 3)])
@torch.no_grad()
def test_a_head_keeps_the_layers_that_it_reads(layers: str, count: int) -> None:
    model = lively(CtcRecognizer(SpeechEncoder(TOY), ["[PAD]", "|", "a"], layers))  # type: ignore[arg-type]
    assert isinstance(model, CtcRecognizer)
    given: list[int] = []
    model.choice.register_forward_pre_hook(lambda _, args: given.append(len(args[0].layers)))
    waveforms, lengths = speech([9_001, 2_000])
    log_probs, _ = model(waveforms, lengths)
    assert given == [count]
    every = model.head(model.encoder(waveforms, lengths))
    assert torch.equal(log_probs, every)


@torch.no_grad()
def test_without_every_layer_earlier_ones_are_let_go() -> None:
    encoder = lively(SpeechEncoder(replace(TOY, num_layers=4)))
    outputs: list[weakref.ref[Tensor]] = []
    alive: list[int] = []
    for layer in encoder.layers:
        layer.register_forward_pre_hook(lambda *_: alive.append(sum(output() is not None for output in outputs)))
        layer.register_forward_hook(lambda _, given, output: outputs.append(weakref.ref(output)))
    encoder(torch.randn(1, 8_000), every_layer=False)
    assert alive == [0, 1, 1, 1]
