"""Speech synthesis in this process: every voice of the corpus speaks, and the same words give the same samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mixvec.errors import UserError
from tools import corpus, espeak
from tools.espeak import SAMPLE_RATE_HZ, synthesise

ALL_VOICES = {*corpus.UNLABELLED_VOICES, *corpus.VALIDATION_VOICES, *corpus.TEST_VOICES}


def test_every_voice_of_the_corpus_speaks_and_no_two_sound_the_same() -> None:
    spoken = {voice: synthesise("good morning", voice) for voice in ALL_VOICES}
    for voice, waveform in spoken.items():
        assert waveform.dtype == np.float32 and waveform.ndim == 1 and 0.3 < len(waveform) / SAMPLE_RATE_HZ < 3.0, voice
        assert np.isfinite(waveform).all() and np.abs(waveform).max() < 1.0 and np.sqrt(np.mean(waveform**2)) > 0.01
    assert len({waveform.tobytes() for waveform in spoken.values()}) == len(ALL_VOICES) >= 35


def test_speech_depends_on_the_arguments_alone() -> None:
    first = synthesise("open the door", "en-us+f3")  # a breathy voice: its noise has a state in the library
    synthesise("something else entirely", "en+m2", rate_wpm=150, pitch=70, pitch_range=20)
    assert np.array_equal(synthesise("open the door", "en-us+f3"), first)
    assert not np.array_equal(synthesise("open the door", "en-us+f3", pitch=60), first)
    assert not np.array_equal(synthesise("open the window", "en-us+f3"), first)
    assert len(synthesise("open the door", "en-us+f3", rate_wpm=100)) > 1.3 * len(first)


def test_data_in_a_long_path_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    expected = synthesise("open the door", "en-us+f3")
    deep = tmp_path / ("x" * 150)
    deep.mkdir()
    (deep / "espeak-ng-data").symlink_to(espeak.espeakng_loader.get_data_path())
    monkeypatch.setattr(espeak.espeakng_loader, "get_data_path", lambda: str(deep / "espeak-ng-data"))
    monkeypatch.setattr(espeak, "_data_folder", espeak._data_folder.__wrapped__)
    assert np.array_equal(synthesise("open the door", "en-us+f3"), expected)


def test_what_cannot_be_spoken_is_an_error() -> None:
    for voice in ("en-us+nobody", "xx"):
        with pytest.raises(UserError, match=voice.replace("+", ".")):
            synthesise("hello", voice)
