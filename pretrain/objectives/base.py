"""What a pretraining objective is, and what all of them share: spans of hidden frames and a padded batch.

An objective is one file of this folder: a config dataclass that validates itself, and a subclass of ``Objective``.
``pretrain/objectives/__init__.py`` names it.

Symbols: B batch, S samples, T frames, F feature channels, D model width, K totals, N sampled frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from mixvec.data.masks import MIN_FRAMES, span_mask
from mixvec.model.frontend import SAMPLE_RATE_HZ
from mixvec.model.padding import padding_mask
from mixvec.training.config import check_at_least

if TYPE_CHECKING:
    from mixvec.data.batches import Clip, Loaded  # importing them brings the data stack, which a config has no use for

Sample: TypeAlias = "Callable[[float], Iterator[Loaded[Any]]]"
"""Gives the micro-batches of so many seconds of training audio, always the same."""
Loss: TypeAlias = tuple[Tensor, dict[str, Tensor]]
"""A micro-batch's share () of the update's loss, and sums for ``Objective.metrics``."""

SAMPLE_FRAMES = 2048  # output frames of a micro-batch, at most, from which the effective rank is estimated


@dataclass(frozen=True)
class ObjectiveConfig:
    """What every objective has: which one it is, and the spans that it hides (arXiv 2006.11477, section 3.1)."""

    kind: str = "contrastive"
    """The objective, contrastive or units; each has keys of its own."""
    mask_prob: float = 0.65
    """Share of frames drawn into spans, counted with overlaps: 0.65 at spans of 10 hides 48.9 %."""
    mask_span_frames: int = 10
    """Length of a masked span."""

    def __post_init__(self) -> None:
        if not 0.0 < self.mask_prob <= 1.0:
            raise ValueError(f"objective.mask_prob={self.mask_prob} must be in (0, 1]")
        check_at_least(self, {"mask_span_frames": 2}, "objective.")


class MaskedClips(NamedTuple):
    """The part of a micro-batch that every objective needs. Its masks were drawn on the CPU."""

    waveforms: Tensor  # (B, S) at 16 kHz, padded with zeros
    lengths: Tensor  # (B,) samples of each utterance
    mask: Tensor  # (B, T) True at hidden frames
    keys: Tensor  # (B,) int64, a number below 2^32 for each utterance and epoch, from which its noise is drawn
    present: Tensor  # (B,) True for an utterance, False for the silence that replaces files that could not be read


class Step(NamedTuple):
    """What one micro-batch adds to an update."""

    loss: Tensor  # () its share of the update's loss, already divided by the totals of the update
    sums: dict[str, Tensor]  # without gradient, to be added over micro-batches, ranks and updates, for ``metrics``
    sample: Tensor  # (N, D) some of the encoder's output frames, for the effective rank
    sampled: Tensor  # (N,) True where ``sample`` is a frame of an utterance, False where it is padding


class Prepared(NamedTuple):
    """A micro-batch after the front end."""

    batch: Any
    features: Tensor  # (B, T, F), with gradient
    valid: Tensor  # (B, T) True at the frames of utterances
    frame_lengths: Tensor  # (B,)
    totals: Tensor  # (K,) fp32 without gradient: what the loss is divided by, this micro-batch's part


class Objective(nn.Module):
    """A pretraining objective: a module around the encoder that it trains.

    An update calls ``collate`` in the workers; ``due``, and ``fit`` where it is; ``prepare``, with ``totals``, for each
    micro-batch; ``forward``, with ``loss``, for each, with the totals of all of them on all ranks; and at a log line
    ``metrics``, ``status`` and ``diagnose``. A subclass defines those that raise NotImplementedError.
    """

    def __init__(self, encoder: Any, config: Any) -> None:
        super().__init__()
        self.encoder, self.config = encoder, config

    def collate(self, clips: list[Clip], multiple: int = 1) -> Any:
        """Make a batch, a NamedTuple of tensors, of decoded clips; of none, one that adds nothing to the loss.

        Frames are padded to a ``multiple``.
        """
        return masked_clips(clips, self.config, self.encoder, multiple)

    def prepare(self, batch: Any, *, recompute: bool = False) -> Prepared:
        """Run the front end, and count what the loss of the whole update is divided by.

        ``recompute`` keeps only the features of a waveform front end, and runs it again in the backward pass: where an
        update has several micro-batches, all their front ends are alive at once.
        """
        if recompute and self.encoder.config.front_end != "mel":
            features, lengths = torch.utils.checkpoint.checkpoint(
                self.encoder.features, batch.waveforms, batch.lengths, use_reentrant=False
            )
        else:
            features, lengths = self.encoder.features(batch.waveforms, batch.lengths)
        valid = padding_mask(lengths, features.shape[1]) & batch.present.unsqueeze(1)
        with torch.no_grad():
            return Prepared(batch, features, valid, lengths, self.totals(batch, features, valid))

    def totals(self, batch: Any, features: Tensor, valid: Tensor) -> Tensor:
        """What a micro-batch with these features (B, T, F) adds to the divisors of the update's loss, (K,) in fp32."""
        raise NotImplementedError

    def forward(self, prepared: Prepared, totals: Tensor, progress: float) -> Step:
        """Compute the loss of a micro-batch at a fraction ``progress`` of the run in (0, 1], on which schedules depend.

        ``totals`` (K,) are the sum of ``Prepared.totals`` over the update's micro-batches and ranks.
        """
        features, lengths, valid = prepared.features, prepared.frame_lengths, prepared.valid
        frames = self.encoder.encode(features, lengths, prepared.batch.mask, every_layer=False).frames
        loss, sums = self.loss(prepared, frames, totals, progress)
        every = -(-valid.numel() // SAMPLE_FRAMES)  # evenly spaced over the batch
        sample, sampled = frames.detach().flatten(0, 1)[::every].clone(), valid.flatten()[::every].clone()
        return Step(loss, {name: value.detach() for name, value in sums.items()}, sample, sampled)

    def loss(self, prepared: Prepared, frames: Tensor, totals: Tensor, progress: float) -> Loss:
        """The loss by the encoder's output (B, T, D); the arguments are those of ``forward``."""
        raise NotImplementedError

    def metrics(self, sums: dict[str, Tensor], progress: float) -> dict[str, float]:
        """Turn sums over updates and ranks into the numbers of a log row."""
        raise NotImplementedError

    def status(self, row: dict[str, Any]) -> str:
        """Describe a log row in the middle of the status line."""
        raise NotImplementedError

    def diagnose(self, row: dict[str, Any], *, past_warmup: bool) -> dict[str, str | None]:
        """Name what is wrong with a log row: evidence, likely causes and keys, under the name of the warning."""
        return {}

    def describe(self, hours: float) -> list[str]:
        """Describe the objective at the start of a run of so many hours of audio, in half a line; warnings follow."""
        raise NotImplementedError

    def due(self, progress: float) -> bool:
        """Whether ``fit`` has to be called before the update that ends at ``progress``."""
        return False

    def fit(self, sample: Sample, seed: int, report: Callable[[str], None]) -> None:
        """Fit, on the main rank alone, what is not learned by gradients; all ranks then get the main rank's state."""

    def fingerprint(self) -> dict[str, Any]:
        """What else must be the same when the run resumes, as plain JSON by name."""
        return {}


def masked_clips(clips: list[Clip], config: ObjectiveConfig, encoder: Any, multiple: int = 1) -> MaskedClips:
    """Pad clips to a batch, to a ``multiple`` of frames, and draw their masks, each from the clip's own generator.

    A clip too short to mask has no hidden frame. Without any clip, which is what a rank gets that could read none of
    its files, the batch is a second of silence with nothing hidden.
    """
    waves = [clip.waveform for clip in clips] or [torch.zeros(SAMPLE_RATE_HZ)]
    lengths = torch.tensor([len(wave) for wave in waves])
    waveforms = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)  # (B, S)
    longer = rounded_samples(waveforms.shape[1], multiple, encoder) - waveforms.shape[1] if multiple > 1 else 0
    waveforms = torch.nn.functional.pad(waveforms, (0, longer))
    mask = torch.zeros(len(lengths), encoder.frame_lengths(waveforms.shape[1]), dtype=torch.bool)
    for row, clip in enumerate(clips):
        frames = encoder.frame_lengths(len(clip.waveform))
        if frames >= MIN_FRAMES:
            own = span_mask(frames, config.mask_prob, config.mask_span_frames, clip.rng)
            mask[row, :frames] = torch.from_numpy(own)
    keys = torch.tensor([clip.key for clip in clips] or [0])
    return MaskedClips(waveforms, lengths, mask, keys, torch.arange(len(lengths)) < len(clips))


def rounded_samples(samples: int, multiple: int, encoder: Any) -> int:
    """The least length, from ``samples`` on, that gives a multiple of ``multiple`` frames.

    With 8 hops of 20 ms there are 188 such lengths up to 30 s, whatever the utterances.
    """
    hop = encoder.hop_samples
    step = multiple * hop
    lost = -encoder.frame_lengths(10 * step) % multiple * hop  # the frames that convolutions take from the end
    return int(lost + max(0, -(-(samples - lost) // step)) * step)
