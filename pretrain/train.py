"""Pretrain an encoder on unlabelled audio.

    python -m pretrain configs/small.yaml data.train=DIR run.dir=runs/small
    torchrun --nproc_per_node 8 -m pretrain configs/base.yaml data.train=DIR run.dir=runs/base

The same command resumes where the run stopped. The model is in ``run.dir``/hub.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from accelerate.utils import broadcast, send_to_device

from mixvec.build import build_encoder
from mixvec.data.batches import UpdateSource
from mixvec.training.compiling import choose_kernels, measure_normalisation, start_compiling
from mixvec.training.device import memory_named, start_accelerator
from mixvec.training.optim import adamw, learning_rate, seed_update, set_learning_rate, step
from mixvec.training.run import Run

from .config import PretrainConfig
from .data import open_data
from .objectives import Objective, build_objective
from .probe import open_probe
from .report import Window, report


def fit_targets(run: Run, objective: Objective, updates: UpdateSource[Any], progress: float) -> None:
    """Let the objective fit its targets where that is due: on the main rank, for all."""
    if not objective.due(progress):
        return
    run.on_main(lambda: objective.fit(updates.sample, run.config.run.seed, run.log.print))
    for tensor in objective.state_dict().values():
        broadcast(tensor)


def train(config: PretrainConfig) -> int:
    """Run, or resume, a pretraining; the exit codes are listed in ``mixvec.training.run``.

    Raises:
        UserError: data, directory or device are not as the configuration says.
    """
    accelerator = start_accelerator(config.run)
    run = Run(config, accelerator)
    objective = build_objective(config.objective, build_encoder(config.encoder))
    name, updates = open_data(config, run, objective)
    optimizer = adamw(objective.parameters(), config.optim, accelerator.device)
    model, optimizer = accelerator.prepare(objective, optimizer)
    choose_kernels(run, objective.encoder)
    start_compiling(run, objective.encoder)
    probe = open_probe(run, objective.encoder)
    state = run.resume(model, optimizer, {"data.train": updates.fingerprint()} | objective.fingerprint())
    measure_normalisation(run, objective.encoder, updates.sample)
    window = Window(run.elapsed_s)
    model.train()
    todo = range(state.update + 1, config.run.updates + 1)
    for update, (place, loaded) in zip(todo, updates.start(state.place), strict=False):
        progress = update / config.run.updates
        set_learning_rate(optimizer, learning_rate(progress, config.optim))
        fit_targets(run, objective, updates, progress)
        with memory_named(update, loaded, config.batch.max_s):
            batches = send_to_device([part.batch for part in loaded], accelerator.device, non_blocking=True)
            with accelerator.autocast():
                prepared = [objective.prepare(batch, recompute=len(batches) > 1) for batch in batches]
            totals = accelerator.reduce(torch.stack([ready.totals for ready in prepared]).sum(0), "sum")
            losses, sums = [], []
            for number, ready in enumerate(prepared, start=1):
                seed_update(objective.encoder, config.run.seed, update, ready.batch.keys)
                with nullcontext() if number == len(prepared) else accelerator.no_sync(model):
                    done = model(ready, totals, progress)
                    accelerator.backward(done.loss * accelerator.num_processes)  # DDP takes the mean over ranks
                losses.append(done.loss.detach())
                sums.append(done.sums)
            norm = step(run, model, optimizer, state, torch.stack(losses).sum(), loaded)
            window.add(done, sums, loaded, norm)
        state.update, state.place = update, place
        for part in loaded:
            run.skips.note(part.skipped, counted=True)
        stop = run.should_stop(state, sum(part.seconds for part in loaded))
        if update % config.run.log_every == 0 or update == config.run.updates or stop:
            lr = optimizer.param_groups[0]["lr"]
            stop = report(run, objective, state, window, updates.waited_s, lr, probe) or stop
            window = Window(run.elapsed_s, updates.waited_s)
        if update % config.run.save_every == 0 or update == config.run.updates or stop:
            run.save_model(objective.encoder, run.facts(state, name))
            run.save(state, model, optimizer)  # last: what is killed between the two does both again
        if stop:
            break
    return run.end(state)
