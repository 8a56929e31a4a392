"""Labelled micro-batches: padded audio, the masks of augmentation, and targets."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad as padded

from mixvec.data.batches import Clip, pad
from mixvec.data.masks import MIN_FRAMES, span_mask
from mixvec.data.utterances import Utterance
from mixvec.model.frontend import SAMPLE_RATE_HZ

from .sections import AugmentConfig


class LabelledBatch(NamedTuple):
    """A padded batch. Where no clip could be read it is one row of silence without a number, which has no weight."""

    waveforms: Tensor
    """(B, S) at 16 kHz."""
    lengths: Tensor
    """(B,) samples."""
    time_mask: Tensor
    """(B, T) True at masked frames."""
    channels: Tensor
    """(B, F) 1 for a feature channel to keep, 0 for one to zero."""
    targets: Tensor
    """(B, U) the label's number, or the text's tokens, padded with 0."""
    target_lengths: Tensor
    """(B,); 0 where the row has no target."""
    keys: Tensor
    """(B,) int64, a number below 2^32 for each utterance and epoch, from which dropout is drawn."""
    numbers: Tensor
    """(B,) the number of each row's utterance in its corpus; (0,) where no clip could be read."""

    @property
    def labels(self) -> Tensor:
        """(B,) the label of each row; 0 for a row without one."""
        return padded(self.targets, (0, 1))[:, 0]


def collate_labelled(
    clips: list[Clip],
    target: Callable[[Utterance], list[int]],
    augment: AugmentConfig | None,
    frame_lengths: Callable[[int], int],
    min_samples: int,
    feature_dim: int,
) -> LabelledBatch:
    """Collate clips to a batch; ``augment`` None draws no masks. A clip shorter than a frame is padded with silence."""
    own = [padded(clip.waveform, (0, max(0, min_samples - len(clip.waveform)))) for clip in clips]
    waveforms, lengths = pad(own or [torch.zeros(SAMPLE_RATE_HZ)])
    time_mask = torch.zeros(len(lengths), frame_lengths(waveforms.shape[1]), dtype=torch.bool)
    channels = torch.ones(len(lengths), feature_dim)
    for row, clip in enumerate(clips):
        frames = frame_lengths(int(lengths[row]))
        if augment and augment.time_prob and frames >= 2 * MIN_FRAMES:
            drawn = span_mask(frames, augment.time_prob, augment.time_span_frames, clip.rng)
            time_mask[row, :frames] = torch.from_numpy(drawn)
        if augment and augment.channel_prob:
            span = max(1, round(augment.channel_span * feature_dim))
            channels[row, span_mask(feature_dim, augment.channel_prob, span, clip.rng)] = 0.0
    own_targets = [torch.tensor(target(clip.utterance), dtype=torch.int64) for clip in clips] or [lengths[:0]]
    keys = torch.tensor([clip.key for clip in clips] or [0])
    numbers = torch.tensor([clip.seed[-1] for clip in clips], dtype=torch.int64)
    return LabelledBatch(waveforms, lengths, time_mask, channels, *pad(own_targets), keys, numbers)
