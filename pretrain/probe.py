"""Quality beside the loss: now and then the encoder is frozen and scored on a small labelled set, ``probe.data``.

An utterance becomes the mean and the standard deviation of its frames, layer by layer. A linear classifier is fitted
to all utterances but one and asked for that one; so for each of them, in closed form: nothing is trained or drawn. The
same is done on log-mel frames and with the encoder before its first update. Two accuracies p differ by chance by
about sqrt(p(1 - p) / utterances), 2 to 3 points at 400, and the best of many layers is a little flattered.

Symbols: N utterances, L layers, S samples, D model width.
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
from mixvec.data.batches import read_clip
from mixvec.data.sources import find_utterances
from mixvec.data.utterances import Utterances
from mixvec.model.config import LOG_MEL
from mixvec.model.frontend import SAMPLE_RATE_HZ
from mixvec.training.run import Run

from .config import ProbeConfig

PER_LABEL = 4  # where so many utterances of each label are more than may be taken, the commonest labels are
RIDGE = 0.1  # the classifier's penalty, times the number of inputs, each of which has unit variance


@dataclass(frozen=True)
class Probe:
    """What the main rank of a run holds to score its encoder."""

    encoder: Any
    waveforms: list[Tensor]  # (S,) each, decoded once
    labels: Tensor  # (N,)
    to_beat: dict[str, float]  # accuracies by guessing the commonest label, on log-mel, and of the untrained encoder


def open_probe(run: Run, encoder: Any) -> Probe | None:
    """Decode the probe's audio and score what is to be beaten, on the main rank; None elsewhere, or without a probe.

    The encoder is the untrained one, on its device, not wrapped. Every rank calls this.

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
    shortest_s = 2 * encoder.min_samples / SAMPLE_RATE_HZ
    corpus.keep_durations(shortest_s, config.data.max_s)
    waveforms, names = [], list[str]()
    for utterance in choose(corpus.utterances, config.probe):
        try:
            clip = read_clip(utterance, np.random.default_rng(0), config.data.max_s, shortest_s)
        except UserError as error:
            corpus.skipped.append({"source": utterance.source, "reason": str(error)})
            continue
        waveforms.append(clip.waveform)
        names.append(str(utterance.label))
    run.skips.note(corpus.skipped)
    counts = Counter(names)
    if sum(count > 1 for count in counts.values()) < 2:
        why = f" ({len(corpus.skipped)} skipped: {corpus.reasons(1)})" if corpus.skipped else ""
        raise UserError(f"probe.data={config.probe.data}: two labels with two utterances each are the least; rows need "
                        f"a key such as intent{why}")  # fmt: skip
    labels = torch.from_numpy(np.unique(names, return_inverse=True)[1])
    mel = build_encoder(LOG_MEL).to(run.accelerator.device)
    untrained, log_mel = (layer_accuracies(run, Probe(own, waveforms, labels, {})) for own in (encoder, mel))
    to_beat = {"probe_chance": max(counts.values()) / len(names), "probe_log_mel": log_mel[0],
               "probe_untrained": max(untrained)}  # fmt: skip
    seconds, (guessing, mel_score, best) = sum(map(len, waveforms)) / SAMPLE_RATE_HZ, to_beat.values()
    run.log.print(f"probe: {len(names)} utterances of {len(counts)} labels, {seconds:.0f} s; accuracy by guessing "
                  f"{guessing:.3f}, on log-mel {mel_score:.3f}, untrained {best:.3f}")  # fmt: skip
    return Probe(encoder, waveforms, labels, to_beat)


def choose(utterances: Utterances, probe: ProbeConfig) -> Utterances:
    """As many utterances as ``probe`` allows, evenly over the labels: a pure function of both."""
    labels, durations_s = [str(utterance.label) for utterance in utterances], utterances.durations_s
    fits = min(probe.max_utterances, probe.max_s * len(labels) / max(float(durations_s.sum()), 1e-9))
    common = [label for label, count in Counter(sorted(labels)).most_common() if count > 1]
    seen = dict.fromkeys(common[: max(2, int(fits) // PER_LABEL)], 0)
    rounds: list[tuple[int, int]] = []
    for number in np.random.default_rng(0).permutation(len(labels)).tolist():
        if labels[number] in seen:
            rounds.append((seen[labels[number]], number))
            seen[labels[number]] += 1
    ordered = np.array([number for _, number in sorted(rounds, key=lambda one: one[0])[: probe.max_utterances]], int)
    chosen = ordered[np.cumsum(durations_s[ordered]) <= probe.max_s]
    return utterances.where(np.isin(np.arange(len(labels)), chosen))


def layer_accuracies(run: Run, probe: Probe) -> list[float]:
    """The classifier's accuracy on the input embedding and on each layer. The encoder is left as it was found."""
    modes = [(module, module.training) for module in probe.encoder.modules()]
    probe.encoder.eval()
    pooled = []
    with torch.compiler.set_stance("force_eager"), torch.no_grad(), run.accelerator.autocast():
        for waveform in probe.waveforms:  # in eval mode each would be a graph of its own
            layers = torch.stack(probe.encoder(waveform.to(run.accelerator.device).unsqueeze(0)).layers).squeeze(1)
            deviation, mean = torch.std_mean(layers.float(), dim=1, correction=0)  # each (L, D)
            pooled.append(torch.cat([mean, deviation], dim=1).cpu())
    for module, training in modes:
        module.training = training
    return [left_out_accuracy(layer, probe.labels) for layer in torch.stack(pooled, dim=1)]


def left_out_accuracy(inputs: Tensor, labels: Tensor) -> float:
    """How often ridge regression on inputs (N, 2D) predicts the label (N,) of an utterance that it has not seen.

    With X the standardised inputs and Y the labels' indicators, the fit with an intercept is SY,
    S = XXᵀ(XXᵀ + λI)⁻¹ + 1/N, and without row i it would predict Y_i - (Y - SY)_i / (1 - S_ii) there
    (Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, section 7.10). 0 where X is not finite.
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
