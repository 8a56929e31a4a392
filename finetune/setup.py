"""The corpora, model and data of a fine-tuning run before its loop starts, and the small steps inside the loop."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mixvec import Encoder, EncoderConfig, UserError, build_encoder
from mixvec.data.augment import Augmentation
from mixvec.data.batches import Loaded, LoaderConfig, Updates
from mixvec.data.segments import join_neighbours
from mixvec.data.sources import Corpus, find_utterances
from mixvec.data.utterances import Utterance
from mixvec.hub import load_encoder
from mixvec.model.frontend import SAMPLE_RATE_HZ
from mixvec.training.run import Run
from mixvec.transformers_encoder import TransformersEncoder

from .batch import LabelledBatch, collate_labelled
from .config import FinetuneConfig
from .frozen import check_cache
from .sections import FinetuneOptim
from .tasks import LabelledTask as Task

LOG_MEL = EncoderConfig(kind="log-mel", dim=80, heads=1, num_layers=0, dropout=0.0, layer_drop=0.0)


def find_corpora(config: FinetuneConfig) -> dict[str, Corpus]:
    """The labelled corpora by split: ``train``, and ``valid`` and ``test`` where they are given."""
    data, found = config.data, dict[str, Corpus]()
    for split in ("train", "valid", "test"):
        if split != "train" and getattr(data, split) is None:
            continue
        source = f"data.{split}={getattr(data, split)}"
        corpus = find_utterances(getattr(data, split), f"data.{split}", labels=True, channel=data.channel)
        corpus.check_skipped(data.max_skipped, source)
        if split != "test":
            corpus.keep_durations(data.min_s, data.max_s)
        if split == "train" and data.join_s:
            join_neighbours(corpus, data.join_s)
        if split == "train" and data.minutes is not None:
            corpus.utterances = corpus.utterances.drawn(60 * data.minutes, config.run.seed)
            if not corpus.utterances:
                raise UserError(f"data.minutes={data.minutes:g}: no utterance of {source} is as short")
        if not corpus.utterances:
            raise UserError(f"{source}: no utterance between data.min_s and data.max_s in it")
        found[split] = corpus
    return found


def build_model(config: FinetuneConfig, task: Task, opened: Encoder | None = None) -> Any:
    """The encoder with the task's head: pretrained weights where ``pretrained`` names them, else drawn from the seed.

    With ``baseline`` the encoder is log-mel features, or one of the same shape with random weights.

    Args:
        opened: the encoder of ``pretrained`` where it has been loaded already.

    Raises:
        UserError: neither ``pretrained`` nor ``size`` is given, or there is no such model.
    """
    if config.baseline == "log-mel":
        return task.build(build_encoder(LOG_MEL))
    if config.pretrained is None:
        if config.size is None:
            raise UserError("set pretrained=RUN, or size=tiny (small, base, …) to start from scratch")
        return task.build(
            build_encoder(replace(config.encoder, streaming=config.streaming or config.encoder.streaming))
        )
    source: Any = opened or load_encoder(config.pretrained)
    if isinstance(source, TransformersEncoder):
        if config.baseline is not None or config.dropout is not None or config.streaming:
            raise UserError(f"{config.pretrained}: its encoder is transformers'; streaming is for mixvec's own, "
                            "dropout and baseline for those and for wav2vec 2.0")  # fmt: skip
        return task.build(source)
    shape = source.config if config.dropout is None else replace(source.config, dropout=config.dropout)
    if config.streaming:
        try:
            shape = replace(shape, streaming=True)
        except ValueError as error:
            raise UserError(f"{config.pretrained}: {error}") from None
    model = task.build(build_encoder(shape))
    if config.baseline is None:
        constants = {name: value for name, value in model.encoder.named_buffers() if name.startswith("front_end.")}
        model.encoder.load_state_dict(constants | source.state_dict())
    return model


def open_data(
    config: FinetuneConfig, run: Run, task: Task, model: Any, corpus: Corpus, split: str
) -> Updates[LabelledBatch]:
    """Skip the utterances that cannot be used, with warnings, and plan this rank's batches of the others."""
    encoder, data, training = model.encoder, config.data, split == "train"
    slowest, fastest = (data.augment.slowest, data.augment.fastest) if training else (1.0, 1.0)

    def frames(utterance: Utterance) -> int:
        samples = round(utterance.duration_s / fastest * SAMPLE_RATE_HZ)
        return int(encoder.frame_lengths(max(encoder.min_samples, samples)))

    key = f"data.{split}" + (f" at data.augment.speed={fastest:g}" if fastest > 1 else "")
    for warning in [*corpus.channel_warnings(f"data.{split}"), *task.check(corpus, frames, key, training=training)]:
        run.log.print(warning)
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


def fingerprints(task: Task, data: dict[str, Updates[LabelledBatch]]) -> dict[str, Any]:
    """What must not change when a run resumes: its data, by split, and the labels or vocabulary of its task."""
    splits = {f"data.{split}": own.fingerprint() for split, own in data.items() if split != "test"}
    return splits | {"task": task.fingerprint()}


def describe(config: FinetuneConfig, model: Any, corpora: dict[str, Corpus]) -> str:
    """A line on task, model and data.

    Raises:
        UserError: ``cache.dir`` is set, and the run's frames cannot be cached.
    """
    check_cache(config)
    sizes = ", ".join(f"{split} {c.hours * 60:.1f} min in {len(c.utterances)}" for split, c in corpora.items())
    start = f"from {config.pretrained}" if config.pretrained else f"from scratch ({config.size})"
    start = start if config.baseline is None else f"{start}, baseline={config.baseline}"
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    return f"{config.task} {start}; {parameters:.1f} M parameters; {sizes}"


def parameter_groups(optim: FinetuneOptim, model: Any, layers_lr: float | None = None) -> list[dict[str, Any]]:
    """Parameter groups of encoder, head and weights over layers, each with its own learning rate.

    With ``layer_decay``, each layer of the encoder has its own too.
    """
    rate = 1.0 if optim.encoder_lr is None else optim.encoder_lr / optim.lr
    groups: dict[tuple[str, float], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        part, scale = "head", 1.0
        if name.startswith("encoder."):
            above = layers_above(name.removeprefix("encoder."), model.encoder.num_layers)
            part, scale = "encoder", rate * optim.layer_decay**above
        elif name == "choice.weights" and layers_lr is not None:
            part, scale = "layers", layers_lr / optim.lr
        groups.setdefault((part, scale), []).append(parameter)
    return [{"params": own, "scale": scale} for (_, scale), own in groups.items()]


def layers_above(name: str, num_layers: int) -> int:
    """The number of encoder layers above the parameter of that name: none above the last norm."""
    found = re.match(r"(?:model\.)?(?:encoder\.)?layers\.(\d+)\.", name)
    if found:
        return num_layers - 1 - int(found[1])
    return 0 if name.startswith(("norm.", "encoder.layer_norm.")) else num_layers


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
