"""What a pretraining run says of itself: a line, a row, and names for what goes wrong."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from .config import PretrainConfig
from .loss import perplexity
from .objective import Sums, Totals


@dataclass
class Window:
    """Sums over the updates since the last log line, kept on the device."""

    sums: Tensor | None = None
    seconds: float = 0.0
    masked: float = 0.0
    frames: float = 0.0
    started_s: float = 0.0

    def add(self, sums: Sums) -> None:
        parts = [
            sums.contrastive.view(1),
            sums.correct.view(1),
            sums.feature_square.view(1),
            sums.code_counts.flatten(),
        ]
        flat = torch.cat([part.float() for part in parts])
        self.sums = flat if self.sums is None else self.sums + flat

    def count(self, totals: Totals, seconds: float) -> None:
        """An update is complete: what it held, over all ranks."""
        self.masked += float(totals.masked)
        self.frames += float(totals.frames)
        self.seconds += seconds

    def row(self, accelerator: Accelerator, config: PretrainConfig, elapsed_s: float) -> dict[str, Any]:
        """The metrics of the window over all ranks. Every rank calls this."""
        assert self.sums is not None
        total = accelerator.reduce(self.sums, "sum").double().cpu()
        counts = total[3:].view(config.objective.codebooks, config.objective.entries)
        probs = counts / counts.sum(-1, keepdim=True).clamp(min=1)
        contrastive = float(total[0]) / max(self.masked, 1)
        return {
            "contrastive_loss": contrastive,
            "chance_loss": math.log(config.objective.distractors + 1),
            "accuracy": float(total[1]) / max(self.masked, 1),
            "code_perplexity": float(perplexity(probs)),
            "max_perplexity": counts.numel(),
            "feature_square": float(total[2]) / max(self.frames, 1),
            "masked_fraction": self.masked / max(self.frames, 1),
            "audio_s_per_s": self.seconds / max(elapsed_s - self.started_s, 1e-9),
        }


def status_line(row: dict[str, Any], updates: int) -> str:
    """One line for the screen."""
    left_s = row["seconds_left"]
    left = (
        f"{left_s / 3600:.1f} h" if left_s >= 3600 else f"{left_s / 60:.0f} min" if left_s >= 60 else f"{left_s:.0f} s"
    )
    return (
        f"update {row['update']}/{updates}  loss {row['contrastive_loss']:.3f} (chance {row['chance_loss']:.2f})  "
        f"accuracy {row['accuracy']:.3f}  codes {row['code_perplexity']:.0f}/{row['max_perplexity']}  "
        f"temperature {row['temperature']:.2f}  gradient {row['gradient_norm']:.2f}  "
        f"{row['audio_s_per_s']:.0f} s/s  {row['hours_seen']:.2f} h seen  {left} left"
    )


def diagnose(row: dict[str, Any], config: PretrainConfig) -> list[str]:
    """Named warnings with their likely causes; empty for a healthy row."""
    found = []
    in_use = row["code_perplexity"] / row["max_perplexity"]
    if in_use < 0.02 or (in_use < 0.1 and row["accuracy"] > 0.9):  # on the way down, accuracy is not near 1 yet
        found.append(
            f"WARNING collapsed codebook: {row['code_perplexity']:.1f} of {row['max_perplexity']} codes in use and "
            f"accuracy {row['accuracy']:.2f}: the targets become alike, and the loss says nothing. Likely causes: "
            "optim.lr too high, objective.diversity_weight too low, batch.update_s too small, silent or repeated audio."
        )
    past_warmup = row["update"] > max(config.optim.warmup_fraction, 0.2) * config.run.updates
    if past_warmup and row["contrastive_loss"] > 0.99 * row["chance_loss"]:
        found.append(
            f"WARNING stuck at chance: loss {row['contrastive_loss']:.3f} against ln(K+1) = {row['chance_loss']:.3f} "
            "after warm-up. Likely causes: optim.lr too low or too high, batch.update_s too small, "
            "too few run.updates, audio that is silent or not speech."
        )
    return found
