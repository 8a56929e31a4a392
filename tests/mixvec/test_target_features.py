"""Frame-aligned log-mel: which mel frames a frame is aligned with, padded = alone, for every kind of encoder."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mixvec import EncoderConfig, build_encoder
from mixvec.model.mel import MelTables, normalised_log_mel
from tests.tiny_models import MEL, WAV2VEC2, WAVEFORM, speech

CASES: dict[str, tuple[EncoderConfig, tuple[int, int, int], int]] = {
    "mel 40 ms": (MEL, (0, 4, 7), 20),
    "mel 20 ms": (replace(MEL, conv_strides=(2, 1)), (0, 2, 7), 20),
    "waveform": (WAVEFORM, (1, 2, 2), 80),
    "wav2vec2": (WAV2VEC2, (1, 2, 2), 80),
    "log-mel": (EncoderConfig(kind="log-mel", dim=20, heads=1, num_layers=0), (0, 1, 1), 20),
}
"""The configuration, (first, hop, span) in frames of 10 ms, and the mel bins."""


@pytest.mark.parametrize(("config", "view", "bins"), CASES.values(), ids=CASES)
def test_a_frame_is_aligned_with_what_it_sees(config: EncoderConfig, view: tuple[int, int, int], bins: int) -> None:
    encoder, (waveforms, lengths) = build_encoder(config).eval(), speech(3)
    waveforms[1, int(lengths[1]) :] = torch.nan
    with torch.autocast("cpu", torch.bfloat16):
        targets = encoder.target_features(waveforms, lengths)
    first, hop, span = encoder.mel_view
    assert (first, hop, span) == view and not targets.requires_grad and targets.dtype == torch.float32
    frames = encoder.frame_lengths(lengths)
    assert targets.shape == (3, int(frames.max()), span * bins)
    for row, (samples, count) in enumerate(zip(lengths.tolist(), frames.tolist(), strict=True)):
        alone = encoder.target_features(waveforms[row : row + 1, :samples])
        assert alone.shape[1] == count and not targets[row, count:].any()
        torch.testing.assert_close(targets[row, :count], alone[0], rtol=0, atol=1e-4)
        mel = normalised_log_mel(waveforms[row : row + 1, :samples], None, MelTables(bins))[0]
        for t in (0, 1, count - 1):
            expected = mel[first + t * hop : first + t * hop + span].flatten()
            torch.testing.assert_close(alone[0, t], expected, rtol=0, atol=0)


def test_a_batch_shorter_than_a_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="959 samples"):
        build_encoder(MEL).target_features(torch.zeros(1, 959))
