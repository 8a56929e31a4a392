"""The configs with fewer frames: spans of about 200 ms, half of it hidden, enough left to tell apart, at any length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mixvec import UserError
from mixvec.data.batches import Clip
from mixvec.data.masks import MIN_FRAMES
from mixvec.data.utterances import Utterance
from mixvec.model.frontend import SAMPLE_RATE_HZ, MelFrontEnd
from mixvec.training.config import load_config
from pretrain.config import PretrainConfig
from pretrain.objectives.contrastive import Contrastive, ContrastiveConfig
from tests.runs import pretrain

ROOT = Path(__file__).resolve().parents[2]
RATES_HZ = {"base": 50, "small": 25, "base-25hz": 25, "base-units": 25, "short": 25, "base-12hz": 12.5}


def objective_of(config: PretrainConfig) -> tuple[Contrastive, MelFrontEnd]:
    """The contrastive objective with the masks of a configuration, around a front end alone."""
    front: Any = MelFrontEnd(8, 4, config.encoder.conv_strides)
    front.feature_dim = front.dim = 4
    masks = config.objective
    own = ContrastiveConfig(mask_prob=masks.mask_prob, mask_span_frames=masks.mask_span_frames)
    return Contrastive(front, own), front


@pytest.mark.parametrize("name", RATES_HZ)
def test_masks_and_distractors_at_every_rate(name: str) -> None:
    config = load_config(PretrainConfig, [str(ROOT / "configs" / f"{name}.yaml")], "")
    objective, front = objective_of(config)
    assert SAMPLE_RATE_HZ / front.hop_samples == RATES_HZ[name]
    assert 160 <= 1000 * config.objective.mask_span_frames / RATES_HZ[name] <= 240
    rng, hidden = np.random.default_rng(0), []
    for seconds in (0.4, 0.5, 1, 2, 10, 30):
        samples = round(seconds * SAMPLE_RATE_HZ)
        clips = [Clip(Utterance("a.wav", seconds), torch.zeros(samples), rng) for _ in range(40)]
        batch = objective.collate(clips)
        frames = front.frame_lengths(samples)
        assert batch.mask.shape == (40, frames) and frames >= MIN_FRAMES
        assert int(batch.counts.min()) >= 2 and int(batch.counts.max()) < frames
        for row, count in enumerate(batch.counts.tolist()):
            drawn = batch.distractors[row, :count]
            assert int(drawn.min()) >= 0 and int(drawn.max()) < count
            assert (drawn != torch.arange(count)[:, None]).all()
        hidden.append(float(batch.mask.float().mean()))
    assert 0.46 < np.mean(hidden[3:]) < 0.62


def test_what_is_too_short_to_mask_stays_visible() -> None:
    """At 12.5 frames/s 0.37 s give three frames: nothing is hidden there, and the rest of the batch goes on."""
    config = load_config(PretrainConfig, [str(ROOT / "configs/base-12hz.yaml")], "")
    objective, rng = objective_of(config)[0], np.random.default_rng(0)
    clips = [Clip(Utterance("a.wav", s), torch.zeros(round(s * SAMPLE_RATE_HZ)), rng) for s in (0.37, 2.0)]
    batch = objective.collate(clips)
    assert batch.counts[0] == 0 and batch.counts[1] > 2


@pytest.mark.parametrize(("strides", "least_s"), [("[2,2]", 0.18), ("[2,2,2]", 0.38)])
def test_what_a_frame_rate_cannot_mask_is_refused_with_the_shortest_it_can(
    corpus: Path, tmp_path: Path, strides: str, least_s: float
) -> None:
    keys = (f"encoder.conv_strides={strides}", "run.updates=1")
    with pytest.raises(UserError, match=rf"4 frames of the encoder are needed, which take data\.min_s={least_s}"):
        pretrain(corpus, tmp_path / "a", f"data.min_s={least_s - 0.01:g}", *keys)
    assert pretrain(corpus, tmp_path / "b", f"data.min_s={least_s}", *keys) == 0
