"""Fine-tune a pretrained encoder, or train one from scratch, on labelled speech.

    python -m finetune configs/asr.yaml pretrained=runs/small data.train=DIR data.valid=DIR run.dir=runs/asr
    python -m finetune configs/intent.yaml size=small data.train=DIR run.dir=runs/scratch

The same command resumes a run that stopped. The best model is in ``run.dir``/hub, its scores in results.json.
"""

from __future__ import annotations

import torch
from accelerate.utils import send_to_device

from mixvec.training.compiling import choose_kernels, measure_normalisation
from mixvec.training.device import memory_named, start_accelerator
from mixvec.training.optim import adamw, learning_rate, seed_update, set_learning_rate, step
from mixvec.training.run import Run

from .config import FinetuneConfig
from .evaluate import Job, finish, keep_best
from .frozen import encode
from .health import Window, report
from .setup import build_model, count_targets, describe, find_corpora, open_data, parameter_groups, sum_gradients
from .tasks import task_class


def train(config: FinetuneConfig) -> int:
    """Run or resume a fine-tuning; the exit codes are listed in ``mixvec/training/run.py``.

    Raises:
        UserError: the model, data, directory or device that the configuration names cannot be used.
    """
    accelerator = start_accelerator(config.run)
    run = Run(config, accelerator)
    corpora = find_corpora(config)
    task = task_class(config.task)(config, corpora["train"])
    model, notes = build_model(config, task)
    model = model.to(accelerator.device)
    data = {split: open_data(config, run, task, model.encoder, corpus, split) for split, corpus in corpora.items()}
    job = Job(run, task, model, data)
    run.log.print("\n".join([*describe(config, task, model, corpora), *notes]))
    choose_kernels(run, model.encoder)
    optim = config.optim
    groups = parameter_groups(optim, model, config.head.layers_lr)
    optimizer = accelerator.prepare(adamw(groups, optim, accelerator.device))
    unchanged = {f"data.{split}": own.fingerprint() for split, own in data.items() if split != "test"}
    state = run.resume(model, optimizer, unchanged | {"task": task.fingerprint()})
    measure_normalisation(run, model.encoder, data["train"].sample)
    window = Window(run.elapsed_s)
    todo = range(state.update + 1, config.run.updates + 1)
    for update, (place, loaded) in zip(todo, data["train"].start(state.place), strict=False):
        progress = update / config.run.updates
        set_learning_rate(optimizer, learning_rate(progress, optim))
        frozen = config.is_frozen(progress)
        model.train()
        model.encoder.train(not frozen)
        targets = count_targets(run, loaded)
        window.losses.append(torch.zeros((), device=accelerator.device))
        with memory_named(update, loaded, config.batch.max_s):
            for part in loaded:
                batch = send_to_device(part.batch, accelerator.device, non_blocking=True)
                seed_update(model, config.run.seed, update, batch.keys)
                with accelerator.autocast():
                    loss = task.loss_sum(model, encode(config, model, batch, frozen), batch) / targets
                accelerator.backward(loss)
                window.losses[-1] += loss.detach()
            sum_gradients(run, model)
            window.norms.append(step(run, model, optimizer, state, window.losses[-1], loaded))
        state.update, state.place = update, place
        stop = run.should_stop(state, sum(part.seconds for part in loaded))
        if update % config.run.log_every == 0 or update == config.run.updates or stop:
            stop = report(run, state, window, data["train"].waited_s, frozen) or stop
            window = Window(run.elapsed_s, data["train"].waited_s)
        if "valid" in data and (update % config.run.eval_every == 0 or update == config.run.updates):
            stop = keep_best(job, state) or stop
        if update % config.run.save_every == 0 or update == config.run.updates or stop:
            run.save(state, model, optimizer)
        if stop:
            break
    if state.update == config.run.updates:
        finish(job, state)
    return run.end(state)
