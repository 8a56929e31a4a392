"""What a pretraining run says of itself: a line on the screen, a row of numbers, and what they are a sign of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor

from mixvec.data.batches import Loaded, UpdateSource
from mixvec.training.checkpoint import RunState
from mixvec.training.optim import median_norm
from mixvec.training.report import count_loud, energy_row, energy_words, memory_mb, tell
from mixvec.training.run import Run

from .diagnose import diagnose
from .objectives.contrastive import MaskedBatch, Sums
from .objectives.loss import perplexity
from .probe import Probe, probe_row


class Counts(NamedTuple):
    """What an update held, over all micro-batches and ranks."""

    masked: float
    frames: float
    seconds: float


@dataclass
class Window:
    """Sums over the updates since the last log line, kept on the device. What was left out counts for nothing."""

    started_s: float = 0.0
    waited_s: float = 0.0
    """What the loader had waited when the window began."""
    sums: Tensor | None = None
    pending: Tensor | None = None
    """The sums of the update under way."""
    sample: Tensor | None = None
    """(N, D) frames of the last micro-batch; ``sampled`` (N,) is 1 where they are real."""
    sampled: Tensor | None = None
    norms: list[float] = field(default_factory=list)
    seconds: float = 0.0
    own_s: float = 0.0
    padded_s: float = 0.0
    masked: float = 0.0
    frames: float = 0.0
    left_out: int = 0

    def add(self, sums: Sums) -> None:
        """A micro-batch is through."""
        numbers = (sums.contrastive, sums.correct, sums.feature_square, sums.feature_norm)
        scalars = torch.stack([number.float() for number in numbers])
        flat = torch.cat([scalars, sums.code_counts.flatten(), sums.code_probs.flatten()])
        self.pending = flat if self.pending is None else self.pending + flat
        self.sample, self.sampled = sums.sample, sums.sampled

    def count(self, counts: Counts, loaded: Sequence[Loaded[Any]], norm: float) -> None:
        """An update is complete: what it held, this rank's part of it, and its gradient's norm.

        Where ``norm`` is NaN it was left out.
        """
        assert self.pending is not None
        finite = not math.isnan(norm)
        if self.sums is None:
            self.sums = torch.zeros_like(self.pending)
        if finite:
            self.sums = self.sums + self.pending
            self.masked += max(counts.masked, 1.0)
            self.frames += max(counts.frames, 1.0)
            self.norms.append(norm)
        self.left_out += not finite
        self.pending = None
        self.seconds += counts.seconds
        self.own_s += sum(part.seconds for part in loaded)
        self.padded_s += sum(part.padded_s for part in loaded)

    def row(self, run: Run, waited_s: float) -> dict[str, Any]:
        """The metrics of the window over all ranks, but the last update's own. Every rank calls this."""
        accelerator, config = run.accelerator, run.config
        assert self.sums is not None and self.sample is not None and self.sampled is not None
        total = accelerator.reduce(self.sums, "sum").double().cpu()
        counts, probs = total[4:].view(2, config.objective.codebooks, config.objective.entries)
        took_s = max(run.elapsed_s - self.started_s, 1e-9)
        own = [(waited_s - self.waited_s) / took_s, memory_mb(accelerator.device), self.own_s, self.padded_s]
        ranks = accelerator.gather(torch.tensor(own, device=accelerator.device)).view(-1, len(own)).cpu()
        share, memory, real_s, padded_s = ranks.unbind(1)
        return {
            "contrastive_loss": float(total[0]) / self.masked if self.masked else math.nan,
            "chance_loss": math.log(config.objective.distractors + 1),
            "accuracy": float(total[1]) / max(self.masked, 1),
            "code_perplexity": float(perplexity(counts / counts.sum(-1, keepdim=True).clamp(min=1))),
            "probability_perplexity": float(perplexity(probs / probs.sum(-1, keepdim=True).clamp(min=1e-9))),
            "max_perplexity": counts.numel(),
            "feature_square": float(total[2]) / max(self.frames, 1),
            "feature_norm": float(total[3]) / max(self.frames, 1),
            "effective_rank": effective_rank(accelerator, self.sample, self.sampled),
            "width": self.sample.shape[1],
            "masked_fraction": self.masked / max(self.frames, 1),
            "nonfinite_updates": self.left_out,
            "wait_share": float(share.max()),
            "padding_waste": float(padded_s.sum() / real_s.sum().clamp(min=1e-9)) - 1.0,
            "memory_mb": float(memory.max()),
            "audio_s_per_s": self.seconds / took_s,
        }


def effective_rank(accelerator: Accelerator, sample: Tensor, real: Tensor) -> float:
    """exp of the entropy of the covariance's normalised eigenvalues: how many dimensions the frames vary in.

    Between 1 (all on a line, or in a point) and D (alike in all directions), over all ranks' samples (N, D), counting
    the rows where ``real`` (N,) is 1. Every rank calls this.
    """
    rows = sample.double() * real.double().unsqueeze(1)  # (N, D)
    width = rows.shape[1]
    flat = torch.cat([real.double().sum().view(1), rows.sum(0), (rows.T @ rows).flatten()])
    flat = accelerator.reduce(flat, "sum").cpu()
    count, mean = flat[0].clamp(min=1), flat[1 : 1 + width] / flat[0].clamp(min=1)
    covariance = flat[1 + width :].view(width, width) / count - torch.outer(mean, mean)
    if not covariance.isfinite().all():
        return math.nan
    values = torch.linalg.eigvalsh(covariance).clamp(min=0)
    shares = values / values.sum().clamp(min=1e-12)
    return float(torch.exp(-torch.special.xlogy(shares, shares).sum()))


def report(
    run: Run,
    state: RunState,
    window: Window,
    updates: UpdateSource[MaskedBatch],
    temperature: float,
    lr: float,
    probe: Probe | None,
) -> int | None:
    """Log the window, the probe where it is due, and what ails the run; the exit code to end with where
    ``run.stop_on`` names it.

    Every rank calls this; the main rank's diagnosis holds for all.
    """
    config = run.config
    left = config.run.updates - state.update
    row = {"update": state.update, **window.row(run, updates.waited_s),
           "temperature": temperature, "gradient_norm": window.norms[-1] if window.norms else math.nan,
           "gradient_norm_median": median_norm(state), "gradient_loud_windows": count_loud(state, window.norms),
           "lr": lr, "hours_seen": state.seconds_seen / 3600,
           "seconds_left": run.elapsed_s / state.update * left}  # fmt: skip
    if config.run.max_hours is not None:
        row["session_seconds_left"] = config.run.max_hours * 3600 - run.session_s
    row |= energy_row(run, state) | probe_row(run, probe, state.update)
    return tell(run, row, status_line(row, config.run.updates), diagnose(row, config))


def status_line(row: dict[str, Any], updates: int) -> str:
    """One line for the screen."""
    left_s = row["seconds_left"]
    left = (
        f"{left_s / 3600:.1f} h" if left_s >= 3600 else f"{left_s / 60:.0f} min" if left_s >= 60 else f"{left_s:.0f} s"
    )
    probed = ""
    if "probe_accuracy" in row:
        probed = f"  probe {row['probe_accuracy']:.3f} (layer {row['probe_layer']}, log-mel {row['probe_log_mel']:.3f})"
    return (
        f"update {row['update']}/{updates}  loss {row['contrastive_loss']:.3f} (chance {row['chance_loss']:.2f})  "
        f"accuracy {row['accuracy']:.3f}  codes {row['code_perplexity']:.0f}/{row['max_perplexity']}  "
        f"rank {row['effective_rank']:.0f}/{row['width']}  temperature {row['temperature']:.2f}  "
        f"gradient {row['gradient_norm']:.2f}  waiting {row['wait_share']:.0%}  {row['audio_s_per_s']:.0f} s/s  "
        f"{row['hours_seen']:.2f} h seen  {energy_words(row)}{left} left{probed}"
    )
