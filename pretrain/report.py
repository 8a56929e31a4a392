"""What a pretraining run reports: a status line, a row of numbers, and named warnings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from mixvec.data.batches import Loaded
from mixvec.training import report as shared
from mixvec.training.checkpoint import RunState
from mixvec.training.run import Run

from .config import PretrainConfig
from .objectives import Objective
from .objectives.base import Step
from .probe import Probe, probe_row

MIN_BATCH_S = 600.0
SMALL_SIZES = ("tiny", "small")


@dataclass
class Window(shared.Window):
    """Sums over the updates since the last log line, kept on the device. Updates that were left out count only here."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    last: Step | None = None
    own_s: float = 0.0
    padded_s: float = 0.0

    def add(self, last: Step, sums: list[dict[str, Tensor]], loaded: Sequence[Loaded[Any]], norm: float) -> None:
        """Add the sums of an update's micro-batches, which count as zero with a gradient that is not finite."""
        for own in sums:
            for name, value in own.items():
                counted = value if math.isfinite(norm) else torch.zeros_like(value)
                self.sums[name] = self.sums[name] + counted if name in self.sums else counted
        self.last = last
        self.norms.append(norm)
        self.own_s += sum(part.seconds for part in loaded)
        self.padded_s += sum(part.padded_s for part in loaded)


def report(
    run: Run, objective: Objective, state: RunState, window: Window, waited_s: float, lr: float, probe: Probe | None
) -> int | None:
    """Log the window, the probe where it is due, and warnings; the exit code to end with, or None.

    Every rank calls this; the main rank's diagnosis counts for all.
    """
    assert window.last is not None
    accelerator, updates = run.accelerator, run.config.run.updates
    took_s = max(run.elapsed_s - window.started_s, 1e-9)
    audio_s = torch.tensor([window.own_s, window.padded_s], dtype=torch.float64, device=accelerator.device)
    flat = torch.cat([audio_s, *(value.double().flatten() for value in window.sums.values())])
    (real_s, padded_s), flat = accelerator.reduce(flat, "sum").cpu().split([2, len(flat) - 2])
    parts = flat.split([value.numel() for value in window.sums.values()])
    sums = {n: part.view(v.shape) for (n, v), part in zip(window.sums.items(), parts, strict=True)}
    row = shared.common_row(run, state, window, waited_s) | objective.metrics(sums, state.update / updates)
    row |= {
        "effective_rank": effective_rank(accelerator, window.last.sample, window.last.sampled),
        "width": window.last.sample.shape[1],
        "padding_waste": float(padded_s / real_s.clamp(min=1e-9)) - 1.0,
        "audio_s_per_s": float(real_s) / took_s,
        "lr": lr,
        **probe_row(run, probe, state.update),
    }
    probed = ""
    if "probe_accuracy" in row:
        probed = f"  probe {row['probe_accuracy']:.3f} (layer {row['probe_layer']}, log-mel {row['probe_log_mel']:.3f})"
    line = (
        f"update {state.update}/{updates}  {objective.status(row)}  "
        f"effective rank {row['effective_rank']:.0f}/{row['width']}  gradient {row['gradient_norm']:.2f}  "
        f"waiting {row['wait_share']:.0%}  {row['audio_s_per_s']:.0f} s/s  {row['hours_seen']:.2f} h seen  "
        f"{shared.time_left(row)}{probed}"
    )
    found = diagnose(row, run.config, objective)
    run.log.warn(row, line, found)
    return run.stop_for(found)


def effective_rank(accelerator: Accelerator, sample: Tensor, real: Tensor) -> float:
    """exp of the entropy of the covariance's normalised eigenvalues: how many dimensions the frames vary in.

    Between 1 (all on a line, or in a point) and D (alike in all directions), over all ranks' samples (N, D), counting
    the rows where ``real`` (N,) is true. Every rank calls this.
    """
    rows = torch.nn.functional.pad(sample.double(), (0, 1), value=1.0) * real.unsqueeze(1)  # (N, D + 1)
    moments = accelerator.reduce(rows.T @ rows, "sum").cpu()  # of the column of ones: the sums, and the count
    moments = moments / moments[-1, -1].clamp(min=1)
    covariance = moments[:-1, :-1] - torch.outer(moments[-1, :-1], moments[-1, :-1])
    if not covariance.isfinite().all():
        return math.nan
    values = torch.linalg.eigvalsh(covariance).clamp(min=0)
    return float(torch.special.entr(values / values.sum().clamp(min=1e-12)).sum().exp())


def diagnose(row: dict[str, Any], config: PretrainConfig, objective: Objective) -> dict[str, str]:
    """Warnings by name (``config.DIAGNOSES``) for a row of ``report``; empty for a healthy one."""
    warmup = config.optim.warmup_fraction * config.run.updates
    well_past = row["update"] > max(warmup, 0.2 * config.run.updates, 99)
    return shared.warnings_of({
        **objective.diagnose(row, past_warmup=well_past),
        **shared.shared_warnings(row, config),
        "dimensional-collapse": _dimensions(row, past_warmup=row["update"] > warmup),
        "small-batch": _batch(config),
    })  # fmt: skip


def _dimensions(row: dict[str, Any], *, past_warmup: bool) -> str | None:
    """Healthy runs of widths 128 and 256 had 5 in the warm-up and 14 to 25 later, whatever the width."""
    rank, width = row.get("effective_rank", math.inf), row.get("width", 0)
    if not rank < (max(1.5, 0.01 * width) if past_warmup else 1.5):
        return None
    return (
        f"the encoder's frames vary in about {rank:.1f} of {width} dimensions: they become alike. Likely causes: "
        "optim.lr too high, optim.weight_decay too high, objective.diversity_weight too low, audio without variety."
    )


def _batch(config: PretrainConfig) -> str | None:
    if config.size in SMALL_SIZES or config.batch.update_s >= MIN_BATCH_S:
        return None
    return (
        f"batch.update_s={config.batch.update_s:g} is under ten minutes of audio, and size={config.size} has learnt "
        "well with 1.5 h and more. Raise batch.update_s: it costs time, not memory (batch.max_s bounds that), or "
        "use size=small."
    )
