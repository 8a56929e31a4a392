"""Resampling: each sample is the windowed sinc's sum, what is below 7 kHz stays as it is, what is above 8 kHz goes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mixvec.resample import KAISER_BETA, ROLLOFF, ZEROS, resample, resample_blocks

RATES_HZ = [8_000, 11_025, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000]
EDGE = 160
"""Samples at 16 kHz within which the sinc reaches beyond an end."""


def tone(pitch_hz: float, rate_hz: int, seconds: float = 0.32) -> Tensor:
    return torch.from_numpy(np.sin(2 * np.pi * pitch_hz * np.arange(round(seconds * rate_hz)) / rate_hz)).float()


def level_db(samples: np.ndarray) -> float:
    """Of the middle, against a tone's."""
    return 10 * math.log10(2 * np.square(samples[EDGE:-EDGE]).mean() + 1e-20)


def one_at_a_time(waveform: Tensor, rate_hz: int, samples: range) -> list[float]:
    """x(t) = Σ_n x_n · c · sinc(c(n − t)) · kaiser(c(n − t) / ZEROS), t in samples of the input."""
    cutoff, found = ROLLOFF * min(1.0, 16_000 / rate_hz), []
    numbers = np.arange(len(waveform))
    for sample in samples:
        crossings = cutoff * (numbers - sample * rate_hz / 16_000)
        inside = np.abs(crossings) < ZEROS
        window = np.i0(KAISER_BETA * np.sqrt(np.clip(1 - (crossings / ZEROS) ** 2, 0, None))) / np.i0(KAISER_BETA)
        found.append(float((waveform.double().numpy() * np.sinc(crossings) * window * inside).sum() * cutoff))
    return found


@settings(max_examples=60, deadline=None)
@given(rate_hz=st.sampled_from([*RATES_HZ, 1_000, 6_400, 11_130, 192_000]), samples=st.integers(1, 3_000))
def test_each_sample_is_the_sum_that_the_formula_states(rate_hz: int, samples: int) -> None:
    waveform = torch.from_numpy(np.random.default_rng(samples).uniform(-1, 1, samples)).float()
    heard = resample(waveform, rate_hz)
    assert heard.dtype == torch.float32 and heard.is_contiguous()
    assert len(heard) == math.ceil(samples * 16_000 / rate_hz)
    some = range(0, len(heard), max(1, len(heard) // 50))
    np.testing.assert_allclose(heard[list(some)], one_at_a_time(waveform, rate_hz, some), atol=2e-6)


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_speech_s_band_is_flat_and_clean(rate_hz: int) -> None:
    """To 7 kHz, or to seven eighths of what the file holds: a tone stays that tone, within 0.01 dB and −95 dB."""
    for pitch_hz in np.linspace(100, min(7_000, 0.4375 * rate_hz), 12):
        heard, meant = resample(tone(pitch_hz, rate_hz), rate_hz).numpy(), tone(pitch_hz, 16_000).numpy()
        gain = float((heard * meant)[EDGE:-EDGE].sum() / np.square(meant[EDGE:-EDGE]).sum())
        assert abs(20 * math.log10(gain)) < 0.01
        assert level_db(heard - gain * meant) < -95


@pytest.mark.parametrize("rate_hz", [rate_hz for rate_hz in RATES_HZ if rate_hz > 16_000])
def test_what_16_khz_cannot_hold_is_taken_out(rate_hz: int) -> None:
    """Else it would come back below 8 kHz, as a tone that nobody made."""
    for pitch_hz in np.linspace(8_100, 0.499 * rate_hz, 24):
        assert level_db(resample(tone(pitch_hz, rate_hz), rate_hz).numpy()) < -90


def test_16_khz_is_left_alone_and_odd_rates_are_rounded() -> None:
    waveform = torch.randn(500)
    assert resample(waveform, 16_000) is waveform
    assert resample(waveform, 16_003) is waveform
    assert torch.equal(resample(waveform, 11_127), resample(waveform, 11_130))
    assert len(resample(torch.zeros(0), 8_000)) == 0


@settings(max_examples=40, deadline=None)
@given(
    rate_hz=st.sampled_from([*RATES_HZ, 1_000, 11_130, 16_000]),
    sizes=st.lists(st.sampled_from([0, 1, 7, 100, 441, 1_000]), max_size=8),
)
def test_in_blocks_equals_whole(rate_hz: int, sizes: list[int]) -> None:
    waveform = torch.from_numpy(np.random.default_rng(sum(sizes)).uniform(-1, 1, sum(sizes))).float()
    found = list(resample_blocks(waveform.split(sizes) if sizes else [], rate_hz))
    assert len(found) <= len(sizes) + 1
    np.testing.assert_allclose(torch.cat([torch.zeros(0), *found]), resample(waveform, rate_hz), atol=1e-6)
