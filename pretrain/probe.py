"""Quality beside the loss: now and then the encoder is held still and scored on a small labelled set, ``probe.data``.

An utterance becomes the mean and the standard deviation of its frames, layer by layer. A linear classifier, ridge
regression to the labels' indicators, is fitted to all utterances but one and asked for that one; so for each of them,
in closed form: nothing is trained and nothing drawn. The same is done on log-mel frames and with the encoder before its
first update, which an encoder that has learnt something must beat. Two accuracies p differ by chance by about
sqrt(p(1 - p) / utterances), 2 to 3 points at 400, and the best of many layers is a little flattered.

Labels are needed. A linear CTC, for text, has no closed form. A nearest-centroid classifier is blind: on 40 spoken
keywords it gave ``small`` 57 % after 26 hours of audio and 53 % before any, where this gave 79 % and 58 %.

Symbols: N utterances, L layers, B batch, S samples, T frames, D model width, P pooled numbers, 2D.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mixvec import UserError, build_encoder
from mixvec.data.batches import Clip, LoaderConfig, Updates, pad
from mixvec.data.sources import Corpus, find_utterances
from mixvec.data.utterances import Utterances
from mixvec.model.config import LOG_MEL
from mixvec.model.frontend import SAMPLE_RATE_HZ
from mixvec.model.padding import padding_mask, zero_padding
from mixvec.training.run import Run

from .config import ProbeConfig

PER_LABEL = 4
"""Where so many utterances of each label are more than may be taken, the commonest labels are."""
RIDGE = 0.1
"""The classifier's penalty, times the number of inputs, each of which has unit variance."""


@dataclass(frozen=True)
class Probe:
    """What the main rank of a run holds to score its encoder."""

    encoder: Any
    batches: list[tuple[Tensor, Tensor]]
    """Waveforms (B, S) and lengths (B,), decoded once."""
    labels: Tensor
    """(N,) in the order of the batches."""
    to_beat: dict[str, float]
    """Accuracies by guessing the commonest label, on log-mel, and of the untrained encoder's best layer."""


def open_probe(run: Run, encoder: Any) -> Probe | None:
    """Decode the probe's audio and score what is to be beaten; None without ``probe.data``. Every rank calls this.

    The main rank alone gets the probe; the others wait for it wherever they next meet.

    Args:
        encoder: as it is before training, on its device, not wrapped.

    Raises:
        UserError: ``probe.data`` holds no two labels with two utterances each.
    """
    opened: list[Probe] = []
    if run.config.probe.data is not None:
        run.on_main(lambda: opened.append(_open(run, encoder)))
    return opened[0] if opened else None


def probe_row(run: Run, probe: Probe | None, update: int) -> dict[str, Any]:
    """The probe's numbers for a log line: none where it is not due, or where the run is about to stop early."""
    config = run.config
    due = update % config.probe.every < config.run.log_every or update == config.run.updates
    if probe is None or run.stop.code is not None or not due:
        return {}
    began = time.monotonic()
    layers = layer_accuracies(run, probe)
    best = max(range(len(layers)), key=layers.__getitem__)
    return {"probe_accuracy": layers[best], "probe_layer": best, "probe_last": layers[-1], "probe_layers": layers,
            **probe.to_beat, "probe_s": time.monotonic() - began}  # fmt: skip


def _open(run: Run, encoder: Any) -> Probe:
    config = run.config
    corpus = find_utterances(config.probe.data, "probe.data", labels=True, channel=config.data.channel)
    corpus.keep(lambda u: u.label is not None, "{u.source}: no label")
    shortest_s, longest_s = 2 * encoder.min_samples / SAMPLE_RATE_HZ, config.data.max_s
    corpus.keep_durations(shortest_s, longest_s)
    corpus.utterances = choose(corpus.utterances, config.probe)
    batches, names = _decode(corpus, shortest_s, longest_s, config.batch.max_s)
    run.skips.note(corpus.skipped)
    counts = Counter(names)
    if sum(count > 1 for count in counts.values()) < 2:
        why = f" ({len(corpus.skipped)} skipped: {corpus.reasons(1)})" if corpus.skipped else ""
        raise UserError(f"probe.data={config.probe.data}: two labels with two utterances each are the least; rows need "
                        f"a key such as intent{why}")  # fmt: skip
    numbers = {name: i for i, name in enumerate(sorted(counts))}
    labels = torch.tensor([numbers[name] for name in names])
    log_mel = build_encoder(LOG_MEL).to(run.accelerator.device)
    to_beat = {"probe_chance": max(counts.values()) / len(names),
               "probe_log_mel": layer_accuracies(run, Probe(log_mel, batches, labels, {}))[0]}  # fmt: skip
    untrained = max(layer_accuracies(run, Probe(encoder, batches, labels, to_beat)))
    run.log.print(
        f"probe: {len(names)} utterances of {len(counts)} labels, "
        f"{sum(int(n.sum()) for _, n in batches) / SAMPLE_RATE_HZ:.0f} s; accuracy by guessing "
        f"{to_beat['probe_chance']:.3f}, on log-mel {to_beat['probe_log_mel']:.3f}, untrained {untrained:.3f}"
    )
    return Probe(encoder, batches, labels, {**to_beat, "probe_untrained": untrained})


def choose(utterances: Utterances, probe: ProbeConfig) -> Utterances:
    """As many utterances as ``probe`` allows, evenly over the labels: a pure function of both."""
    order = np.random.default_rng(0).permutation(len(utterances)).tolist()
    counts = Counter(utterance.label for utterance in utterances)
    common = sorted((label for label in counts if counts[label] > 1), key=lambda label: (-counts[label], label))
    if not common:
        return utterances
    fits = min(probe.max_utterances, probe.max_s / float(utterances.durations_s.mean()))
    kept, seen = set(common[: max(2, int(fits) // PER_LABEL)]), Counter[str | None]()
    rounds = []
    for number in order:
        label = utterances[number].label
        if label in kept:
            rounds.append((seen[label], number))
            seen[label] += 1
    chosen = np.zeros(len(utterances), dtype=bool)
    left_s = probe.max_s
    for _, number in sorted(rounds, key=lambda item: item[0])[: probe.max_utterances]:
        left_s -= float(utterances.durations_s[number])
        if left_s < 0:
            break
        chosen[number] = True
    return utterances.where(chosen)


def layer_accuracies(run: Run, probe: Probe) -> list[float]:
    """The classifier's accuracy on the input embedding and on each layer. The encoder is left as it was found."""
    modes = [(module, module.training) for module in probe.encoder.modules()]
    probe.encoder.eval()
    pooled = []
    with torch.compiler.set_stance("force_eager"), torch.no_grad(), run.accelerator.autocast():
        for waveforms, lengths in probe.batches:  # in eval mode each would be a graph of its own
            device = run.accelerator.device
            _, frames, layers = probe.encoder(waveforms.to(device), lengths.to(device))
            pooled.append(pool(layers, frames).cpu())
    for module, training in modes:
        module.training = training
    return [left_out_accuracy(layer, probe.labels) for layer in torch.cat(pooled, dim=1)]


def pool(layers: list[Tensor], lengths: Tensor) -> Tensor:
    """Mean and standard deviation over each utterance's own frames: L tensors (B, T, D), lengths (B,) to (L, B, 2D)."""
    mask, count = padding_mask(lengths, layers[0].shape[1]), lengths.clamp(min=1).unsqueeze(1)
    pooled = []
    for layer in layers:
        mean = zero_padding(layer.float(), mask).sum(dim=1) / count  # (B, D)
        square = zero_padding((layer.float() - mean.unsqueeze(1)).square(), mask).sum(dim=1) / count
        pooled.append(torch.cat([mean, square.sqrt()], dim=1))
    return torch.stack(pooled)


def left_out_accuracy(inputs: Tensor, labels: Tensor) -> float:
    """How often ridge regression that has not seen an utterance tells its label; 0 where inputs are not finite.

    With X the standardised inputs and Y the labels' indicators, the fit with an intercept is SY,
    S = XXᵀ(XXᵀ + λI)⁻¹ + 1/N, and what it would say of row i without having seen it is Y_i - (Y - SY)_i / (1 - S_ii)
    (Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, section 7.10).

    Args:
        inputs: (N, P).
        labels: (N,).
    """
    x = inputs.double()
    if not x.isfinite().all():
        return 0.0
    x = (x - x.mean(dim=0)) / (x.std(dim=0, correction=0) + 1e-6)
    y = torch.nn.functional.one_hot(labels).double()  # (N, labels)
    gram = x @ x.T  # (N, N)
    smoother = torch.linalg.solve(gram + RIDGE * x.shape[1] * torch.eye(len(x)).double(), gram) + 1.0 / len(x)
    unseen = y - (y - smoother @ y) / (1.0 - smoother.diagonal()).unsqueeze(1)
    return float((unseen.argmax(dim=1) == labels).double().mean())


def _decode(
    corpus: Corpus, min_s: float, max_s: float, batch_max_s: float
) -> tuple[list[tuple[Tensor, Tensor]], list[str]]:
    """The corpus as padded batches and the labels of their rows; what cannot be decoded is noted and left out."""
    plan = Updates(corpus, _collate, LoaderConfig(batch_max_s, batch_max_s, max_s, min_s, workers=0, seed=0))
    batches: list[tuple[Tensor, Tensor]] = []
    labels: list[str] = []
    for loaded in plan.once():
        corpus.skipped += loaded.skipped
        waveforms, lengths, names = loaded.batch
        if names:
            batches.append((waveforms, lengths))
            labels += names
    return batches, labels


def _collate(clips: list[Clip]) -> tuple[Tensor, Tensor, list[str]]:
    waveforms, lengths = pad([clip.waveform for clip in clips] or [torch.zeros(1)])
    return waveforms, lengths, [str(clip.utterance.label) for clip in clips]
