"""Channels: which is read, and what is said where they cancel or one is silent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from mixvec import UserError
from mixvec.audio import read_audio, silent_channels
from mixvec.data.config import DataConfig
from mixvec.data.sources import find_utterances
from tests.av_files import write_av

LEFT, RIGHT = np.random.default_rng(0).uniform(-0.4, 0.4, (2, 16_000)).astype(np.float32)


def stereo(path: Path, left: np.ndarray, right: np.ndarray) -> Path:
    soundfile.write(path, np.stack([left, right], 1), 16_000, subtype="FLOAT")
    return path


def test_each_choice(tmp_path: Path) -> None:
    path = stereo(tmp_path / "a.wav", LEFT, 2 * RIGHT)
    for channel, meant in [("mean", LEFT / 2 + RIGHT), ("0", LEFT), ("1", 2 * RIGHT), ("loudest", 2 * RIGHT)]:
        torch.testing.assert_close(read_audio(path, channel=channel), torch.from_numpy(meant))
        (utterance,) = find_utterances(str(tmp_path), "data.train", channel=channel).utterances[:1]
        assert torch.equal(utterance.read(), read_audio(path, channel=channel))
    with pytest.raises(UserError, match=r"a\.wav: has no channel 2"):
        read_audio(path, channel="2")
    for wrong in ("left", "-1", "1.5"):
        with pytest.raises(ValueError, match=r"data\.channel="):
            DataConfig(channel=wrong)


def test_loudest_of_one_channel_and_of_what_ffmpeg_reads(tmp_path: Path) -> None:
    path = write_av(tmp_path / "a.m4a", LEFT, 16_000, "aac", "ipod")
    assert torch.equal(read_audio(path, channel="loudest"), read_audio(path))


def test_channels_that_cancel_and_silent_ones_are_named(tmp_path: Path) -> None:
    path = stereo(tmp_path / "a.wav", LEFT, -LEFT)
    with pytest.raises(UserError, match=r"a\.wav: its 2 channels cancel"):
        read_audio(path)
    assert torch.equal(read_audio(path, channel="0"), torch.from_numpy(LEFT))
    silent = stereo(tmp_path / "b.wav", np.zeros_like(LEFT), RIGHT)
    assert silent_channels(silent) == [0] and silent_channels(path) == []
    first, *rest = find_utterances(str(tmp_path), "data.train").channel_warnings("data.train")
    assert "data.train" in first and "a.wav" in first and len(rest) == 1
    only = find_utterances(str(silent), "data.train")
    assert "channel 0 is silent" in only.channel_warnings("data.train")[0]
    assert find_utterances(str(silent), "data.train", channel="loudest").channel_warnings("data.train") == []
