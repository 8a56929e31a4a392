"""From the plan to micro-batches: decoding, cropping, augmentation, masks and distractors, in worker processes.

Everything random about an utterance comes from its own generator, (seed, epoch, utterance): the same whatever the
workers, the ranks and the micro-batches, and the same after a resume, which is arithmetic.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils.pin_memory import pin_memory

from ..errors import UserError
from ..model.frontend import SAMPLE_RATE_HZ
from ..parent import follow_parent
from .augment import Augmentation, read_stretch
from .plan import deal, plan_epoch
from .sources import Corpus
from .utterances import Utterance

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Clip:
    """A decoded utterance on its way into a batch."""

    utterance: Utterance
    waveform: Tensor
    """(S,) at 16 kHz."""
    rng: np.random.Generator


@dataclass(frozen=True)
class Loaded(Generic[Batch]):
    """A micro-batch, and what was passed over in making it."""

    batch: Batch
    seconds: float
    skipped: list[dict[str, Any]]
    sources: list[str]
    longest_s: float

    def pin_memory(self) -> Loaded[Batch]:
        """The same in page-locked memory, from which a GPU copies while it computes; the ``DataLoader`` calls this."""
        return replace(self, batch=pin_memory(self.batch))

    @property
    def padded_s(self) -> float:
        """Seconds that the batch takes, padding included."""
        return len(self.sources) * self.longest_s


def loaded_of(
    clips: list[Clip], skipped: list[dict[str, Any]], collate: Callable[[list[Clip]], Batch]
) -> Loaded[Batch]:
    """A micro-batch of these clips."""
    seconds = [len(clip.waveform) / SAMPLE_RATE_HZ for clip in clips]
    sources = [clip.utterance.source for clip in clips]
    return Loaded(collate(clips), sum(seconds), skipped, sources, max(seconds, default=0.0))


class _MicroBatches(Dataset[Any]):
    """Micro-batches by epoch and utterances, decoded when asked for."""

    def __init__(self, updates: Updates[Any], augmented: bool) -> None:
        self.updates, self.augmented = updates, augmented

    def __getitem__(self, asked: tuple[int, np.ndarray]) -> Loaded[Any]:
        epoch, part = asked
        clips, skipped = [], []
        for index in part:
            try:
                clips.append(self.updates.read(int(index), epoch, augmented=self.augmented))
            except UserError as error:
                source = self.updates.utterances[index % len(self.updates.utterances)].source
                skipped.append({"source": source, "reason": str(error), "epoch": epoch})
        return loaded_of(clips, skipped, self.updates.collate)


class Updates(Generic[Batch]):
    """A run's data, update by update, for one rank.

    Iterate with ``start(place)``; the place is all there is to save.
    """

    def __init__(
        self,
        corpus: Corpus,
        collate: Callable[[list[Clip]], Batch],
        *,
        update_s: float,
        batch_max_s: float,
        crop_s: float,
        min_s: float,
        workers: int,
        seed: int,
        ranks: int = 1,
        rank: int = 0,
        temperature: float = 1.0,
        augment: Augmentation | None = None,
    ) -> None:
        """``batch_max_s`` bounds a padded micro-batch, ``crop_s`` an utterance; under ``min_s`` it is skipped."""
        self.utterances, self.collate, self.augment = corpus.utterances, collate, augment
        self.durations_s = np.minimum(corpus.utterances.durations_s, crop_s)
        self.update_s, self.batch_max_s, self.crop_s, self.min_s = update_s, batch_max_s, crop_s, min_s
        self.workers, self.seed, self.ranks, self.rank = workers, seed, ranks, rank
        self.waited_s = 0.0
        """Seconds that ``start`` has waited for audio so far, but for the first update, for which workers start."""
        self.repeats = corpus.repeats(temperature)

    def read(self, number: int, epoch: int, *, augmented: bool = True) -> Clip:
        """Decode one utterance, or the random part of it that this epoch and this copy of it use, and augment it.

        Raises:
            UserError: unreadable, or shorter than the header said and than ``min_s``; or its noise is unreadable.
        """
        index, augment = number % len(self.utterances), self.augment if augmented else None
        utterance, rng = self.utterances[index], np.random.default_rng([self.seed, epoch, number])
        if augment is None:
            return read_clip(utterance, rng, self.crop_s, self.min_s)
        speed = float(augment.speeds((epoch,), index, 1)[0])
        clip = read_clip(utterance, rng, self.crop_s * speed, self.min_s)
        return replace(clip, waveform=augment(clip.waveform, speed, self.utterances, index, rng))

    def planned_s(self, epoch: int) -> np.ndarray:
        """(N,) seconds of each utterance in this epoch, at its speed and cropped."""
        if self.augment is None:
            return self.durations_s
        recorded_s = self.utterances.durations_s
        return np.minimum(recorded_s / self.augment.speeds((epoch,), 0, len(recorded_s)), self.crop_s)

    @property
    def epoch_utterances(self) -> float:
        """Utterances of an epoch, in expectation."""
        return len(self.utterances) if self.repeats is None else float(self.repeats.sum())

    def epoch_length(self, epoch: int) -> int:
        return len(plan_epoch(self.planned_s(epoch), self.update_s, self.seed, epoch, self.repeats))

    def start(self, place: list[int] | None = None) -> Iterator[tuple[list[int], list[Loaded[Batch]]]]:
        """For ever: the place to go on from *after* this update, and this rank's micro-batches of it.

        A place is an epoch and the number of its next update; None is the beginning. The workers run on from epoch to
        epoch, decoding ahead.
        """
        epoch, position = place or (0, 0)
        loader = iter(self._loader((e, part) for (e, _), parts in self._deal(epoch, position) for part in parts))
        for number, (after, parts) in enumerate(self._deal(epoch, position)):
            began = time.monotonic()
            loaded = [next(loader) for _ in parts]
            self.waited_s += time.monotonic() - began if number else 0.0
            yield after, loaded

    def once(self) -> Iterator[Loaded[Batch]]:
        """This rank's share of the corpus, each utterance once, in a fixed order, as it is, for scoring."""
        parts = deal(np.arange(len(self.utterances)), self.durations_s, self.batch_max_s, self.ranks, self.rank)
        yield from self._loader(((0, part) for part in parts), augmented=False)

    def _deal(self, epoch: int, position: int) -> Iterator[tuple[list[int], list[np.ndarray]]]:
        while True:
            durations_s = self.planned_s(epoch)
            plan = plan_epoch(durations_s, self.update_s, self.seed, epoch, self.repeats)
            for number in range(position, len(plan)):
                parts = deal(plan[number], durations_s, self.batch_max_s, self.ranks, self.rank)
                yield [epoch, number + 1], parts
            epoch, position = epoch + 1, 0

    def _loader(self, asked: Iterator[tuple[int, np.ndarray]], *, augmented: bool = True) -> DataLoader[Any]:
        return DataLoader(
            _MicroBatches(self, augmented),
            batch_size=None,
            sampler=asked,  # type: ignore[arg-type]
            num_workers=self.workers,
            prefetch_factor=4 if self.workers else None,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # its own: the run's random numbers stay untouched
            worker_init_fn=start_worker,
        )


def read_clip(utterance: Utterance, rng: np.random.Generator, crop_s: float, min_s: float) -> Clip:
    """Decode an utterance, or a random part of it that lasts ``crop_s``.

    Raises:
        UserError: unreadable, silent, or shorter than the header said and than ``min_s``.
    """
    waveform = read_stretch(utterance, crop_s, rng)
    begin = waveform[:1000]  # as a rule it says enough
    if begin.min() == begin.max() and waveform.min() == waveform.max():
        raise UserError(f"{utterance.source}: silent: all samples read are the same")
    if len(waveform) < round(min(min_s, utterance.duration_s, crop_s) * SAMPLE_RATE_HZ * 0.99):
        raise UserError(f"{utterance.source}: only {len(waveform) / SAMPLE_RATE_HZ:.2f} s of its "
                        f"{utterance.duration_s:.2f} s could be decoded")  # fmt: skip
    return Clip(utterance, waveform[: round(crop_s * SAMPLE_RATE_HZ)], rng)


def start_worker(_: int) -> None:
    torch.set_num_threads(1)
    follow_parent(signal.SIGKILL)  # else it holds a killed rank's sockets for seconds
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # the training process answers them, and ends its workers


def pad(waveforms: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Waveforms (S_i,) to one padded (B, S) and lengths (B,)."""
    lengths = torch.tensor([len(w) for w in waveforms])
    return torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True), lengths
