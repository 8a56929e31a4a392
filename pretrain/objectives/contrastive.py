"""Masked prediction: hide spans of an utterance, and tell each hidden frame's code from those of its neighbours.

Symbols: B batch, T frames, F feature channels, M masked frames, K distractors, G codebooks, V entries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mixvec import EncoderConfig, build_encoder
from mixvec.data.batches import Clip, pad
from mixvec.data.masks import MIN_FRAMES, span_mask
from mixvec.model.frontend import SAMPLE_RATE_HZ
from mixvec.model.padding import padding_mask

from .loss import contrastive_sum, diversity_gradient
from .quantizer import GumbelQuantizer


@dataclass(frozen=True)
class ObjectiveConfig:
    """Masked prediction among distractors (arXiv 2006.11477)."""

    mask_prob: float = 0.65
    """Frames drawn into spans, counted with overlaps: 0.65 at spans of 10 hides 48.9 %."""
    mask_span_frames: int = 10
    distractors: int = 100
    logit_temperature: float = 0.1
    codebooks: int = 2
    entries: int = 320
    code_dim: int = 256
    diversity_weight: float = 0.1
    feature_penalty: float = 0.0
    """Weight of the features' mean square; wav2vec 2.0 BASE has 10, the SummaryMixing recipe none."""
    gumbel_start: float = 2.0
    gumbel_end: float = 0.25
    gumbel_fraction: float = 0.7
    """The temperature falls geometrically from start to end over this fraction of the run, then stays."""


class MaskedBatch(NamedTuple):
    """A micro-batch as the loader makes it; everything random in it was drawn on the CPU."""

    waveforms: Tensor
    """(B, S) at 16 kHz."""
    lengths: Tensor
    """(B,) samples."""
    mask: Tensor
    """(B, T) True at hidden frames."""
    masked: Tensor
    """(B, M) where they are; padded with 0."""
    counts: Tensor
    """(B,) how many there are."""
    distractors: Tensor
    """(B, M, K) indices into ``masked``."""


class Totals(NamedTuple):
    """What the loss is divided by: over all micro-batches and ranks of an update."""

    masked: Tensor
    frames: Tensor
    code_probs: Tensor | None
    """(G, V) mean code probabilities over the update's masked frames; None where one micro-batch is the whole update,
    which then finds them itself."""


class Sums(NamedTuple):
    """What a micro-batch adds. ``loss`` is divided by the totals already; the rest are plain sums for the log."""

    loss: Tensor
    contrastive: Tensor
    correct: Tensor
    code_counts: Tensor
    """(G, V) how often each entry was chosen."""
    feature_square: Tensor
    feature_norm: Tensor
    """Sum over frames of the features' norm."""
    code_probs: Tensor
    """(G, V) code probabilities, summed over the masked frames."""
    sample: Tensor
    """(N, D) some frames of the encoder's output, at most ``SAMPLE_FRAMES``, evenly spaced over the batch."""
    sampled: Tensor
    """(N,) 1 where they are real, 0 where padding."""


SAMPLE_FRAMES = 2048


class MaskedPrediction(nn.Module):
    """The encoder with what only pretraining needs: a quantizer for the targets and a projection to their width."""

    def __init__(self, encoder: EncoderConfig, objective: ObjectiveConfig) -> None:
        super().__init__()
        self.objective = objective
        self.encoder = build_encoder(encoder)
        self.quantizer = GumbelQuantizer(
            self.encoder.feature_dim, objective.codebooks, objective.entries, objective.code_dim
        )
        self.project = nn.Linear(encoder.dim, objective.code_dim)

    @torch.no_grad()
    def code_probability_sum(self, batch: MaskedBatch) -> Tensor:
        """Code probabilities summed over the batch's masked frames (G, V): the front end alone, no gradient."""
        features, _ = self.encoder.features(batch.waveforms, batch.lengths)
        probs = self.quantizer.logits(_pick(features, batch.masked)).softmax(-1)  # (B, M, G, V)
        real = padding_mask(batch.counts, batch.masked.shape[1])
        return (probs * real[..., None, None]).sum((0, 1))  # to index with the mask would wait for the device

    def forward(self, batch: MaskedBatch, totals: Totals, temperature: float) -> Sums:
        """This micro-batch's share of the update's loss:

            Σ contrastive / masked + w_d · diversity(mean code probabilities) + w_f · Σ feature² / frames

        with the diversity linearised around its value for the whole update (``diversity_gradient``).
        """
        weights = self.objective
        features, frame_lengths = self.encoder.features(batch.waveforms, batch.lengths)  # (B, T, F)
        hidden = self.encoder.encode(features, frame_lengths, batch.mask, every_layer=False).frames  # (B, T, D)
        real = padding_mask(batch.counts, batch.masked.shape[1])  # (B, M)
        context = self.project(_pick(hidden, batch.masked))  # (B, M, code_dim)
        quantized = self.quantizer(_pick(features, batch.masked).flatten(0, 1), temperature)
        entries = quantized.entries.view(*real.shape, -1)  # (B, M, G)
        numbers = torch.zeros_like(entries[..., 0])
        for group in entries.unbind(-1):
            numbers = numbers * weights.entries + group
        contrast = contrastive_sum(
            context, quantized.codes.view(*real.shape, -1), numbers, batch.distractors, real, weights.logit_temperature
        )
        loss = contrast.loss / totals.masked
        probs = (quantized.logits.softmax(-1) * real.reshape(-1, 1, 1)).sum(0)  # (G, V)
        mean = probs.detach() / totals.masked if totals.code_probs is None else totals.code_probs
        loss = loss + weights.diversity_weight * (diversity_gradient(mean) * probs).sum() / totals.masked
        frames = padding_mask(frame_lengths, features.shape[1]) & (batch.counts > 0).unsqueeze(1)
        squares = features.float().square().sum(-1) * frames  # (B, T)
        square = squares.sum() / features.shape[-1]
        if weights.feature_penalty:
            loss = loss + weights.feature_penalty * square / totals.frames
        counts = torch.zeros_like(probs).scatter_add_(
            1, entries.flatten(0, 1).T, real.reshape(1, -1).expand(probs.shape[0], -1).to(probs)
        )
        every = -(-frames.numel() // SAMPLE_FRAMES)
        return Sums(
            loss, contrast.loss.detach(), contrast.correct, counts, square.detach(), squares.detach().sqrt().sum(),
            probs.detach(), hidden.detach().flatten(0, 1)[::every].clone(), frames.flatten()[::every].clone(),
        )  # fmt: skip


def _pick(frames: Tensor, masked: Tensor) -> Tensor:
    """The masked frames (B, M, F) of (B, T, F)."""
    return frames.gather(1, masked.unsqueeze(-1).expand(-1, -1, frames.shape[-1]))


def rounded_samples(samples: int, multiple: int, hop_samples: int, frame_lengths: Callable[[int], int]) -> int:
    """The least length from ``samples`` on of those that lie ``multiple`` hops apart and give a multiple of so many
    frames: with 8 hops of 20 ms there are 188 up to 30 s, whatever the utterances."""
    step = multiple * hop_samples
    lost = -frame_lengths(10 * step) % multiple * hop_samples  # the frames that the convolutions take from the end
    return lost + max(0, -(-(samples - lost) // step)) * step


def collate_masked(
    clips: list[Clip],
    config: ObjectiveConfig,
    frame_lengths: Callable[[int], int],
    multiple: int = 1,
    hop_samples: int = 1,
) -> MaskedBatch:
    """Clips to a padded batch with its masks and distractors.

    With a ``multiple`` over 1 frames and masked frames are padded to multiples of it, which bounds how many shapes
    there are, and changes nothing that is computed of a real frame.

    A clip too short to mask has none hidden. Where no clip could be read, a second of silence with nothing hidden
    keeps this rank in step with the others and adds nothing.
    """
    waveforms, lengths = pad([clip.waveform for clip in clips] or [torch.zeros(SAMPLE_RATE_HZ)])
    if multiple > 1:
        longest = waveforms.shape[1]
        longer = rounded_samples(longest, multiple, hop_samples, frame_lengths) - longest
        waveforms = torch.nn.functional.pad(waveforms, (0, longer))
    masks = [np.zeros(0, dtype=bool)] * len(lengths)
    for row, clip in enumerate(clips):
        frames = frame_lengths(len(clip.waveform))
        if frames >= MIN_FRAMES:
            masks[row] = span_mask(frames, config.mask_prob, config.mask_span_frames, clip.rng)
    counts = [int(own.sum()) for own in masks]
    most = -(-max(1, *counts) // multiple) * multiple
    mask = torch.zeros(len(counts), frame_lengths(waveforms.shape[1]), dtype=torch.bool)
    masked = torch.zeros(len(counts), most, dtype=torch.int64)
    distractors = torch.zeros(len(counts), most, config.distractors, dtype=torch.int64)
    for row, (clip, own, count) in enumerate(zip(clips, masks, counts, strict=False)):
        if count:
            mask[row, : len(own)] = torch.from_numpy(own)
            masked[row, :count] = torch.from_numpy(own.nonzero()[0])
            distractors[row, :count] = torch.from_numpy(draw_distractors(count, config.distractors, clip.rng))
    return MaskedBatch(waveforms, lengths, mask, masked, torch.tensor(counts), distractors)


def draw_distractors(masked: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """For each of M masked frames, K of the utterance's others, with repetition: (M, K) indices into the masked ones.

    Never the frame itself.

    Raises:
        ValueError: fewer than two masked frames.
    """
    if masked < 2:
        raise ValueError(f"{masked} masked frames leave no distractor; at least 2 are needed")
    drawn = rng.integers(0, masked - 1, (masked, count))
    return drawn + (drawn >= np.arange(masked)[:, None])
