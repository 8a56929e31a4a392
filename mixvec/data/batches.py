"""From the plan to micro-batches: decoding, cropping and augmentation in worker processes.

Everything random about an utterance comes from its own generator, seeded with (seed, epoch, utterance): the same for
any number of workers, ranks and micro-batches, and the same after a resume.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils.pin_memory import pin_memory

from ..errors import UserError
from ..model.frontend import SAMPLE_RATE_HZ
from ..parent import follow_parent
from .augment import Augmentation, random_crop
from .fingerprint import Fingerprint
from .plan import EpochPlan, deal
from .sources import Corpus
from .utterances import Utterance

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class LoaderConfig:
    """How audio becomes micro-batches, whether from a corpus or from a stream.

    ``update_s`` are the seconds of an update over all ranks, ``batch_max_s`` bounds a micro-batch, padding included.
    Longer utterances than ``crop_s`` are cropped at random, shorter ones than ``min_s`` are skipped. With no
    ``workers``, which are processes of each rank, the training process decodes. ``channel`` is for streams.
    """

    update_s: float
    batch_max_s: float
    crop_s: float
    min_s: float
    workers: int
    seed: int
    ranks: int = 1
    rank: int = 0
    channel: str = "mean"


@dataclass(frozen=True)
class Clip:
    """A decoded utterance, before it is collated into a batch."""

    utterance: Utterance
    waveform: Tensor
    """(S,) at 16 kHz."""
    rng: np.random.Generator
    """Draws what else is random about this utterance; seeded from ``seed``."""
    seed: tuple[int, ...] = ()
    """Identifies this use of the utterance: the run's seed, epoch and utterance, or in a stream the run's seed, epoch,
    source, shard, row and segment. Seed further generators with it and a number above 0: ``[*clip.seed, 11]``."""
    start_s: float = 0.0
    """Where in its file the waveform starts, crop included."""
    speed: float = 1.0
    """How much faster than recorded it plays: S samples cover S / 16000 · ``speed`` seconds of the file."""

    @property
    def key(self) -> int:
        """A number below 2^32 for ``seed``, from which the network draws this clip's noise (``mixvec.model.noise``)."""
        return int(np.random.SeedSequence(list(self.seed)).generate_state(1)[0])


@dataclass(frozen=True)
class Loaded(Generic[Batch]):
    """A micro-batch, and the utterances that were skipped in making it."""

    batch: Batch
    seconds: float
    skipped: list[dict[str, Any]]
    sources: list[str]
    longest_s: float

    def pin_memory(self) -> Loaded[Batch]:
        """A copy in page-locked memory, for asynchronous transfer to a GPU; called by the ``DataLoader``."""
        return replace(self, batch=pin_memory(self.batch))  # type: ignore[no-untyped-call]

    @property
    def padded_s(self) -> float:
        """Seconds of the batch, padding included."""
        return len(self.sources) * self.longest_s


class UpdateSource(Generic[Batch]):
    """Where a training loop gets its updates: ``Updates`` of a corpus or ``StreamedUpdates``."""

    waited_s = 0.0
    """Seconds that ``start`` has waited for audio, the first update, for which workers start, excepted."""

    def __init__(
        self, collate: Callable[[list[Clip]], Batch], config: LoaderConfig, augment: Augmentation | None
    ) -> None:
        self.collate, self.config, self.augment = collate, config, augment

    def start(self, place: Any = None) -> Iterator[tuple[Any, list[Loaded[Batch]]]]:
        """Endless: the place from which to resume *after* this update, and this rank's micro-batches of it. The place,
        None at the beginning, is all that a checkpoint has to keep. Raises ``UserError`` where the data cannot be read
        any further."""
        updates = self._updates(place)
        for number in count():
            began = time.monotonic()
            update = next(updates)
            self.waited_s += time.monotonic() - began if number else 0.0
            yield update

    def sample(self, seconds: float) -> Iterator[Loaded[Batch]]:
        """The first micro-batches of the data, of about so many seconds and at most an epoch, whatever the ranks."""
        alone = copy(self)
        alone.config = replace(self.config, ranks=1, rank=0)
        for place, parts in alone._updates(None):
            for part in parts:
                yield part
                seconds -= part.seconds
            if seconds <= 0 or self._epoch(place) > 0:
                return

    def fingerprint(self) -> Fingerprint:
        """Plain JSON by which a resumed run notices that its data has changed."""
        raise NotImplementedError

    def _epoch(self, place: Any) -> int:
        raise NotImplementedError

    def _updates(self, place: Any) -> Iterator[tuple[Any, list[Loaded[Batch]]]]:
        raise NotImplementedError

    def clip(
        self, others: Sequence[Utterance], own: int, seed: tuple[int, ...], rng: np.random.Generator, speed: float
    ) -> Clip:
        """Decode utterance number ``own`` of ``others``, crop and augment it. Raises ``UserError`` where it cannot be
        used (``read_clip``), or what augments it cannot."""
        clip = read_clip(others[own], rng, self.config.crop_s * speed, self.config.min_s)
        waveform = self.augment(clip.waveform, speed, others, own, rng) if self.augment else clip.waveform
        return replace(clip, waveform=waveform, seed=seed, speed=speed)


def loaded_of(
    clips: list[Clip], skipped: list[dict[str, Any]], collate: Callable[[list[Clip]], Batch]
) -> Loaded[Batch]:
    """A micro-batch of these clips."""
    seconds = [len(clip.waveform) / SAMPLE_RATE_HZ for clip in clips]
    sources = [clip.utterance.source for clip in clips]
    return Loaded(collate(clips), sum(seconds), skipped, sources, max(seconds, default=0.0))


class Updates(UpdateSource[Batch], Dataset[Any]):
    """The updates of a corpus for one rank. A place is an epoch and the number of its next update. As a data set it is
    indexed by an epoch and the numbers of utterances, which become a micro-batch."""

    def __init__(
        self,
        corpus: Corpus,
        collate: Callable[[list[Clip]], Batch],
        config: LoaderConfig,
        *,
        temperature: float = 1.0,
        augment: Augmentation | None = None,
    ) -> None:
        super().__init__(collate, config, augment)
        self.corpus, self.utterances = corpus, corpus.utterances
        self.durations_s: np.ndarray = np.minimum(corpus.utterances.durations_s, config.crop_s)
        self.repeats = corpus.repeats(temperature)

    def fingerprint(self) -> Fingerprint:
        return self.corpus.fingerprint()

    def _epoch(self, place: list[int]) -> int:
        return place[0] if place[1] < self.epoch_length(place[0]) else place[0] + 1

    def read(self, number: int, epoch: int) -> Clip:
        """``clip`` one utterance of this epoch; ``number + N`` is its second copy in it (``plan.draw_copies``)."""
        own, seed = number % len(self.utterances), (self.config.seed, epoch, number)
        speed = float(self.augment.speeds((epoch,), own, 1)[0]) if self.augment else 1.0
        return self.clip(self.utterances, own, seed, np.random.default_rng(seed), speed)

    def __getitem__(self, asked: tuple[int, np.ndarray]) -> Loaded[Batch]:
        epoch, numbers = asked
        clips, skipped = list[Clip](), []
        for number in numbers.tolist():
            try:
                clips.append(self.read(number, epoch))
            except UserError as error:
                source = self.utterances[number % len(self.utterances)].source
                skipped.append({"source": source, "reason": str(error), "epoch": epoch})
        return loaded_of(clips, skipped, self.collate)

    def planned_s(self, epoch: int) -> np.ndarray:
        """(N,) seconds of each utterance in this epoch, at its speed and cropped."""
        if self.augment is None:
            return self.durations_s
        speeds = self.augment.speeds((epoch,), 0, len(self.utterances))
        return np.minimum(self.utterances.durations_s / speeds, self.config.crop_s)  # type: ignore[no-any-return]

    @property
    def epoch_utterances(self) -> float:
        """The expected number of utterances in an epoch."""
        return len(self.utterances) if self.repeats is None else float(self.repeats.sum())

    def epoch_length(self, epoch: int) -> int:
        """The number of updates in an epoch."""
        return len(self._plan(epoch)[0])

    def _plan(self, epoch: int) -> tuple[EpochPlan, np.ndarray]:
        seconds = self.planned_s(epoch)
        return EpochPlan(seconds, self.config.update_s, self.config.seed, epoch, self.repeats), seconds

    def _updates(self, place: Any) -> Iterator[tuple[list[int], list[Loaded[Batch]]]]:
        """The workers decode ahead, from epoch to epoch."""
        epoch, position = place or (0, 0)
        loader = iter(self._loader((e, part) for (e, _), parts in self._deal(epoch, position) for part in parts))
        for after, parts in self._deal(epoch, position):
            yield after, [next(loader) for _ in parts]

    def once(self) -> Iterator[Loaded[Batch]]:
        """This rank's share of the corpus for scoring: each utterance once, in a fixed order, not augmented."""
        plain = copy(self)
        plain.augment = None
        yield from plain._loader((0, part) for part in self._parts(np.arange(len(self.utterances)), self.durations_s))

    def _deal(self, epoch: int, position: int) -> Iterator[tuple[list[int], list[np.ndarray]]]:
        while True:
            plan, seconds = self._plan(epoch)
            for number in range(position, len(plan)):
                yield [epoch, number + 1], self._parts(plan[number], seconds)
            epoch, position = epoch + 1, 0

    def _parts(self, numbers: np.ndarray, seconds: np.ndarray) -> list[np.ndarray]:
        return deal(numbers, seconds, self.config.batch_max_s, self.config.ranks, self.config.rank)

    def _loader(self, asked: Iterator[tuple[int, np.ndarray]]) -> DataLoader[Any]:
        return data_loader(self, self.config.workers, ahead=4, sampler=asked)


def read_clip(utterance: Utterance, rng: np.random.Generator, crop_s: float, min_s: float) -> Clip:
    """Decode an utterance, or a random crop of it that lasts ``crop_s``. Raises ``UserError`` where it is unreadable or
    silent, or much shorter than its header states and shorter than ``min_s``."""
    waveform, start_s = random_crop(utterance, crop_s, rng)
    begin = waveform[:1000]  # usually enough to see that it is not constant
    if begin.min() == begin.max() and waveform.min() == waveform.max():
        raise UserError(f"{utterance.source}: silent: all samples read are the same")
    if len(waveform) < round(min(min_s, utterance.duration_s, crop_s) * SAMPLE_RATE_HZ * 0.99):
        raise UserError(f"{utterance.source}: only {len(waveform) / SAMPLE_RATE_HZ:.2f} s of its "
                        f"{utterance.duration_s:.2f} s could be decoded")  # fmt: skip
    waveform = waveform[: round(crop_s * SAMPLE_RATE_HZ)]
    return Clip(utterance, waveform, rng, start_s=utterance.start_s + start_s)


def pad(waveforms: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Waveforms (S_i,) as one padded tensor (B, S), and their lengths (B,)."""
    lengths = torch.tensor([len(w) for w in waveforms])
    return torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True), lengths


def data_loader(dataset: Dataset[Any], workers: int, ahead: int, sampler: Any = None) -> DataLoader[Any]:
    """Load the items of ``dataset`` as they are, ``ahead`` of them in each of ``workers`` processes."""
    return DataLoader(
        dataset, batch_size=None, sampler=sampler, num_workers=workers, prefetch_factor=ahead if workers else None,
        collate_fn=copy, worker_init_fn=start_worker, pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # its own, so that the run's generator is not advanced
    )  # fmt: skip


def start_worker(_: int) -> None:
    """Set up a worker process: one thread, killed with its parent, deaf to the signals that the parent handles."""
    torch.set_num_threads(1)
    follow_parent(signal.SIGKILL)  # else it keeps a killed rank's sockets open for seconds
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # the training process handles them, and ends its workers
