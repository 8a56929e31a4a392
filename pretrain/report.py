"""What a pretraining run reports: a status line, a row of numbers, and warnings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from mixvec.data.batches import Loaded
from mixvec.training.checkpoint import RunState
from mixvec.training.report import common_row, memory_mb, time_left
from mixvec.training.run import Run

from .diagnose import diagnose
from .objectives import Objective
from .objectives.base import Step
from .probe import Probe, probe_row


@dataclass
class Window:
    """Sums over the updates since the last log line, kept on the device. Updates that were left out count only here."""

    started_s: float = 0.0
    waited_s: float = 0.0
    """What the loader had waited when the window began."""
    sums: dict[str, Tensor] = field(default_factory=dict)
    pending: dict[str, Tensor] = field(default_factory=dict)
    """The sums of the current update."""
    last: Step | None = None
    norms: list[float] = field(default_factory=list)
    """Gradient norms of the updates, as ``optim.step`` returns them."""
    own_s: float = 0.0
    padded_s: float = 0.0

    def add(self, step: Step) -> None:
        """Add a micro-batch."""
        for name, value in step.sums.items():
            self.pending[name] = self.pending[name] + value if name in self.pending else value
        self.last = step

    def close_update(self, loaded: Sequence[Loaded[Any]], norm: float) -> None:
        """Count the update's sums, unless its gradient was not finite."""
        for name, value in self.pending.items():
            counted = value if math.isfinite(norm) else torch.zeros_like(value)
            self.sums[name] = self.sums[name] + counted if name in self.sums else counted
        self.pending = {}
        self.norms.append(norm)
        self.own_s += sum(part.seconds for part in loaded)
        self.padded_s += sum(part.padded_s for part in loaded)

    def row(self, run: Run, objective: Objective, progress: float, waited_s: float) -> dict[str, Any]:
        """The metrics of the window over all ranks. Every rank calls this."""
        accelerator = run.accelerator
        assert self.last is not None
        flat = accelerator.reduce(torch.cat([value.double().flatten() for value in self.sums.values()]), "sum").cpu()
        parts = flat.split([value.numel() for value in self.sums.values()])
        sums = {n: part.view(v.shape) for (n, v), part in zip(self.sums.items(), parts, strict=True)}
        took_s = max(run.elapsed_s - self.started_s, 1e-9)
        own = [(waited_s - self.waited_s) / took_s, memory_mb(accelerator.device), self.own_s, self.padded_s]
        ranks = accelerator.gather(torch.tensor(own, device=accelerator.device)).view(-1, len(own)).cpu()
        share, memory, real_s, padded_s = ranks.unbind(1)
        return objective.metrics(sums, progress) | {
            "effective_rank": effective_rank(accelerator, self.last.sample, self.last.sampled),
            "width": self.last.sample.shape[1],
            "wait_share": float(share.max()),
            "padding_waste": float(padded_s.sum() / real_s.sum().clamp(min=1e-9)) - 1.0,
            "memory_mb": float(memory.max()),
            "audio_s_per_s": float(real_s.sum()) / took_s,
        }


def effective_rank(accelerator: Accelerator, sample: Tensor, real: Tensor) -> float:
    """exp of the entropy of the covariance's normalised eigenvalues: how many dimensions the frames vary in.

    Between 1 (all on a line, or in a point) and D (alike in all directions), over all ranks' samples (N, D), counting
    the rows where ``real`` (N,) is true. Every rank calls this.
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
    run: Run, objective: Objective, state: RunState, window: Window, waited_s: float, lr: float, probe: Probe | None
) -> int | None:
    """Log the window, the probe where it is due, and warnings; the exit code to end with, or None.

    Every rank calls this; the main rank's diagnosis counts for all.
    """
    progress = state.update / run.config.run.updates
    row = common_row(run, state, window.norms) | window.row(run, objective, progress, waited_s) | {"lr": lr}
    row |= probe_row(run, probe, state.update)
    found = diagnose(row, run.config, objective)
    run.log.warn(row, status_line(row, objective, run.config.run.updates), found)
    return run.stop_for(found)


def status_line(row: dict[str, Any], objective: Objective, updates: int) -> str:
    """One line for the screen."""
    probed = ""
    if "probe_accuracy" in row:
        probed = f"  probe {row['probe_accuracy']:.3f} (layer {row['probe_layer']}, log-mel {row['probe_log_mel']:.3f})"
    return (
        f"update {row['update']}/{updates}  {objective.status(row)}  "
        f"effective rank {row['effective_rank']:.0f}/{row['width']}  gradient {row['gradient_norm']:.2f}  "
        f"waiting {row['wait_share']:.0%}  {row['audio_s_per_s']:.0f} s/s  {row['hours_seen']:.2f} h seen  "
        f"{time_left(row)}{probed}"
    )
