"""The audio of a pretraining: find it, select, cut, report what there is, and plan it for this rank."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from mixvec import UserError
from mixvec.data.augment import Augmentation
from mixvec.data.batches import LoaderConfig, Updates, UpdateSource
from mixvec.data.masks import MIN_FRAMES
from mixvec.data.segments import cut_long, join_neighbours
from mixvec.data.sources import Corpus, find_utterances, parse_sources, short_names
from mixvec.data.stream import StreamedUpdates
from mixvec.model.frontend import SAMPLE_RATE_HZ
from mixvec.training.compiling import FRAMES_MULTIPLE
from mixvec.training.run import Run

from .config import PretrainConfig
from .objectives import Objective


def open_data(config: PretrainConfig, run: Run, objective: Objective) -> tuple[str, UpdateSource[Any]]:
    """Find and plan ``data.train``; the name of the data, and its updates.

    Raises:
        UserError: there is no usable audio, or ``data.min_s`` is too short to mask.
    """
    data, accelerator = config.data, run.accelerator
    _check_shortest(config, objective.encoder)
    augment = Augmentation(data.augment, config.run.seed)
    collate = partial(objective.collate, multiple=FRAMES_MULTIPLE if accelerator.device.type == "cuda" else 1)
    loader = LoaderConfig(
        config.batch.update_s, config.batch.max_s, data.max_s, data.min_s, data.workers, config.run.seed,
        accelerator.num_processes, accelerator.process_index, data.channel,
    )  # fmt: skip
    updates: UpdateSource[Any]
    if data.stream:
        sources = parse_sources(data.train, "data.train")
        updates = streamed = StreamedUpdates(
            sources, "data.train", collate, loader, buffer_s=data.buffer_s, max_skipped=data.max_skipped,
            augment=augment,
        )  # fmt: skip
        name = short_names(sources)
        found = f"{name}, streamed with a buffer of {streamed.pool_s:g} s"
    else:
        corpus = _find_corpus(config, run)
        updates = planned = Updates(corpus, collate, loader, temperature=data.temperature, augment=augment)
        run.skips.most = data.max_skipped * planned.epoch_utterances
        name, skipped = corpus.name, len(corpus.skipped)
        found = f"{corpus.hours:.2f} h in {len(corpus.utterances)} utterances"
        found += f", {skipped} files skipped (why: {run.dir / 'skipped.jsonl'})" if skipped else ""
        found += f"{f'; {corpus.others}' if corpus.notes else ''}; {planned.epoch_length(0)} updates an epoch"
    run.skips.note(augment.skipped)
    parameters = sum(p.numel() for p in objective.parameters()) / 1e6
    devices = f"{accelerator.num_processes} x {accelerator.device.type}"
    described, *warnings = objective.describe(config.run.updates * config.batch.update_s / 3600)
    run.log.print("\n".join([f"{found}; {parameters:.1f} M parameters; {devices}; {described}", *warnings]))
    return name, updates


def _check_shortest(config: PretrainConfig, encoder: Any) -> None:
    """Refuse a ``data.min_s`` whose utterances have too few frames to mask at the fastest speed."""
    fastest, samples = config.data.augment.fastest, encoder.min_samples
    while encoder.frame_lengths(samples) < MIN_FRAMES:
        samples += 1
    if round(config.data.min_s / fastest * SAMPLE_RATE_HZ) < samples:
        at_speed = f" at data.augment.speed={fastest:g}" if fastest > 1 else ""
        least_s = math.ceil(100 * samples / SAMPLE_RATE_HZ * fastest) / 100
        raise UserError(f"data.min_s={config.data.min_s} is too short to mask{at_speed}: {MIN_FRAMES} frames of the "
                        f"encoder are needed, which take data.min_s={least_s:g}")  # fmt: skip


def _find_corpus(config: PretrainConfig, run: Run) -> Corpus:
    """The usable audio of ``data.train``; what is not usable is listed in ``skipped.jsonl``."""
    data = config.data
    corpus = find_utterances(data.train, "data.train", channel=data.channel)
    for line in corpus.channel_warnings("data.train"):
        run.log.print(line)
    run.skips.note(corpus.skipped + corpus.notes, fresh=True)
    corpus.check_skipped(data.max_skipped, f"data.train={data.train}")
    corpus.keep_durations(min_s=data.min_s)
    run.skips.note(corpus.skipped + corpus.notes, fresh=True)
    if not corpus.utterances:
        raise UserError(f"data.train={data.train}: every utterance is shorter than data.min_s={data.min_s} s")
    if data.join_s and (joined := join_neighbours(corpus, data.join_s)):
        run.log.print(joined)
    if cut := cut_long(corpus, data):
        run.log.print(f"{cut} (data.max_s={data.max_s:g})")
    if data.longest_share < 1.0:
        count = len(corpus.utterances)
        corpus.utterances = corpus.utterances.longest(data.longest_share)
        shortest_s = corpus.utterances.durations_s.min()
        run.log.print(f"the longest {len(corpus.utterances)} of {count} utterances, from {shortest_s:.1f} s "
                      f"(data.longest_share={data.longest_share:g})")  # fmt: skip
    return corpus
