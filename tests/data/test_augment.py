"""Augmentation: each step does what it says, to the decibel and the sample; off, and in scoring, it does nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mixvec import UserError
from mixvec.data.augment import Augmentation, add_noise, change_speed, mix, reverberate
from mixvec.data.batches import LoaderConfig, Updates
from mixvec.data.config import WaveformAugmentConfig
from mixvec.data.sources import Corpus, find_utterances
from pretrain.objectives.contrastive import ContrastiveBatch
from tests.data.test_batches import COLLATE, SECONDS, assert_equal, stream, write_noises

SPEEDS = (0.9, 1.0, 1.1)
OFF = WaveformAugmentConfig()


@pytest.fixture
def speech(tmp_path: Path) -> Corpus:
    return find_utterances(str(write_noises(tmp_path / "speech", SECONDS, 0)), "data.train")


@pytest.fixture
def everything(tmp_path: Path) -> WaveformAugmentConfig:
    noise, reverb = write_noises(tmp_path / "noise", (0.3, 5.0), 1), write_noises(tmp_path / "rir", (0.1, 0.2), 2)
    return WaveformAugmentConfig(SPEEDS, str(reverb), 0.7, 0.6, noise=str(noise), noise_prob=0.6)


def updates_of(corpus: Corpus, config: WaveformAugmentConfig | None, **others: Any) -> Updates[ContrastiveBatch]:
    loader = LoaderConfig(4.0, 2.5, crop_s=1.5, min_s=0.3, workers=0, seed=3)
    return Updates(corpus, COLLATE, replace(loader, **others), augment=config and Augmentation(config, 3))


def ratio_db(signal: Tensor, other: Tensor) -> float:
    return 10 * float((signal.double().square().mean() / other.double().square().mean()).log10())


def sine(hertz: float, seconds: float) -> Tensor:
    return torch.sin(2 * torch.pi * hertz * torch.arange(round(seconds * 16_000), dtype=torch.float64) / 16_000).float()


@pytest.mark.parametrize("factor", [0.5, 0.9, 0.95, 1.0, 1.1, 2.0])
def test_speed_changes_length_tempo_and_pitch(factor: float) -> None:
    tone = sine(440, 2.0001)
    fast = change_speed(tone, factor)
    assert len(fast) == -(-len(tone) * 100 // round(100 * factor))
    spectrum = torch.fft.rfft(fast * torch.hann_window(len(fast))).abs()
    assert int(spectrum.argmax()) * 16_000 / len(fast) == pytest.approx(440 * factor, abs=1.0)
    burst = sine(440, 2.0)
    burst[:16_000] = 0
    assert int((change_speed(burst, factor).abs() > 0.1).nonzero()[0]) == pytest.approx(16_000 / factor, abs=20)


def test_the_speed_of_one_is_known_without_the_others() -> None:
    """The plan asks for all of an epoch, a worker for one."""
    augment = Augmentation(WaveformAugmentConfig(SPEEDS), 7)
    speeds = augment.speeds((2,), 0, 3_000)
    assert [augment.speeds((2,), n, 1)[0] for n in (0, 1, 17, 2_999)] == [speeds[n] for n in (0, 1, 17, 2_999)]
    assert np.array_equal(speeds, Augmentation(augment.config, 7).speeds((2,), 0, 3_000))
    for where, seed in (((3,), 7), ((2,), 8), ((2, 0, 1), 7)):
        other = Augmentation(augment.config, seed).speeds(where, 0, 3_000)
        assert (speeds == other).mean() == pytest.approx(1 / 3, abs=0.05)
    assert [float((speeds == factor).mean()) for factor in SPEEDS] == pytest.approx([1 / 3] * 3, abs=0.05)
    assert Augmentation(OFF, 7).speeds((2,), 5, 3).tolist() == [1.0] * 3


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1_000), samples=st.integers(2, 3_000), noise_samples=st.integers(1, 5_000),
    snr_db=st.floats(-40, 40), loud=st.floats(1e-6, 1e6), noise_loud=st.floats(1e-6, 1e6),
)  # fmt: skip
def test_the_measured_ratio_is_the_one_asked_for(
    seed: int, samples: int, noise_samples: int, snr_db: float, loud: float, noise_loud: float
) -> None:
    """Whatever the levels and the lengths; a shorter noise is repeated."""
    generator = torch.Generator().manual_seed(seed)
    clip = loud * torch.randn(samples, generator=generator, dtype=torch.float64)
    noise = noise_loud * torch.randn(noise_samples, generator=generator, dtype=torch.float64)
    added = add_noise(clip, noise, snr_db) - clip
    assert ratio_db(clip, added) == pytest.approx(snr_db, abs=1e-3)
    assert added.isfinite().all()
    repeats = added[noise_samples:]
    assert torch.allclose(repeats, added[: len(repeats)], atol=1e-9 * loud)


@pytest.mark.parametrize("level", [0.0, 1e-30, 1e30])
def test_what_is_silent_or_beyond_measure_is_left_alone(level: float) -> None:
    clip, odd = torch.randn(1_000) / 8, torch.full((1_000,), level)
    assert torch.equal(add_noise(clip, odd, 5.0), clip)
    assert torch.equal(add_noise(odd, clip, 5.0), odd)
    assert torch.equal(mix(clip, odd, 0.0, np.random.default_rng(0)), clip)
    assert torch.equal(reverberate(odd, clip), odd)
    assert reverberate(clip, odd).isfinite().all()


def test_reverberation_is_a_convolution_of_the_same_energy_from_the_direct_path_on() -> None:
    clip = torch.randn(5_000, dtype=torch.float64)
    rir = torch.randn(900, dtype=torch.float64) * torch.exp(-torch.arange(900) / 150)
    rir[40] = 9.0
    whole = torch.from_numpy(np.convolve(clip.numpy(), rir.numpy()))[40:5_040]
    heard = reverberate(clip, rir)
    assert torch.allclose(heard, whole * (clip.norm() / whole.norm()), atol=1e-9)
    assert ratio_db(clip, heard) == pytest.approx(0.0, abs=1e-6)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10_000), samples=st.integers(1, 400), other=st.integers(1, 400), db=st.floats(-5, 5))
def test_mixing_lays_one_stretch_over_at_most_half(seed: int, samples: int, other: int, db: float) -> None:
    clip, partner = torch.randn(samples, dtype=torch.float64), torch.randn(other, dtype=torch.float64)
    added = mix(clip, partner, db, np.random.default_rng(seed)) - clip
    where = added.nonzero().flatten()
    assert len(where) <= min(samples // 2, other)
    if len(where):
        first, last = int(where[0]), int(where[-1]) + 1
        assert last - first == len(where)
        scaled = partner * (clip.square().mean() / partner.square().mean() / 10 ** (db / 10)).sqrt()
        starts = range(other - len(where) + 1)
        assert any(torch.allclose(added[first:last], scaled[s : s + len(where)], atol=1e-9) for s in starts)


@pytest.mark.parametrize("change", [{}, {"speed": ()}, {"reverb": None, "mix_prob": 0.0, "noise": None}])
def test_workers_change_nothing_and_a_resume_is_exact(
    speech: Corpus, everything: WaveformAugmentConfig, change: dict[str, Any]
) -> None:
    config = replace(everything, **change)
    length = updates_of(speech, config).epoch_length(0)
    whole = stream(updates_of(speech, config), 2 * length)
    assert any(not torch.equal(a[1][0].batch.waveforms, b[1][0].batch.waveforms)
               for a, b in zip(whole, stream(updates_of(speech, OFF), 2 * length), strict=True))  # fmt: skip
    assert_equal(whole, stream(updates_of(speech, config, workers=2), 2 * length))
    for done in range(1, len(whole)):
        assert_equal(whole[done:], stream(updates_of(speech, config), 2 * length - done, whole[done - 1][0]))


def test_clips_last_as_planned_and_no_batch_is_above_its_bound(
    speech: Corpus, everything: WaveformAugmentConfig
) -> None:
    """To a sample, that of rounding up; an utterance longer than the crop gives exactly the crop at any speed."""
    updates = updates_of(speech, replace(everything, speed=(0.5, 0.9, 1.1, 1.37, 2.0)))
    for epoch in range(6):
        planned = 16_000 * updates.planned_s(epoch)
        lengths = [len(updates.read(n, epoch).waveform) for n in range(len(SECONDS))]
        assert all(p - 1e-6 <= n < p + 1 for p, n in zip(planned, lengths, strict=True))
        assert all(n == 24_000 for p, n in zip(planned, lengths, strict=True) if p == 24_000)
    slow = updates_of(speech, WaveformAugmentConfig((0.5,)), min_s=1.5)
    assert len(slow.read(3, 0).waveform) == 24_000, "though half as much is read"
    for _, parts in stream(updates, 30):
        assert all(part.padded_s <= 2.5 + len(part.sources) / 16_000 for part in parts)
        assert not any(part.skipped for part in parts)


def test_scoring_is_never_augmented(speech: Corpus, everything: WaveformAugmentConfig) -> None:
    for augmented, plain in zip(updates_of(speech, everything).once(), updates_of(speech, None).once(), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(augmented.batch, plain.batch, strict=True))


def test_each_is_applied_as_often_as_its_probability_within_its_range(tmp_path: Path, speech: Corpus) -> None:
    """From the clips alone: how many differ from the plain ones, and by how many decibels."""
    noise = str(write_noises(tmp_path / "noise", (0.2, 3.0), 1))
    updates = updates_of(speech, WaveformAugmentConfig(noise=noise, noise_prob=0.25, noise_snr_db=(3.0, 9.0)))
    found = []
    for epoch in range(60):
        for number in (0, 2, 5):
            clip, plain = (each.read(number, epoch).waveform for each in (updates, updates_of(speech, None)))
            found += [] if torch.equal(clip, plain) else [ratio_db(plain, clip - plain)]
    assert len(found) / 180 == pytest.approx(0.25, abs=0.1)
    assert 2.99 < min(found) < 4 and 8 < max(found) < 9.01
    mixed = updates_of(speech, WaveformAugmentConfig(mix_prob=1.0))
    same = [torch.equal(*(each.read(5, n).waveform for each in (mixed, updates_of(speech, None)))) for n in range(50)]
    assert sum(same) < 5


def test_a_noise_lost_in_mid_run_skips_the_clip_and_says_why(speech: Corpus, everything: WaveformAugmentConfig) -> None:
    updates = updates_of(speech, replace(everything, noise_prob=1.0, reverb=None, mix_prob=0.0))
    (Path(str(everything.noise)) / "0.wav").unlink()
    (Path(str(everything.noise)) / "1.wav").write_text("no audio any more")
    rows = [row for _, parts in stream(updates, updates.epoch_length(0)) for p in parts for row in p.skipped]
    assert len(rows) == len(SECONDS)
    assert {Path(row["source"]).parent.name for row in rows} == {"speech"}
    assert all(row["reason"].startswith("data.augment.noise: ") for row in rows)
    assert any("0.wav: no such file" in row["reason"] for row in rows)
    assert any("1.wav: not audio that libsndfile can read" in row["reason"] for row in rows)


@pytest.mark.parametrize("key", ["noise", "reverb"])
def test_a_source_without_audio_is_one_line_that_names_its_key(tmp_path: Path, key: str) -> None:
    (tmp_path / "empty").mkdir()
    for source, message in (("/nowhere", "no such file or folder"), (str(tmp_path / "empty"), "no readable audio")):
        with pytest.raises(UserError, match=rf"data\.augment\.{key}={source}: {message}") as caught:
            Augmentation(WaveformAugmentConfig(**{key: source}), 0)
        assert "\n" not in str(caught.value)
