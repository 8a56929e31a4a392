"""The corpora, model and data of a fine-tuning run before its loop starts, and the small steps inside the loop."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mixvec import Encoder, UserError, build_encoder
from mixvec.data.augment import Augmentation
from mixvec.data.batches import Loaded, LoaderConfig, Updates
from mixvec.data.segments import join_neighbours
from mixvec.data.sources import Corpus, find_utterances
from mixvec.data.utterances import Utterance
from mixvec.hub import load_model
from mixvec.locate import resolve
from mixvec.model import TaskModel
from mixvec.model.config import LOG_MEL
from mixvec.model.frontend import SAMPLE_RATE_HZ
from mixvec.training.run import Run
from mixvec.transformers_encoder import TransformersEncoder

from .batch import LabelledBatch, collate_labelled
from .config import FinetuneConfig
from .sections import FinetuneOptim
from .tasks import LabelledTask as Task


def find_corpora(config: FinetuneConfig) -> dict[str, Corpus]:
    """The labelled corpora by split: ``train``, and ``valid`` and ``test`` where they are given."""
    data, found = config.data, dict[str, Corpus]()
    for split, given in (("train", data.train), ("valid", data.valid), ("test", data.test)):
        if split != "train" and given is None:
            continue
        source = f"data.{split}={given}"
        found[split] = corpus = find_utterances(given, f"data.{split}", labels=True, channel=data.channel)
        corpus.check_skipped(data.max_skipped, source)
        if split != "test":
            corpus.keep_durations(data.min_s, data.max_s)
        if not corpus.utterances:
            raise UserError(f"{source}: no utterance between data.min_s and data.max_s in it")
    if data.join_s:
        join_neighbours(found["train"], data.join_s)
    if data.minutes is not None:
        found["train"].utterances = found["train"].utterances.drawn(60 * data.minutes, config.run.seed)
        if not found["train"].utterances:
            raise UserError(f"data.minutes={data.minutes:g}: no utterance of data.train={data.train} is as short")
    return found


def build_model(config: FinetuneConfig, task: Task) -> tuple[Any, list[str]]:
    """The encoder with the task's head: pretrained weights where ``pretrained`` names them, else drawn from the seed.

    With ``baseline`` the encoder is log-mel features, or one of the same shape with random weights. Of a model that was
    fine-tuned before, the head is kept where ``task`` can take over its vocabulary or labels; a line reports it.

    Raises UserError where neither ``pretrained`` nor ``size`` is given, there is no such model, or no frames to cache.
    """
    name, baseline = config.pretrained, config.baseline
    if config.cache.dir is not None and not config.encodes_alone(training=True):
        raise UserError("cache.dir keeps the frames of a frozen encoder with nothing random before it: set freeze=1, "
                        "augment.time_prob=0 and augment.channel_prob=0, no data.augment, speaker.crop_s=null; or "
                        "unset cache.dir")  # fmt: skip
    if name is None and baseline != "log-mel":
        if config.size is None:
            raise UserError("set pretrained=RUN, or size=tiny (small, base, …) to start from scratch")
        shape = replace(config.encoder, streaming=config.streaming or config.encoder.streaming)
        return task.build(build_encoder(shape)), []
    if name is None or baseline == "log-mel":
        return task.build(build_encoder(LOG_MEL)), []
    opened = load_model(name)
    encoder: Any = opened.encoder if isinstance(opened, TaskModel) else opened
    before, lack = (opened, "") if isinstance(opened, TaskModel) else (None, "")
    if before is not None and baseline is None:
        kinds, own = sorted(kind.__name__ for kind in task.models), type(before).__name__
        other = f"a {own}, and task={config.task} trains a {' or '.join(kinds)}"
        lack = task.adopt(before, resolve(name)) if own in kinds else other
    if isinstance(encoder, TransformersEncoder):
        if baseline is not None or config.dropout is not None or config.streaming:
            raise UserError(f"{name}: its encoder is transformers'; streaming is for mixvec's own, dropout and "
                            "baseline for those and fairseq2's")  # fmt: skip
        model = task.build(encoder)
        return model, [] if before is None else [keep_head(model, before, lack, name)]
    try:
        shape = replace(encoder.config, streaming=config.streaming or encoder.config.streaming)
    except ValueError as error:
        raise UserError(f"{name}: {error}") from None
    shape = shape if config.dropout is None else replace(shape, dropout=config.dropout)
    if baseline is not None:
        return task.build(build_encoder(shape)), []
    model = task.build(build_encoder(shape))
    constants = {key: value for key, value in model.encoder.named_buffers() if key.startswith("front_end.")}
    model.encoder.load_state_dict(constants | encoder.state_dict())
    return model, [] if before is None else [keep_head(model, before, lack, name)]


def keep_head(model: TaskModel, before: TaskModel, lack: str, name: str) -> str:
    """Put the head of the model ``before`` on ``model``, unless it is lacking something; a line that reports it."""
    old, new = ({key: value for key, value in own.state_dict().items() if not key.startswith("encoder.")}
                for own in (before, model))  # fmt: skip
    shapes = [{key: value.shape for key, value in head.items()} for head in (old, new)]
    if not lack and (type(before) is not type(model) or shapes[0] != shapes[1]):
        lack = f"it has other settings, {before.settings()}"
    if lack:
        return f"the head is new, not that of {name}: {lack}"
    model.load_state_dict(old, strict=False)
    return f"the head of {name} is kept, with its {len(before.stored())} entries of {model.stored_as}"


def open_data(
    config: FinetuneConfig, run: Run, task: Task, encoder: Encoder, corpus: Corpus, split: str
) -> Updates[LabelledBatch]:
    """Skip the utterances that cannot be used, with warnings, and plan this rank's batches of the others."""
    data, training = config.data, split == "train"
    slowest, fastest = (data.augment.slowest, data.augment.fastest) if training else (1.0, 1.0)

    def frames(utterance: Utterance) -> int:
        samples = round(utterance.duration_s / fastest * SAMPLE_RATE_HZ)
        return int(encoder.frame_lengths(max(encoder.min_samples, samples)))

    key = f"data.{split}" + (f" at data.augment.speed={fastest:g}" if fastest > 1 else "")
    warnings = [f"WARNING {key}: {warning}" for warning in task.check(corpus, frames, key, training=training)]
    for line in [*corpus.channel_warnings(f"data.{split}"), *warnings]:
        run.log.print(line)
    if not corpus.utterances:
        raise UserError(f"data.{split}={getattr(data, split)}: no usable labels in it")
    run.skips.note(corpus.skipped + corpus.notes, fresh=training)
    if corpus.skipped:
        run.log.print(f"data.{split}: {len(corpus.skipped)} utterances skipped (reasons: {run.dir / 'skipped.jsonl'})")
    augment = Augmentation(data.augment, config.run.seed) if training else None
    run.skips.note(augment.skipped if augment else [])
    longest_s = float(corpus.utterances.durations_s.max()) / slowest
    crop_s = config.crop_s if training and config.crop_s is not None else longest_s + 1
    collate = partial(
        collate_labelled, target=task.target, augment=config.augment if training else None,
        frame_lengths=encoder.frame_lengths, min_samples=encoder.min_samples, feature_dim=encoder.feature_dim,
    )  # fmt: skip
    loader = LoaderConfig(
        config.batch.update_s, config.batch.max_s, crop_s, data.min_s, data.workers, config.run.seed,
        run.accelerator.num_processes, run.accelerator.process_index,
    )  # fmt: skip
    updates = Updates(corpus, collate, loader, augment=augment)
    if training:
        run.skips.most = data.max_skipped * updates.epoch_utterances
    return updates


def describe(config: FinetuneConfig, task: Task, model: Any, corpora: dict[str, Corpus]) -> list[str]:
    """A line on task, model and data; and on how the best checkpoint is chosen, where that may surprise."""
    sizes = ", ".join(f"{split} {c.hours * 60:.1f} min in {len(c.utterances)}" for split, c in corpora.items())
    start = f"from {config.pretrained}" if config.pretrained else f"from scratch ({config.size})"
    start += f", baseline={config.baseline}" if config.baseline else ""
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    lines = [f"{config.task} {start}; {parameters:.1f} M parameters; {sizes}"]
    if config.data.valid is None:
        lines.append("WARNING data.valid is not set: no checkpoint is chosen by its score, and the last model is kept")
    elif config.best_by == "wer" and task.score_name == "cer":
        lines.append("the training texts have no spaces: the character error rate decides which checkpoint is the best")
    return lines


def parameter_groups(optim: FinetuneOptim, model: Any, layers_lr: float | None = None) -> list[dict[str, Any]]:
    """Parameter groups of encoder, head and weights over layers, each with its own learning rate; with ``layer_decay``
    also each layer of the encoder, by the number of layers above: none above the last norm, all above what is below."""
    rate = 1.0 if optim.encoder_lr is None else optim.encoder_lr / optim.lr
    groups: dict[tuple[str, float], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        part, scale = "head", 1.0
        if name.startswith("encoder."):
            own, layers = name.removeprefix("encoder."), model.encoder.num_layers
            found = re.match(r"(?:model\.)?(?:encoder\.)?layers\.(\d+)\.", own)
            last = own.startswith(("norm.", "encoder.layer_norm."))
            above = layers - 1 - int(found[1]) if found else 0 if last else layers
            part, scale = "encoder", rate * optim.layer_decay**above
        elif name == "choice.weights" and layers_lr is not None:
            part, scale = "layers", layers_lr / optim.lr
        groups.setdefault((part, scale), []).append(parameter)
    return [{"params": own, "scale": scale} for (_, scale), own in groups.items()]


def count_targets(run: Run, loaded: list[Loaded[LabelledBatch]]) -> float:
    """The number of targets (tokens, or labels) in the update, which divides its loss, over all ranks."""
    for part in loaded:
        run.skips.note(part.skipped, counted=True)
    own = sum(int(part.batch.target_lengths.sum()) for part in loaded)
    return max(float(run.accelerator.reduce(torch.tensor(float(own), device=run.accelerator.device), "sum")), 1.0)


def sum_gradients(run: Run, model: nn.Module) -> None:
    """Add the gradients of all ranks in one all-reduce. The loss is divided by a total over ranks already.

    DDP needs a fixed set of trained parameters, while here an encoder may be frozen for a part of the run.
    """
    if run.accelerator.num_processes == 1:
        return
    parameters = [p for p in model.parameters() if p.requires_grad]
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
    total: Tensor = run.accelerator.reduce(flat, "sum")
    for parameter, gradient in zip(parameters, torch.split(total, [p.numel() for p in parameters]), strict=True):
        parameter.grad = gradient.view_as(parameter)
