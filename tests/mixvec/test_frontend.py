"""The front ends: how many frames, what the log-mel is, and that no utterance sees the padding or its neighbours."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchaudio.functional import melscale_fbanks

from mixvec import EncoderConfig, build_encoder
from mixvec.model.frontend import ConvLayer, MelFrontEnd, WaveformFrontEnd
from mixvec.model.logmel import DEVIATION, MEAN
from mixvec.model.mel import mel_filters, normalise, normalised_log_mel

FRONT_ENDS = ["mel-20ms", "mel-40ms", "waveform"]
SHORTEST = {"mel-20ms": 960, "mel-40ms": 960, "waveform": 400}


def build(name: str) -> MelFrontEnd | WaveformFrontEnd:
    """At 32 channels, with every norm and bias away from one and zero."""
    front = WaveformFrontEnd(32) if name == "waveform" else MelFrontEnd(80, 32, (2, 1) if "20" in name else (2, 2))
    with torch.no_grad():
        for parameter in front.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return front.eval()


def speech(lengths: list[int], junk: float) -> tuple[Tensor, Tensor]:
    """Noise of unequal loudness and offset, ``junk`` beyond each length."""
    waveforms = torch.full((len(lengths), max(lengths)), junk)
    for row, length in enumerate(lengths):
        waveforms[row, :length] = (row + 1) * torch.randn(length) + row
    return waveforms, torch.tensor(lengths)


@pytest.mark.parametrize("name", FRONT_ENDS)
@torch.no_grad()
def test_frame_lengths_are_those_of_the_frames(name: str) -> None:
    front = build(name)
    samples = [SHORTEST[name], 1_279, 1_280, 1_281, 1_599, 1_600, 1_601, 1_920, 3_333]
    assert [front(torch.randn(1, s), None).shape[1] for s in samples] == [front.frame_lengths(s) for s in samples]
    assert front.frame_lengths(torch.tensor(samples)).tolist() == [front.frame_lengths(s) for s in samples]
    assert [front.frame_lengths(s) for s in (0, 1, SHORTEST[name] - 1, SHORTEST[name])] == [0, 0, 0, 1]
    assert front.frame_lengths(torch.tensor([0, 1, SHORTEST[name] - 1])).tolist() == [0, 0, 0]
    frames_a_minute = 3_000 if "40" not in name else 1_500
    assert front.hop_samples == 16_000 * 60 // frames_a_minute
    assert abs(front.frame_lengths(16_000 * 60) - frames_a_minute) <= 4


def mel_oracle(waveform: np.ndarray) -> np.ndarray:
    """Log-mel (T, 80) of one waveform, window by window in fp64, before the normalisation of bins."""
    normal = (waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-5)
    padded = np.pad(normal, 200)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    filters = melscale_fbanks(201, 0.0, 8_000.0, 80, 16_000).double().numpy()
    rows = []
    for t in range(len(waveform) // 160 + 1):
        power = np.abs(np.fft.rfft(padded[t * 160 : t * 160 + 400] * hann)) ** 2
        rows.append(np.log(np.maximum(power @ filters, 1e-6)))
    return np.stack(rows)


@torch.no_grad()
def test_log_mel_equals_windows_of_an_fft() -> None:
    front = build("mel-20ms")
    assert isinstance(front, MelFrontEnd)
    waveforms, lengths = speech([2_000, 3_111], 7.0)
    got = normalised_log_mel(waveforms, lengths, front.tables)
    for row, samples in enumerate(lengths.tolist()):
        expected = mel_oracle(waveforms[row, :samples].double().numpy())
        expected = (expected - expected.mean(0)) / np.sqrt(expected.var(0) + 1e-5)
        frames = samples // 160 + 1
        np.testing.assert_allclose(got[row, :frames], expected, atol=2e-3)
        assert got[row, frames:].abs().sum() == 0


@torch.no_grad()
def test_convolutions_are_each_followed_by_layer_norm_and_gelu() -> None:
    front = build("mel-20ms")
    assert isinstance(front, MelFrontEnd)
    waveforms = torch.randn(1, 3_200)
    x = normalised_log_mel(waveforms, None, front.tables)[0].double()  # (T, M)
    for layer, stride in zip(front.convs, (2, 1), strict=True):
        assert isinstance(layer, ConvLayer)
        weight = layer.conv.weight.double()  # (C, M, 3)
        assert layer.conv.bias is None
        starts = range(0, len(x) - 2, stride)
        x = torch.stack([sum(x[t + k] @ weight[:, :, k].T for k in range(3)) for t in starts])  # type: ignore[misc]
        x = layer_norm(x, layer.norm)
        x = 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))
    torch.testing.assert_close(front(waveforms, None)[0].double(), layer_norm(x, front.norm), rtol=0, atol=1e-4)


def layer_norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt()
    return scaled * norm.weight.double() + norm.bias.double()


@torch.no_grad()
def test_normalise_and_silence() -> None:
    waveforms, lengths = speech([900, 400], math.nan)
    x = normalise(waveforms.double(), lengths)
    assert x.dtype == torch.float32
    for row, samples in enumerate(lengths.tolist()):
        assert abs(float(x[row, :samples].mean())) < 1e-5
        assert abs(float(x[row, :samples].var(unbiased=False)) - 1) < 1e-3
        assert x[row, samples:].abs().sum() == 0
    for name in FRONT_ENDS:
        assert build(name)(torch.zeros(2, 2_000), torch.tensor([2_000, 0])).isfinite().all()


@pytest.mark.parametrize("mel_bins", [20, 40, 64, 80, 128])
def test_the_filters_are_torchaudios(mel_bins: int) -> None:
    assert torch.equal(mel_filters(mel_bins), melscale_fbanks(201, 0.0, 8_000.0, mel_bins, 16_000))


def test_mel_tables_survive_another_dtype_and_the_meta_device() -> None:
    """They are in no state dict, and neither bfloat16() nor an initialisation without data changes the filters."""
    front, waveforms = build("mel-20ms"), torch.randn(1, 4_000)
    assert isinstance(front, MelFrontEnd) and list(front.buffers()) == []
    expected = normalised_log_mel(waveforms, None, front.tables)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            empty = MelFrontEnd(80, 32, (2, 1))
    finally:
        torch.set_default_dtype(torch.float32)
    for other in (front.bfloat16(), empty.to_empty(device="cpu")):
        assert torch.equal(normalised_log_mel(waveforms, None, other.tables), expected)
    assert all(name.startswith(("convs.", "norm.")) for name in [*front.state_dict(), *build("waveform").state_dict()])


def test_frames_are_log_mel_at_a_fixed_scale() -> None:
    encoder = build_encoder(EncoderConfig(kind="log-mel", dim=80, heads=1, num_layers=0))
    assert list(encoder.parameters()) == [] and encoder.state_dict() == {}
    waveforms, lengths = speech([8_000], 0.0)
    frames, counts, layers = encoder(waveforms, lengths)
    assert counts.tolist() == [51] == [encoder.frame_lengths(8_000)] and len(layers) == 1 and layers[0] is frames
    expected = (torch.from_numpy(mel_oracle(waveforms[0].double().numpy())) - MEAN) / DEVIATION
    torch.testing.assert_close(frames[0].double(), expected, rtol=0, atol=2e-3)
