"""``objective.kind=units``: predict the discrete units of hidden frames (HuBERT, arXiv 2106.07447).

The units are fixed before training (``targets.py``), so they mean something from the first update on: at the budgets
of one machine this learns where learned targets (``contrastive``) do not. At small budgets a loss on hidden frames
alone lets the encoder's dimensions collapse; a second term on the visible frames prevents that.

Symbols: B batch, T frames, D model width, G codebooks, V units of a codebook.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixvec.model.blocks import zero_gradient
from mixvec.training.config import check_at_least

from .base import Loss, MaskedClips, Objective, ObjectiveConfig, Prepared, Sample
from .targets import PROJECTED, WHITENED, Codebooks, OwnUnits, TargetFrames, collect, load_teacher

MAX_UNITS = 1 << 16


@dataclass(frozen=True)
class UnitsConfig(ObjectiveConfig):
    """Masked prediction of units."""

    kind: str = "units"
    targets: Literal["mfcc", "log-mel", "random-projection", "layer"] = "mfcc"
    """What units are made of: k-means on MFCCs or on whitened log-mel, random projections of log-mel (BEST-RQ), or
    k-means on a layer of ``teacher``."""
    units: tuple[int, ...] = (100,)
    """V of each codebook: [100] is one codebook, [100,500] are two."""
    teacher: str | None = None
    """For ``targets=layer``: a run directory, a hub folder or a hub name, HuBERT and WavLM included."""
    layer: int | None = None
    """The teacher's layer, counted from its input embedding, 0; null: two thirds up."""
    sample_s: float = 3600.0
    """Seconds of training audio, at most, on which units are fitted at the start of the run."""
    visible_weight: float = 1.0
    """Weight of the loss on visible frames at the start of the run."""
    visible_final: float | None = None
    """The same at the end of the run, with a linear change between the two; null: as at the start."""
    relabel: tuple[float, ...] = ()
    """Fractions of the run at which new units are fitted on a layer of the encoder itself."""
    relabel_units: int = 100
    """Number of new units."""
    relabel_layer: int | None = None
    """The encoder's layer from which new units are made; null: the middle one."""
    old_weight: float = 0.3
    """Weight of the first units' loss after a relabelling, where the new units' is 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        bounds = {"sample_s": 1, "visible_weight": 0, "relabel_units": 2, "old_weight": 0}
        check_at_least(self, bounds, "objective.")
        if not self.units or min(self.units) < 2 or sum(self.units) > MAX_UNITS:
            raise ValueError(
                f"objective.units={list(self.units)} must be numbers from 2 on, at most {MAX_UNITS} in all"
            )
        if self.visible_final is not None and not self.visible_final >= 0:
            raise ValueError(f"objective.visible_final={self.visible_final} must be at least 0, or null")
        if any(not 0.0 < at < 1.0 for at in self.relabel) or list(self.relabel) != sorted(set(self.relabel)):
            raise ValueError(f"objective.relabel={list(self.relabel)} must be rising fractions of the run in (0, 1)")
        if (self.targets == "layer") != (self.teacher is not None):
            raise ValueError("objective.targets=layer and objective.teacher need each other")


class Units(Objective):
    """The encoder, the units and a linear layer that predicts them; after a relabelling, ``own`` makes new ones."""

    config: UnitsConfig
    fits: Tensor
    relabelled: Tensor

    def __init__(self, encoder: Any, config: UnitsConfig) -> None:
        """
        Raises:
            UserError: the teacher does not exist or does not fit, or a layer does not exist.
        """
        super().__init__(encoder, config)
        teacher, layer, self._checksum = None, 0, ""
        if config.teacher is not None:
            teacher, layer, self._checksum = load_teacher(encoder, config.teacher, config.layer)
        self.frames = TargetFrames(encoder, config.targets, teacher, layer)
        projected = {"log-mel": WHITENED, "random-projection": PROJECTED}.get(config.targets)
        cosine = config.targets == "random-projection"
        self.codebooks = Codebooks(self.frames.width, config.units, projected, cosine=cosine)
        self.head = nn.Linear(encoder.dim, sum(config.units))
        self.own = OwnUnits(encoder, config.relabel_layer, config.relabel_units) if config.relabel else None
        self.register_buffer("fits", torch.zeros((), dtype=torch.int64))  # how many were due so far
        self.register_buffer("relabelled", torch.zeros((), dtype=torch.int64))  # 0 or 1
        self._known: tuple[int, bool] | None = None
        """``fits`` and ``relabelled`` on the host, so that no update waits for the device. It is None in an update that
        begins with a fit: new units count from the next one on."""

    def describe(self, hours: float) -> list[str]:
        return [f"{' + '.join(map(str, self.config.units))} units of {self.config.targets}"]

    def fingerprint(self) -> dict[str, Any]:
        """The teacher's checksum."""
        return {"objective.teacher": {"sha256": self._checksum}} if self._checksum else {}

    def due(self, progress: float) -> bool:
        """Whether units have to be fitted before the update that ends at ``progress``."""
        known = self._known or (int(self.fits), bool(self.relabelled))
        due = known[0] < 1 + sum(at <= progress for at in self.config.relabel)
        self._known = None if due else known  # since ``fit`` follows
        return due

    def fit(self, sample: Sample, seed: int, report: Callable[[str], None]) -> None:
        """Fit the units that are due; a UserError where the sample has too few frames."""
        config, number = self.config, int(self.fits)
        self.fits += 1
        if self.own is not None and number > 0:
            accepted, line = self.own.fit(self.encoder, sample(config.sample_s), seed + number)
            self.relabelled.fill_(bool(self.relabelled) or accepted)
            report(f"{line}; the old units keep weight {config.old_weight:g}" if accepted else line)
        elif config.targets == "random-projection":
            self.codebooks.randomise(seed)
            report("units: random projections of log-mel, nothing to fit")
        else:
            frames = collect(sample(config.sample_s), self.frames, self.encoder, config.units)
            perplexities = ", ".join(f"{p:.1f}" for p in self.codebooks.fit(frames, seed))
            counts = ", ".join(map(str, config.units))
            report(f"units: k-means on {len(frames)} frames of {config.targets}; perplexity {perplexities} of {counts}")

    def totals(self, batch: MaskedClips, features: Tensor, valid: Tensor) -> Tensor:
        """(2,): masked and visible frames."""
        return torch.stack([(batch.mask & valid).sum(), (valid & ~batch.mask).sum()]).float()

    def loss(self, prepared: Prepared, frames: Tensor, totals: Tensor, progress: float) -> Loss:
        """This micro-batch's share of the update's loss:

            Σ_masked CE / masked + w(progress) · Σ_visible CE / visible

        CE being the mean over codebooks of the cross-entropy of units; after a relabelling, that of the new units plus
        ``old_weight`` times that of the old.
        """
        batch = prepared.batch
        masked, visible = batch.mask & prepared.valid, prepared.valid & ~batch.mask
        share = masked / totals[0].clamp(min=1) + self.visible_weight(progress) * visible / totals[1].clamp(min=1)
        units = self.codebooks(self.frames(batch.waveforms, batch.lengths))
        loss, sums = _cross_entropy(self.head(frames), units, self.codebooks.units, share, masked, visible)
        if self.own is not None and self._known is not None and self._known[1]:
            units, old = self.own.codebooks(self.own.frames(batch.waveforms, batch.lengths)), loss
            loss, sums = _cross_entropy(self.own.head(frames), units, self.own.codebooks.units, share, masked, visible)
            loss = loss + self.config.old_weight * old
        elif self.own is not None:
            loss = loss + zero_gradient(self.own.head)
        return loss, sums

    def visible_weight(self, progress: float) -> float:
        """The weight of the visible frames' loss at a fraction of the run."""
        start, end = self.config.visible_weight, self.config.visible_final
        return start if end is None else start + (end - start) * progress

    def metrics(self, sums: dict[str, Tensor], progress: float) -> dict[str, float]:
        masked, visible = max(float(sums["masked"]), 1.0), max(float(sums["visible"]), 1.0)
        counts = sums["unit_counts"]  # (G, V), padded with zeros
        shares = counts / counts.sum(-1, keepdim=True).clamp(min=1)
        entropy = torch.special.entr(shares).sum(-1)  # (G,)
        books = len(counts)
        return {
            "masked_loss": float(sums["masked_loss"]) / masked,
            "visible_loss": float(sums["visible_loss"]) / visible,
            "unit_entropy": float(entropy.mean()),
            "masked_accuracy": float(sums["masked_correct"]) / masked / books,
            "visible_accuracy": float(sums["visible_correct"]) / visible / books,
            "majority_share": float(shares.amax(-1).mean()),
            "unit_perplexity": float(entropy.exp().mean()),
            "units": float((counts > 0).sum(-1).double().mean()),
            "masked_fraction": masked / (masked + visible),
            "visible_weight": self.visible_weight(progress),
        }

    def status(self, row: dict[str, Any]) -> str:
        return (
            f"loss {row['masked_loss']:.3f} (units' entropy {row['unit_entropy']:.2f})  masked accuracy "
            f"{row['masked_accuracy']:.3f} visible {row['visible_accuracy']:.3f} (commonest unit "
            f"{row['majority_share']:.3f})  units {row['unit_perplexity']:.0f}"
        )

    def diagnose(self, row: dict[str, Any], *, past_warmup: bool) -> dict[str, str | None]:
        collapsed = chance = None
        if row["unit_perplexity"] < max(2.0, 0.05 * row["units"]):
            collapsed = (
                f"the units' perplexity is {row['unit_perplexity']:.1f}: nearly all frames have the same unit. Likely "
                "causes: silent audio, objective.sample_s too small, objective.targets unsuited to the audio."
            )
        if past_warmup and row["masked_loss"] > 0.99 * row["unit_entropy"]:
            chance = (
                f"masked loss {row['masked_loss']:.3f} against {row['unit_entropy']:.3f}, the units' entropy, after "
                "warm-up. Likely causes: optim.lr too low or too high, too few run.updates, audio that is silent or "
                "not speech."
            )
        return {"collapsed-codebook": collapsed, "stuck-at-chance": chance}


def _cross_entropy(
    logits: Tensor, units: Tensor, counts: tuple[int, ...], share: Tensor, masked: Tensor, visible: Tensor
) -> Loss:
    """The cross-entropy of logits (B, T, ΣV) for units (B, T, G), mean over codebooks, weighted by ``share`` (B, T);
    and sums for the log."""
    losses, right = [], []  # each (B, T), of each codebook
    histogram = share.new_zeros(len(counts), max(counts))
    valid = (masked | visible).flatten().to(histogram)
    for book, own in enumerate(torch.split(logits.float(), list(counts), dim=-1)):
        labels = units[..., book]
        losses.append(F.cross_entropy(own.flatten(0, 1), labels.flatten(), reduction="none").view_as(share))
        right.append(own.detach().argmax(-1) == labels)
        histogram[book].scatter_add_(0, labels.flatten(), valid)
    loss, correct = torch.stack(losses).mean(0), torch.stack(right).sum(0)
    sums = {"unit_counts": histogram}
    for name, where in (("masked", masked), ("visible", visible)):
        sums |= {name: where.sum(), f"{name}_loss": (loss * where).sum(), f"{name}_correct": (correct * where).sum()}
    return (loss * share).sum(), sums
