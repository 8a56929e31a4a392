"""Pretrain an encoder on unlabelled audio.

    python -m pretrain configs/small.yaml data.train=DIR run.dir=runs/small
    torchrun --nproc_per_node 8 -m pretrain configs/base.yaml data.train=DIR run.dir=runs/base

The same command goes on where the run stopped. The model is in ``run.dir``/hub.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from functools import partial

import torch

from mixvec import UserError
from mixvec.data.augment import Augmentation
from mixvec.data.batches import Loaded, LoaderConfig, Updates, UpdateSource
from mixvec.data.masks import MIN_FRAMES
from mixvec.data.segments import cut_long
from mixvec.data.sources import Corpus, find_utterances
from mixvec.data.spec import parse_sources, short_names
from mixvec.data.stream import StreamedUpdates
from mixvec.model.frontend import SAMPLE_RATE_HZ
from mixvec.training.compiling import FRAMES_MULTIPLE, start_compiling
from mixvec.training.device import start_accelerator
from mixvec.training.export import save_model, training_facts
from mixvec.training.faults import memory_named
from mixvec.training.optim import adamw, learning_rate, set_learning_rate, step
from mixvec.training.run import Run

from .config import PretrainConfig
from .health import Counts, Window, report
from .objectives.contrastive import MaskedBatch, MaskedPrediction, Totals, collate_masked
from .objectives.quantizer import gumbel_temperature
from .probe import open_probe


def train(config: PretrainConfig) -> int:
    """Run, or go on with, a pretraining; the exit codes are listed in ``run``.

    Raises:
        UserError: data, directory or device are not as the configuration says.
    """
    accelerator = start_accelerator(config.run)
    run = Run(config, accelerator)
    objective = MaskedPrediction(config.encoder, config.objective)
    name, updates = open_data(config, run, objective)
    optimizer = adamw(objective.parameters(), config.optim, accelerator.device)
    model, optimizer = accelerator.prepare(objective, optimizer)
    start_compiling(run, objective.encoder)
    probe = open_probe(run, objective.encoder)
    state = run.resume(model, optimizer)
    window = Window(run.elapsed_s)
    model.train()
    todo = range(state.update + 1, config.run.updates + 1)
    for update, (place, loaded) in zip(todo, updates.start(state.place), strict=False):
        progress = update / config.run.updates
        goal = config.objective
        temperature = gumbel_temperature(progress, goal.gumbel_start, goal.gumbel_end, goal.gumbel_fraction)
        set_learning_rate(optimizer, learning_rate(progress, config.optim))
        with memory_named(update, loaded, config.batch.max_s):
            batches = [MaskedBatch(*(t.to(accelerator.device, non_blocking=True) for t in p.batch)) for p in loaded]
            totals, counts = update_totals(run, objective, loaded, batches)
            losses = []
            for number, batch in enumerate(batches, start=1):
                with nullcontext() if number == len(batches) else accelerator.no_sync(model):
                    sums = model(batch, totals, temperature)
                    accelerator.backward(sums.loss * accelerator.num_processes)  # DDP takes the mean over ranks
                window.add(sums)
                losses.append(sums.loss.detach())
            norm = step(run, model, optimizer, state, torch.stack(losses).sum(), loaded)
        state.update, state.place = update, place
        state.seconds_seen += counts.seconds
        window.count(counts, loaded, norm)
        stop = run.should_stop()
        if update % config.run.log_every == 0 or update == config.run.updates or stop:
            stop = report(run, state, window, updates, temperature, optimizer.param_groups[0]["lr"], probe) or stop
            window = Window(run.elapsed_s, updates.waited_s)
        if update % config.run.save_every == 0 or update == config.run.updates or stop:
            save_model(run, objective.encoder, training_facts(run, state, name))
            run.save(state, model, optimizer)  # last: what is killed between the two does both again
        if stop:
            break
    return run.end(state)


def open_data(config: PretrainConfig, run: Run, objective: MaskedPrediction) -> tuple[str, UpdateSource[MaskedBatch]]:
    """Find the audio, leave out what is too short, say what there is, and plan it for this rank; with its name."""
    data, frame_lengths, accelerator = config.data, objective.encoder.frame_lengths, run.accelerator
    if frame_lengths(round(data.min_s / data.augment.fastest * SAMPLE_RATE_HZ)) < MIN_FRAMES:
        fast = f" at data.augment.speed={data.augment.fastest:g}" if data.augment.fastest > 1 else ""
        samples = objective.encoder.min_samples
        while frame_lengths(samples) < MIN_FRAMES:
            samples += 1
        least_s = math.ceil(100 * samples / SAMPLE_RATE_HZ * data.augment.fastest) / 100
        raise UserError(f"data.min_s={data.min_s} is too short to mask{fast}: {MIN_FRAMES} frames of the encoder are "
                        f"needed, which take data.min_s={least_s:g}")  # fmt: skip
    augment = Augmentation(data.augment, config.run.seed)
    multiple = FRAMES_MULTIPLE if accelerator.device.type == "cuda" else 1
    collate = partial(
        collate_masked, config=config.objective, frame_lengths=frame_lengths, multiple=multiple,
        hop_samples=objective.encoder.hop_samples,
    )  # fmt: skip
    loader = LoaderConfig(
        config.batch.update_s, config.batch.max_s, data.max_s, data.min_s, data.workers, config.run.seed,
        accelerator.num_processes, accelerator.process_index,
    )  # fmt: skip
    updates: UpdateSource[MaskedBatch]
    if data.stream:
        sources = parse_sources(data.train, "data.train")
        streamed = StreamedUpdates(
            sources, "data.train", collate, loader, buffer_s=data.buffer_s, max_skipped=data.max_skipped,
            augment=augment,
        )  # fmt: skip
        updates, name = streamed, short_names(sources)
        found = f"{name}, streamed with {streamed.pool_s:g} s held"
    else:
        corpus = find_corpus(config, run)
        updates = planned = Updates(corpus, collate, loader, temperature=data.temperature, augment=augment)
        run.most_undecoded = data.max_skipped * planned.epoch_utterances
        name, skipped = corpus.name, len(corpus.skipped)
        found = f"{corpus.hours:.2f} h in {len(corpus.utterances)} utterances"
        found += f", {skipped} files skipped (why: {run.dir / 'skipped.jsonl'})" if skipped else ""
        found += f"; {planned.epoch_length(0)} updates an epoch"
    run.note_skipped(augment.skipped)
    parameters = sum(p.numel() for p in objective.parameters()) / 1e6
    run.say(
        f"{found}; {parameters:.1f} M parameters; {accelerator.num_processes} x {accelerator.device.type}; "
        f"chance is ln({config.objective.distractors} + 1) = {math.log(config.objective.distractors + 1):.2f}"
    )
    return name, updates


def find_corpus(config: PretrainConfig, run: Run) -> Corpus:
    """The audio of ``data.train`` that can be used; what cannot is noted in ``skipped.jsonl``.

    Raises:
        UserError: there is none, or too much is skipped.
    """
    data = config.data
    corpus = find_utterances(data.train, "data.train")
    run.note_skipped(corpus.skipped, fresh=True)
    corpus.check_skipped(data.max_skipped, f"data.train={data.train}")
    corpus.keep_durations(min_s=data.min_s)
    run.note_skipped(corpus.skipped, fresh=True)
    if not corpus.utterances:
        raise UserError(f"data.train={data.train}: every utterance is shorter than data.min_s={data.min_s} s")
    cut = cut_long(corpus, data, run.on_main)
    run.note_skipped(corpus.skipped, fresh=True)
    if not corpus.utterances:
        raise UserError(f"data.train={data.train}: all silence, as data.gate.below_db={data.gate.below_db:g} has it")
    if cut.recordings:
        run.say(f"{cut} (data.max_s={data.max_s:g})")
    if data.longest_share < 1.0:
        count = len(corpus.utterances)
        corpus.utterances = corpus.utterances.longest(data.longest_share)
        shortest_s = corpus.utterances.durations_s.min()
        run.say(f"the longest {len(corpus.utterances)} of {count} utterances, from {shortest_s:.1f} s "
                f"(data.longest_share={data.longest_share:g})")  # fmt: skip
    return corpus


def update_totals(
    run: Run, objective: MaskedPrediction, loaded: list[Loaded[MaskedBatch]], batches: list[MaskedBatch]
) -> tuple[Totals, Counts]:
    """What this update's loss is divided by, on the device, and its numbers for the log, over all micro-batches and
    ranks. One process alone never waits for its device here."""
    frames, ranks = objective.encoder.frame_lengths, run.accelerator.num_processes
    own = [sum(float(part.batch.counts.sum()) for part in loaded),
           sum(float((frames(part.batch.lengths) * (part.batch.counts > 0)).sum()) for part in loaded),
           sum(part.seconds for part in loaded)]  # fmt: skip
    for part in loaded:
        run.note_skipped(part.skipped, bound=True)
    device = run.accelerator.device
    counts = torch.tensor(own, pin_memory=device.type == "cuda").to(device, non_blocking=True)
    probs = None
    if len(batches) > 1 or ranks > 1:
        probs = torch.stack([objective.code_probability_sum(batch) for batch in batches]).sum(0)  # (G, V)
        total = run.accelerator.reduce(torch.cat([counts, probs.flatten()]), "sum")
        counts, own = total[:3], total[:3].tolist() if ranks > 1 else own
        probs = total[3:].view_as(probs) / counts[0].clamp(min=1)
    return Totals(counts[0].clamp(min=1), counts[1].clamp(min=1), probs), Counts(*own)
