"""Streams: data that is too large, or too far away, to be scanned before training.

Each rank reads shards of its own (tars, Parquet files, shards of a hub data set) in an order drawn for each epoch;
where there are fewer shards than ranks, every n-th utterance of each. Undecoded, ``data.buffer_s`` seconds of audio
make a pool, which is planned as the pools of an epoch are (``plan.plan_pool``), then decoded update by update. Several
sources take turns, so that their seconds in a pool are in proportion to their weights.

A place in the stream is where a pool began in each source, and the next of its updates. To resume there, the shards
are read again from that pool's first utterance on.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import replace
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import IterableDataset

from ..audio import audio_header
from ..errors import UserError, redacted
from .augment import Augmentation
from .batches import Batch, Clip, Loaded, LoaderConfig, UpdateSource, data_loader, loaded_of
from .fingerprint import Fingerprint
from .headers import opened
from .plan import deal, plan_pool
from .readers.remote import forget
from .readers.rows import Fault, Row, Rows, Shard, Stored
from .readers.tables import Held
from .segments import even_segments_of
from .sources import SourceSpec, shards_of, utterance_of
from .utterances import Utterance

ROWS_AT_ONCE = 32
"""Rows whose headers are read together."""

At = list[int]
"""A place in a source: the epoch, the shard within it, the row within that, and the number of shards."""
Place = dict[str, Any]
"""A place in the stream: ``sources``, an ``At`` for each; ``update``; and how many ``ranks`` share the stream."""
BEGINNING = [0, 0, 0, 0]


class Streamed(NamedTuple):
    """An utterance and the numbers that identify it, which seed all that is random about it: epoch, source, shard and
    row; for a segment of a long recording also its number."""

    utterance: Utterance
    numbers: tuple[int, ...]


class Pool(NamedTuple):
    """What a rank has read and not yet decoded, and where each source continues after it."""

    streamed: list[Streamed]
    skipped: list[dict[str, Any]]
    after: list[At]


class Source:
    """One source as one rank reads it, without end."""

    def __init__(self, name: str, key: str, number: int, config: LoaderConfig) -> None:
        self.name, self.key, self.number, self.config = name, key, number, config
        self.read_count, self.bad_count = 0, 0
        """The utterances read in this session, and how many of them could not be used."""

    def read(self, at: At | None, workers: ThreadPoolExecutor) -> Iterator[tuple[At, Streamed | Fault]]:
        """The utterances from a place on, each with the place after it. Raises ``UserError`` where the source cannot be
        read, holds no audio, or has changed since ``at``."""
        epoch, first, row, count = at or BEGINNING
        rank = self.config.rank
        while True:
            shards = self.shards(epoch)
            if count and count != len(shards):
                raise UserError(f"{self.key}={self.name}: {len(shards)} shards for rank {rank}, {count} when the "
                                "stream was begun; it can only be resumed with the same shards")  # fmt: skip
            from_the_first, found_any, fault = (first, row) == (0, 0), False, None
            for position in range(first, len(shards)):
                shard, rows = shards[position]
                for number, found in enumerate(self._looked(islice(rows, row, None), workers), start=row):
                    after = [epoch, position, number + 1, len(shards)]
                    if isinstance(found, Fault):
                        fault = found
                        yield after, found
                    else:
                        found_any = True
                        yield after, Streamed(found, (epoch, self.number, shard, number))
                row = 0
            if from_the_first and not found_any:
                why = f" (the last: {' '.join(fault.reason.split())})" if fault else ""
                raise UserError(f"{self.key}={self.name}: nothing to train on in it for rank {rank}{why}")
            epoch, first, row, count = epoch + 1, 0, 0, 0

    def all_shards(self) -> list[Shard]:
        """All shards of the source, in a fixed order."""
        return shards_of(self.name, self.key, labels=False, stream=True)

    def shards(self, epoch: int) -> list[tuple[int, Rows]]:
        """This rank's shards of an epoch with their numbers; its rows of each where there are fewer than ranks."""
        rows = [shard.rows for shard in self.all_shards()]
        seed, ranks, rank = self.config.seed, self.config.ranks, self.config.rank
        order = np.random.default_rng([seed, epoch, self.number, 0, 5]).permutation(len(rows)).tolist()
        if len(rows) >= ranks:
            return [(number, rows[number]) for number in order[rank::ranks]]
        return [(number, islice(rows[number], rank, None, ranks)) for number in order]

    def _looked(self, rows: Iterator[Row | Fault], workers: ThreadPoolExecutor) -> Iterator[Utterance | Fault]:
        while batch := list(islice(rows, ROWS_AT_ONCE)):
            for found in workers.map(self._look, batch):
                self.read_count += 1
                self.bad_count += isinstance(found, Fault) and found.counted
                if isinstance(found, Utterance) and found.duration_s < self.config.min_s:
                    found = Fault(found.source, f"{found.source}: {found.duration_s:.2f} s is under data.min_s")
                yield found

    def _look(self, row: Row | Fault) -> Utterance | Fault:
        """In a thread: fetch audio that is inside something larger, and read its header."""
        if isinstance(row, Fault):
            return row
        stored = row.stored
        try:
            if stored is not None and not isinstance(stored.holder, Held):
                with opened(row.source, stored) as file:
                    stored = Stored(Held(file.read()))  # type: ignore[union-attr]
            with opened(row.source, stored) as file:
                made = utterance_of(row, audio_header(file), self.number)
        except UserError as error:
            return Fault(row.source, str(error))
        if isinstance(made, Fault):
            return made
        return replace(made, text=None, label=None, stored=stored, channel=self.config.channel)


class StreamedUpdates(UpdateSource[Batch], IterableDataset[Any]):
    """The updates of a stream for one rank, which are those from ``place`` on where it is iterated as a data set."""

    place: Place | None = None

    def __init__(
        self,
        sources: tuple[SourceSpec, ...],
        key: str,
        collate: Callable[[list[Clip]], Batch],
        config: LoaderConfig,
        *,
        buffer_s: float,
        max_skipped: float,
        augment: Augmentation | None = None,
    ) -> None:
        """``workers`` threads decode, in one process of their own; with 0 one thread does, in this process. Raises
        ``UserError`` where there is no such source."""
        super().__init__(collate, config, augment)
        self.key, self.max_skipped = key, max_skipped
        self.weights = [source.weight for source in sources]
        self.update_s = config.update_s / config.ranks
        self.pool_s = max(buffer_s, self.update_s)
        self._ended = False
        forget()
        self.sources = [Source(name, key, n, config) for n, (name, _) in enumerate(sources)]
        shards = [shard.name for source in self.sources for shard in source.all_shards()]
        names = zlib.crc32("\n".join(map(redacted, shards)).encode("utf-8", "surrogatepass"))
        self._fingerprint = {"shards": len(shards), "shard_names": names}  # found now: a wrong name is reported at once

    def _epoch(self, place: Place) -> int:
        return max(int(at[0]) for at in place["sources"])

    def fingerprint(self) -> Fingerprint:
        return self._fingerprint

    def _updates(self, place: Place | None) -> Iterator[tuple[Place, list[Loaded[Batch]]]]:
        ranks, workers = self.config.ranks, self.config.workers
        if place and place["ranks"] != ranks:
            raise UserError(f"{self.key}: this stream was read by {place['ranks']} ranks, each at a place of its own, "
                            f"so {ranks} ranks cannot resume it; start {place['ranks']} again")  # fmt: skip
        stream = copy(self)
        stream.place = place
        for item in data_loader(stream, min(1, workers), ahead=2):
            if isinstance(item, str):
                raise UserError(item)
            yield item

    def __iter__(self) -> Iterator[Any]:
        """The updates; a ``UserError`` becomes a last item, its message."""
        try:
            yield from self._decoded(self.place)
        except UserError as error:
            yield str(error)

    def _decoded(self, place: Place | None) -> Iterator[tuple[Place, list[Loaded[Batch]]]]:
        """The updates from a place on, in this process; while one pool is decoded, a thread fills the next."""
        begins: list[At] = list(place["sources"]) if place else [BEGINNING] * len(self.sources)
        first = place["update"] if place else 0
        with ThreadPoolExecutor(max(1, self.config.workers)) as workers, ThreadPoolExecutor(1) as filler:
            streams = [source.read(at, workers) for source, at in zip(self.sources, begins, strict=True)]
            coming = filler.submit(self._fill, streams, begins)
            try:
                while True:
                    pool = coming.result()
                    coming = filler.submit(self._fill, streams, pool.after)
                    for after, parts in self._deal(pool, begins, first):
                        loaded = [self._decode(pool, part, workers) for part in parts]
                        if first == 0:
                            loaded[0].skipped.extend(pool.skipped)
                        first += 1
                        yield after, loaded
                    begins, first = pool.after, 0
            finally:
                self._ended = True

    def _fill(self, streams: list[Iterator[tuple[At, Streamed | Fault]]], begins: Sequence[At]) -> Pool:
        """The next pool: it is always the source with the fewest seconds for its weight that is read next."""
        pool, seconds = Pool([], [], [*begins]), [0.0] * len(streams)
        while sum(seconds) < self.pool_s and not self._ended:
            turn = min(range(len(streams)), key=lambda n: seconds[n] / self.weights[n])
            pool.after[turn], found = next(streams[turn])
            if isinstance(found, Fault):
                pool.skipped.append({"source": found.source, "reason": found.reason})
                continue
            segments = [found]
            if found.utterance.duration_s > self.config.crop_s:
                parts = even_segments_of(found.utterance, self.config.min_s, self.config.crop_s)
                segments = [Streamed(part, (*found.numbers, number)) for number, part in enumerate(parts)]
            pool.streamed.extend(segments)
            seconds[turn] += sum(map(self._planned_s, segments))
        bad, count = (sum(getattr(own, name) for own in self.sources) for name in ("bad_count", "read_count"))
        if bad > self.max_skipped * count:
            reasons = " ".join("; ".join(row["reason"] for row in pool.skipped[:3]).split())
            raise UserError(f"{self.key}: {bad} of the first {count} utterances cannot be used, more than "
                            f"data.max_skipped={self.max_skipped:g} allows: {reasons}")  # fmt: skip
        return pool

    def _deal(self, pool: Pool, begins: list[At], first: int) -> Iterator[tuple[Place, list[np.ndarray]]]:
        """The updates of a pool from ``first`` on, as micro-batches, each with the place after it."""
        config = self.config
        durations_s = np.array([self._planned_s(streamed) for streamed in pool.streamed])
        count = min(len(durations_s), max(1, round(float(durations_s.sum()) / self.update_s)))
        rng = np.random.default_rng([config.seed, config.rank, *(value for at in begins for value in at), 6])
        updates = plan_pool(np.arange(len(durations_s)), durations_s, count, rng)
        for number in range(first, count):
            inside = {"sources": begins, "update": number + 1, "ranks": config.ranks}
            end = {"sources": pool.after, "update": 0, "ranks": config.ranks}
            parts = deal(updates[number], durations_s, config.batch_max_s, 1, 0)
            yield inside if number + 1 < count else end, parts

    def _decode(self, pool: Pool, part: np.ndarray, workers: ThreadPoolExecutor) -> Loaded[Batch]:
        utterances = [streamed.utterance for streamed in pool.streamed]

        def clip(own: int) -> Clip | dict[str, Any]:
            streamed = pool.streamed[own]
            seed = (self.config.seed, *streamed.numbers)
            try:
                return self.clip(utterances, own, seed, np.random.default_rng([*seed, 7]), self._speed(streamed))
            except UserError as error:
                return {"source": utterances[own].source, "reason": str(error), "epoch": streamed.numbers[0]}

        made = list(workers.map(clip, part.tolist()))
        for own, found in zip(part.tolist(), made, strict=True):
            self.sources[utterances[own].corpus_number].bad_count += isinstance(found, dict)
        skipped = [found for found in made if isinstance(found, dict)]
        return loaded_of([found for found in made if isinstance(found, Clip)], skipped, self.collate)

    def _speed(self, streamed: Streamed) -> float:
        epoch, source, shard, row = streamed.numbers[:4]
        return 1.0 if self.augment is None else float(self.augment.speeds((epoch, source, shard), row, 1)[0])

    def _planned_s(self, streamed: Streamed) -> float:
        """Seconds at its speed and cropped."""
        return min(streamed.utterance.duration_s / self._speed(streamed), self.config.crop_s)
