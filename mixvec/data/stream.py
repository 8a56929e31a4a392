"""Data read as it lies, for what is too large, or too far away, to be looked through first.

Each rank reads shards of its own (tars, Parquet files, shards of a hub data set) in an order drawn anew each epoch;
where there are fewer shards than ranks, every n-th utterance of each. Undecoded, ``data.buffer_s`` seconds of audio
make a pool, which is planned like the pools of an epoch (``plan.plan_pool``), then decoded update by update. Several
sources take turns, so that their seconds in a pool stand as their weights.

A place in the stream is where a pool began in each source, and the next of its updates. To go on from there, the
shards are read again from that pool's first utterance on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Generic

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from ..audio import audio_header
from ..errors import UserError
from .augment import Augmentation
from .batches import Batch, Clip, Loaded, loaded_of, read_clip, start_worker
from .headers import opened
from .mixture import weighted_sources
from .plan import deal, plan_pool
from .readers.remote import forget, settled
from .readers.rows import Fault, Row, Rows
from .readers.tables import Held
from .segments import stretches_of
from .sources import parts_of, utterance_of
from .utterances import Utterance

ROWS_AT_ONCE = 32
"""Rows whose headers are looked at together."""

At = list[int]
"""A place in a source: the epoch, the shard within it, the row within that, and how many shards there were."""
Place = dict[str, Any]
"""A place in the stream: ``sources``, an ``At`` for each; ``update``; and how many ``ranks`` share the stream."""


@dataclass(frozen=True)
class Streamed:
    """An utterance and its own numbers, of which all that is random about it is drawn."""

    utterance: Utterance
    numbers: tuple[int, ...]
    """Epoch, source, shard and row; and which stretch of a long recording."""

    def stretches(self, min_s: float, max_s: float) -> list[Streamed]:
        """It, or what a recording longer than ``max_s`` is cut into."""
        if self.utterance.duration_s <= max_s:
            return [self]
        parts = stretches_of(self.utterance, min_s, max_s)
        return [Streamed(part, (*self.numbers, number)) for number, part in enumerate(parts)]


@dataclass
class Pool:
    """What a rank has read and not yet decoded."""

    utterances: list[Streamed] = field(default_factory=list)
    skipped: list[dict[str, Any]] = field(default_factory=list)
    after: list[At] = field(default_factory=list)
    """Where each source goes on after it."""


class Source:
    """One source as one rank reads it, for ever."""

    def __init__(self, name: str, key: str, number: int, min_s: float, seed: int, ranks: int, rank: int) -> None:
        self.name, self.key, self.number, self.min_s = name, key, number, min_s
        self.seed, self.ranks, self.rank = seed, ranks, rank
        self.read_count, self.bad_count = 0, 0
        """What it has come by in this session, and how much of that could not be read."""

    def read(self, at: At | None, workers: ThreadPoolExecutor) -> Iterator[tuple[At, Streamed | Fault]]:
        """From a place on: what comes, each with the place after it.

        Raises:
            UserError: the source cannot be read, holds no audio, or has changed since ``at``.
        """
        epoch, first, row, count = at or (0, 0, 0, 0)
        while True:
            shards = self.shards(epoch)
            if count and count != len(shards):
                raise UserError(f"{self.key}={self.name}: {len(shards)} shards for rank {self.rank}, where there were "
                                f"{count}: a stream goes on only in what it began in; put them back")  # fmt: skip
            from_the_first, heard, fault = (first, row) == (0, 0), False, None
            for place in range(first, len(shards)):
                shard, rows = shards[place]
                for number, found in enumerate(self._looked(islice(rows, row, None), workers), start=row):
                    after = [epoch, place, number + 1, len(shards)]
                    if isinstance(found, Fault):
                        fault = found
                        yield after, found
                    else:
                        heard = True
                        yield after, Streamed(found, (epoch, self.number, shard, number))
                row = 0
            if from_the_first and not heard:
                why = f" (the last: {' '.join(fault.reason.split())})" if fault else ""
                raise UserError(f"{self.key}={self.name}: nothing to train on in it for rank {self.rank}{why}")
            epoch, first, row, count = epoch + 1, 0, 0, 0

    def shards(self, epoch: int) -> list[tuple[int, Rows]]:
        """This rank's shards of an epoch, or its share of each, with their numbers."""
        parts = [settled(part) for part in parts_of(self.name, self.key, labels=False, stream=True)]
        order = np.random.default_rng([self.seed, epoch, self.number, 0, 5]).permutation(len(parts)).tolist()
        if len(parts) >= self.ranks:
            return [(number, parts[number]) for number in order[self.rank :: self.ranks]]
        return [(number, islice(parts[number], self.rank, None, self.ranks)) for number in order]

    def _looked(self, rows: Iterator[Row | Fault], workers: ThreadPoolExecutor) -> Iterator[Utterance | Fault]:
        while batch := list(islice(rows, ROWS_AT_ONCE)):
            for found in workers.map(self._look, batch):
                self.read_count, self.bad_count = self.read_count + 1, self.bad_count + isinstance(found, Fault)
                if isinstance(found, Utterance) and found.duration_s < self.min_s:
                    found = Fault(found.source, f"{found.source}: {found.duration_s:.2f} s is under data.min_s")
                yield found

    def _look(self, row: Row | Fault) -> Utterance | Fault:
        """In a thread: fetch what lies in something larger, and see how long it is."""
        if isinstance(row, Fault):
            return row
        try:
            with opened(row.source, row.stored) as file:
                held = row.stored if isinstance(file, str) or isinstance(row.stored, Held) else Held(file.read())
            with opened(row.source, held) as file:
                made = utterance_of(row, audio_header(file), self.number)
        except UserError as error:
            return Fault(row.source, str(error))
        return made if isinstance(made, Fault) else replace(made, text=None, label=None, stored=held)


class StreamedUpdates(Generic[Batch]):
    """A run's data, update by update, for one rank.

    Iterate with ``start(place)``; the place is all there is to save.
    """

    def __init__(
        self,
        source: Any,
        key: str,
        collate: Callable[[list[Clip]], Batch],
        *,
        update_s: float,
        batch_max_s: float,
        buffer_s: float,
        crop_s: float,
        min_s: float,
        max_skipped: float,
        workers: int,
        seed: int,
        ranks: int = 1,
        rank: int = 0,
        augment: Augmentation | None = None,
    ) -> None:
        """``workers`` threads decode, in one process of their own; with 0 one does, in this process.

        Raises:
            UserError: there is no such source.
        """
        named = weighted_sources(source, key)
        self.sources = [Source(name, key, n, min_s, seed, ranks, rank) for n, (name, _) in enumerate(named)]
        self.weights, self.collate, self.key, self.augment = [weight for _, weight in named], collate, key, augment
        self.update_s, self.batch_max_s = update_s / ranks, batch_max_s
        self.pool_s, self.crop_s, self.min_s = max(buffer_s, self.update_s), crop_s, min_s
        self.workers, self.max_skipped, self.seed, self.ranks, self.rank = workers, max_skipped, seed, ranks, rank
        self._ended = False
        self.waited_s = 0.0
        """Seconds that ``start`` has waited for audio so far, but for the first update."""
        forget()
        for name, _ in named:
            parts_of(name, key, labels=False, stream=True)  # so that a wrong name is told at once

    def start(self, place: Place | None = None) -> Iterator[tuple[Place, list[Loaded[Batch]]]]:
        """For ever: the place to go on from *after* this update, and this rank's micro-batches of it.

        Raises:
            UserError: a source cannot be read on, too much of it is skipped, or ``place`` is of other ranks.
        """
        if place and place["ranks"] != self.ranks:
            raise UserError(f"{self.key}: {place['ranks']} ranks have shared this stream, each with a place of its own "
                            f"in it, so {self.ranks} cannot go on; start {place['ranks']} again")  # fmt: skip
        loader = DataLoader(
            _Stream(self, place), batch_size=None, num_workers=min(1, self.workers), collate_fn=_as_it_is,
            prefetch_factor=2 if self.workers else None, generator=torch.Generator(), worker_init_fn=start_worker,
            pin_memory=torch.cuda.is_available(),
        )  # fmt: skip
        began = None
        for item in loader:
            self.waited_s += time.monotonic() - began if began is not None else 0.0
            if isinstance(item, str):
                raise UserError(item)
            yield item
            began = time.monotonic()

    def updates(self, place: Place | None) -> Iterator[tuple[Place, list[Loaded[Batch]]]]:
        """As ``start``, in this process; while one pool is decoded, a thread fills the next."""
        begins: list[At | None] = list(place["sources"]) if place else [None] * len(self.sources)
        first = place["update"] if place else 0
        with ThreadPoolExecutor(max(1, self.workers)) as workers, ThreadPoolExecutor(1) as filler:
            streams = [own.read(at, workers) for own, at in zip(self.sources, begins, strict=True)]
            coming = filler.submit(self._fill, streams, begins)
            try:
                while True:
                    pool = coming.result()
                    coming = filler.submit(self._fill, streams, pool.after)
                    for after, parts in self._deal(pool, begins, first):
                        loaded = [self._decoded(pool, part, workers) for part in parts]
                        if first == 0:
                            loaded[0].skipped.extend(pool.skipped)
                        first += 1
                        yield after, loaded
                    begins, first = list(pool.after), 0
            finally:
                self._ended = True

    def _fill(self, streams: list[Iterator[tuple[At, Streamed | Fault]]], begins: list[At | None]) -> Pool:
        """The next pool: always on with the source that has had the least for its weight."""
        pool, seconds = Pool(after=[at or [0, 0, 0, 0] for at in begins]), [0.0] * len(streams)
        while sum(seconds) < self.pool_s and not self._ended:
            turn = min(range(len(streams)), key=lambda n: seconds[n] / self.weights[n])
            pool.after[turn], found = next(streams[turn])
            if isinstance(found, Fault):
                pool.skipped.append({"source": found.source, "reason": found.reason})
            else:
                stretches = found.stretches(self.min_s, self.crop_s)
                pool.utterances += stretches
                seconds[turn] += sum(map(self._planned_s, stretches))
        bad, count = sum(own.bad_count for own in self.sources), sum(own.read_count for own in self.sources)
        if bad > self.max_skipped * count:
            reasons = " ".join("; ".join(row["reason"] for row in pool.skipped[:3]).split())
            raise UserError(f"{self.key}: {bad} of the first {count} utterances cannot be used, more than "
                            f"data.max_skipped={self.max_skipped:g} allows: {reasons}")  # fmt: skip
        return pool

    def _deal(self, pool: Pool, begins: list[At | None], first: int) -> Iterator[tuple[Place, list[np.ndarray]]]:
        """The updates of a pool from ``first`` on, as micro-batches, each with the place after it."""
        durations_s = np.array([self._planned_s(streamed) for streamed in pool.utterances])
        count = min(len(durations_s), max(1, round(float(durations_s.sum()) / self.update_s)))
        where = [value for at in begins for value in at or [0, 0, 0, 0]]
        rng = np.random.default_rng([self.seed, self.rank, *where, 6])
        updates = plan_pool(np.arange(len(durations_s)), durations_s, count, rng)
        for number in range(first, count):
            on = {"sources": [at or [0, 0, 0, 0] for at in begins], "update": number + 1, "ranks": self.ranks}
            end = {"sources": pool.after, "update": 0, "ranks": self.ranks}
            yield on if number + 1 < count else end, deal(updates[number], durations_s, self.batch_max_s, 1, 0)

    def _decoded(self, pool: Pool, part: np.ndarray, workers: ThreadPoolExecutor) -> Loaded[Batch]:
        others = [streamed.utterance for streamed in pool.utterances]
        made = list(workers.map(lambda own: self._clip(pool.utterances[own], others, own), part.tolist()))
        for own, clip in zip(part.tolist(), made, strict=True):
            self.sources[others[own].part].bad_count += isinstance(clip, dict)
        skipped = [clip for clip in made if isinstance(clip, dict)]
        return loaded_of([clip for clip in made if isinstance(clip, Clip)], skipped, self.collate)

    def _clip(self, streamed: Streamed, others: list[Utterance], own: int) -> Clip | dict[str, Any]:
        rng, speed = np.random.default_rng([self.seed, *streamed.numbers, 7]), self._speed(streamed)
        try:
            clip = read_clip(streamed.utterance, rng, self.crop_s * speed, self.min_s)
            if self.augment is None:
                return clip
            return replace(clip, waveform=self.augment(clip.waveform, speed, others, own, rng))
        except UserError as error:
            return {"source": streamed.utterance.source, "reason": str(error), "epoch": streamed.numbers[0]}

    def _speed(self, streamed: Streamed) -> float:
        epoch, source, shard, row = streamed.numbers[:4]
        return 1.0 if self.augment is None else float(self.augment.speeds((epoch, source, shard), row, 1)[0])

    def _planned_s(self, streamed: Streamed) -> float:
        """Seconds at its speed and cropped."""
        return min(streamed.utterance.duration_s / self._speed(streamed), self.crop_s)


class _Stream(IterableDataset[Any]):
    """The updates from a place on; at the end, a line on what went wrong."""

    def __init__(self, updates: StreamedUpdates[Any], place: Place | None) -> None:
        self.updates, self.place = updates, place

    def __iter__(self) -> Iterator[Any]:
        try:
            yield from self.updates.updates(self.place)
        except UserError as error:
            yield str(error)


def _as_it_is(item: Any) -> Any:
    return item
