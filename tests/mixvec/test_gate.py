"""The gate finds the speech that was put in, cuts in pauses, and loses none of it whatever the levels are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from mixvec.gate import BELOW_DB, FLOOR_DB, FRAME_S, find_speech, levels_of
from tests.readers import spoken


def found(path: Path, min_s: float = 1.0, max_s: float = 30.0) -> list[tuple[float, float]]:
    samples, rate_hz = soundfile.read(path, dtype="float32")
    return find_speech(levels_of(samples, rate_hz), min_s, max_s)


def assert_near(bounds_s: list[tuple[float, float]], meant: list[tuple[float, float]], off_s: float = 0.045) -> None:
    """Within two frames, which is what smoothing can move an edge by, and rounding."""
    assert len(bounds_s) == len(meant), bounds_s
    np.testing.assert_allclose(bounds_s, meant, atol=off_s)


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 44_100])
@pytest.mark.parametrize("gain", [1.0, 0.03])
def test_speech_is_found_where_it_was_put(tmp_path: Path, rate_hz: int, gain: float) -> None:
    """At any rate and level, with a tenth of a second on each side; pauses under half a second do not part it."""
    path = spoken(tmp_path / "a.wav", 20.0, [(2.0, 5.0), (5.4, 8.0), (9.0, 12.5), (16.0, 19.95)], rate_hz, gain)
    assert_near(found(path), [(1.9, 8.1), (8.9, 12.6), (15.9, 20.0)])


def test_clicks_and_offsets_are_no_speech(tmp_path: Path) -> None:
    path = spoken(tmp_path / "a.wav", 20.0, [(4.0, 9.0), (12.0, 12.03), (15.0, 15.03)])
    assert_near(found(path), [(3.9, 9.1)])
    samples, rate_hz = soundfile.read(path)
    soundfile.write(path, samples + 0.3 * (np.arange(len(samples)) > 10 * rate_hz), rate_hz)
    assert_near(found(path), [(3.9, 9.1)])


def test_silence_is_silence_and_steady_noise_is_not(tmp_path: Path) -> None:
    for name, level, meant in (("zero", 0.0, []), ("hiss", 3e-4, []), ("noise", 0.1, [(0.0, 12.0)])):
        samples = level * np.random.default_rng(0).uniform(-1, 1, 192_000)
        soundfile.write(tmp_path / f"{name}.wav", samples, 16_000, subtype="FLOAT")
        assert_near(found(tmp_path / f"{name}.wav"), meant)


def test_what_is_short_is_widened_within_the_recording(tmp_path: Path) -> None:
    path = spoken(tmp_path / "a.wav", 20.0, [(0.0, 0.3), (8.0, 8.4), (19.5, 19.9)])
    assert_near(found(path, min_s=2.0), [(0.0, 2.0), (7.9, 9.9), (18.0, 20.0)])
    assert_near(found(path, min_s=9.9), [(0.0, 20.0)])


def test_a_run_that_is_too_long_is_cut_in_its_pauses(tmp_path: Path) -> None:
    """In the last third before ``max_s``, however short the pauses are; where there is none, somewhere there."""
    spans = [(0.0, 2.0), (2.4, 8.0), (8.3, 17.0), (17.2, 25.0), (25.25, 50.0)]
    cut = found(spoken(tmp_path / "a.wav", 50.0, spans), max_s=10.0)
    ends = [end for _, end in cut]
    assert [begin for begin, _ in cut] == [0.0, *ends[:-1]] and ends[-1] == pytest.approx(50.0)
    for end, (begin, stop) in zip(ends, [(8.0, 8.3), (17.0, 17.2), (25.0, 25.25), (31.6, 35.3)], strict=False):
        assert begin <= end <= stop
    assert max(end - begin for begin, end in cut) <= 10.0


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32), frames=st.integers(500, 4_000), min_s=st.floats(0.1, 4.0), ratio=st.floats(3.0, 8.0))
def test_stretches_keep_their_bounds_and_lose_no_speech(seed: int, frames: int, min_s: float, ratio: float) -> None:
    """Of levels that wander as speech does: in order, apart, none too short or too long, every loud stretch kept."""
    rng = np.random.default_rng(seed)
    levels_db = np.repeat(rng.uniform(-90, -10, frames), rng.integers(1, 60, frames))[:frames]
    bounds_s = np.array(find_speech(levels_db, min_s, min_s * ratio)).reshape(-1, 2)
    lengths_s = bounds_s[:, 1] - bounds_s[:, 0]
    assert (lengths_s >= min_s - 1e-6).all() and (lengths_s <= min_s * ratio + 1e-6).all()
    assert (bounds_s[1:, 0] >= bounds_s[:-1, 1]).all()
    assert bounds_s.size == 0 or (bounds_s.min() >= 0 and bounds_s.max() <= frames * FRAME_S + 1e-6)
    loud = levels_db > max(FLOOR_DB, np.quantile(np.maximum(levels_db, FLOOR_DB), 0.95) - BELOW_DB)
    middles_s = (np.arange(frames) + 0.5) * FRAME_S
    covered = ((bounds_s[:, :1] <= middles_s) & (middles_s <= bounds_s[:, 1:])).any(axis=0)
    surely = np.convolve(loud, np.ones(5), "same") == 5
    assert covered[surely].all()


def test_values_that_are_not_finite_are_silence(tmp_path: Path) -> None:
    path = spoken(tmp_path / "a.wav", 12.0, [(1.0, 5.0), (7.0, 11.0)])
    samples, rate_hz = soundfile.read(path, dtype="float32")
    samples[20_000:24_000], samples[90_000] = np.nan, np.inf
    soundfile.write(path, samples, rate_hz, subtype="FLOAT")
    levels_db = levels_of(samples, rate_hz)
    assert np.isfinite(levels_db).all() and levels_db[62:75].max() < -100
    assert_near(found(path), [(0.9, 5.1), (6.9, 11.1)])
