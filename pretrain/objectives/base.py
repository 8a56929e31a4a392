"""What a pretraining objective is, and what all of them share: spans of hidden frames and a padded batch.

An objective is one file of this folder: a config dataclass that validates itself, and a subclass of ``Objective``.
``pretrain/objectives/__init__.py`` names it.

Symbols: B batch, S samples, T frames, D model width, K totals, N sampled frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from mixvec.data.masks import MIN_FRAMES, span_mask
from mixvec.model.frontend import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from mixvec.data.batches import Clip, Loaded  # importing them brings the data stack, which a config has no use for

Sample: TypeAlias = "Callable[[float], Iterator[Loaded[Any]]]"

SAMPLE_FRAMES = 2048
"""Output frames of a micro-batch, at most, from which the effective rank is estimated."""


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
        at_least(self, {"mask_span_frames": 2})


def at_least(config: ObjectiveConfig, bounds: dict[str, float]) -> None:
    """Raise ValueError naming the first key of ``config`` that is below its bound, or is not a number."""
    for name, bound in bounds.items():
        if not getattr(config, name) >= bound:
            raise ValueError(f"objective.{name}={getattr(config, name)} must be at least {bound:g}")


class MaskedClips(NamedTuple):
    """The part of a micro-batch that every objective needs. Its masks were drawn on the CPU."""

    waveforms: Tensor
    """(B, S) at 16 kHz, padded with zeros."""
    lengths: Tensor
    """(B,) samples of each utterance."""
    mask: Tensor
    """(B, T) True at hidden frames."""
    keys: Tensor
    """(B,) int64, a number below 2^32 for each utterance and epoch, from which its noise is drawn."""
    present: Tensor
    """(B,) True for an utterance, False for the silence that stands in where no file could be read."""


class Step(NamedTuple):
    """What one micro-batch adds to an update."""

    loss: Tensor
    """() its share of the update's loss, already divided by the totals of the update."""
    sums: dict[str, Tensor]
    """Plain sums without gradient, to be added over micro-batches, ranks and updates and given to ``metrics``."""
    sample: Tensor
    """(N, D) some of the encoder's output frames, for the effective rank."""
    sampled: Tensor
    """(N,) True where ``sample`` is a frame of an utterance, False where it is padding."""


class Prepared(NamedTuple):
    """A micro-batch after the front end."""

    batch: Any
    features: Tensor
    """(B, T, F), with gradient."""
    frame_lengths: Tensor
    """(B,)"""
    totals: Tensor
    """(K,) fp32 without gradient: what the loss is divided by, this micro-batch's part."""


class Objective(nn.Module):
    """A pretraining objective: a module around the encoder that it trains.

    An update calls, in this order: ``collate`` in the workers; ``due``, and ``fit`` where it is; ``prepare`` for each
    micro-batch; ``forward`` for each micro-batch, with the totals of all of them on all ranks; and at a log line
    ``metrics``, ``status`` and ``diagnose``.
    """

    encoder: Any

    def collate(self, clips: list[Clip], multiple: int = 1) -> Any:
        """Make a batch, a NamedTuple of tensors, of decoded clips; of none, one that adds nothing to the loss.

        Args:
            multiple: frames are padded to a multiple of it.
        """
        raise NotImplementedError

    def prepare(self, batch: Any, *, recompute: bool = False) -> Prepared:
        """Run the front end, and count what the loss of the whole update is divided by.

        Args:
            recompute: whether to keep only the features, and run the front end again in the backward pass.
        """
        raise NotImplementedError

    def forward(self, prepared: Prepared, totals: Tensor, progress: float) -> Step:
        """Compute the loss of a micro-batch.

        Args:
            totals: (K,) the sum of ``Prepared.totals`` over the update's micro-batches and ranks.
            progress: the fraction of the run in (0, 1], on which schedules depend.
        """
        raise NotImplementedError

    def metrics(self, sums: dict[str, Tensor], progress: float) -> dict[str, float]:
        """Turn sums over updates and ranks into the numbers of a log row."""
        raise NotImplementedError

    def status(self, row: dict[str, Any]) -> str:
        """Describe a log row in the middle of the status line."""
        raise NotImplementedError

    def diagnose(self, row: dict[str, Any], *, past_warmup: bool) -> dict[str, str | None]:
        """Name what is wrong with a log row: evidence, likely causes and keys, under the name of the diagnosis."""
        raise NotImplementedError

    def describe(self, hours: float) -> list[str]:
        """Describe the objective at the start of a run, in half a line; warnings about it follow.

        Args:
            hours: of audio in the whole run.
        """
        raise NotImplementedError

    def due(self, progress: float) -> bool:
        """Whether ``fit`` is to be called before the update that ends at ``progress``."""
        return False

    def fit(self, sample: Sample, seed: int, report: Callable[[str], None]) -> None:
        """Fit, on the main rank alone, what is not learned by gradients. It must be a part of the state.

        Args:
            sample: gives the micro-batches of so many seconds of training audio, always the same.
            report: prints a line.
        """

    def fitted(self) -> list[Tensor]:
        """What ``fit`` may have changed, which the other ranks then get from the main one."""
        return []

    def fingerprint(self) -> dict[str, Any]:
        """What else must be the same when the run resumes, as plain JSON by name."""
        return {}


def masked_clips(
    clips: list[Clip],
    config: ObjectiveConfig,
    frame_lengths: Callable[[int], int],
    hop_samples: int,
    multiple: int = 1,
) -> MaskedClips:
    """Pad clips to a batch and draw their masks, each from the clip's own generator.

    A clip too short to mask has no hidden frame. Without any clip, which is what a rank gets that could read none of
    its files, the batch is a second of silence with nothing hidden.

    Args:
        frame_lengths: the encoder's, from samples to frames.
        hop_samples: the encoder's, from one frame to the next.
        multiple: frames are padded to a multiple of it, which bounds how many shapes a GPU meets.
    """
    waves = [clip.waveform for clip in clips] or [torch.zeros(SAMPLE_RATE_HZ)]
    lengths = torch.tensor([len(wave) for wave in waves])
    waveforms = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)  # (B, S)
    if multiple > 1:
        longest = waveforms.shape[1]
        longer = rounded_samples(longest, multiple, hop_samples, frame_lengths) - longest
        waveforms = torch.nn.functional.pad(waveforms, (0, longer))
    mask = torch.zeros(len(lengths), frame_lengths(waveforms.shape[1]), dtype=torch.bool)
    keys = torch.zeros(len(lengths), dtype=torch.int64)
    for row, clip in enumerate(clips):
        keys[row] = clip.key
        frames = frame_lengths(len(clip.waveform))
        if frames >= MIN_FRAMES:
            own = span_mask(frames, config.mask_prob, config.mask_span_frames, clip.rng)
            mask[row, :frames] = torch.from_numpy(own)
    return MaskedClips(waveforms, lengths, mask, keys, torch.arange(len(lengths)) < len(clips))


def rounded_samples(samples: int, multiple: int, hop_samples: int, frame_lengths: Callable[[int], int]) -> int:
    """The least length, from ``samples`` on, that gives a multiple of ``multiple`` frames.

    With 8 hops of 20 ms there are 188 such lengths up to 30 s, whatever the utterances.
    """
    step = multiple * hop_samples
    lost = -frame_lengths(10 * step) % multiple * hop_samples  # the frames that convolutions take from the end
    return lost + max(0, -(-(samples - lost) // step)) * step


def sample_of(frames: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """At most ``SAMPLE_FRAMES`` of the frames (B, T, D), evenly spaced over the batch, and which of them are real."""
    every = -(-valid.numel() // SAMPLE_FRAMES)
    return frames.detach().flatten(0, 1)[::every].clone(), valid.flatten()[::every].clone()


def features_of(encoder: Any, batch: Any, *, recompute: bool) -> tuple[Tensor, Tensor]:
    """The front end's features (B, T, F) and their lengths (B,), with gradient.

    Where an update has several micro-batches, all their front ends are alive at once. That is little for a mel front
    end; of a waveform front end, with ``recompute``, the features alone are kept.
    """
    if recompute and encoder.config.front_end != "mel":
        run = encoder.features
        return torch.utils.checkpoint.checkpoint(run, batch.waveforms, batch.lengths, use_reentrant=False)  # type: ignore[no-any-return]
    return encoder.features(batch.waveforms, batch.lengths)  # type: ignore[no-any-return]
