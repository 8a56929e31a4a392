"""``objective.kind=contrastive``: tell each hidden frame's code from those of other hidden frames (arXiv 2006.11477).

Targets are the front end's features at the hidden frames, through a quantizer that is learned with them. They mean
something after some thousands of hours of audio; with less, ``objective.kind=units`` learns more.

Symbols: B batch, T frames, F feature channels, M masked frames (padded to the batch's most), K distractors,
D code width, G codebooks, V entries of each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixvec.model.padding import padding_mask
from mixvec.training.config import check_at_least

from .base import Loss, Objective, ObjectiveConfig, Prepared, masked_clips
from .quantizer import GumbelQuantizer, gumbel_temperature

if TYPE_CHECKING:
    from mixvec.data.batches import Clip


LEAST_HOURS = 500.0  # hours of audio in a run under which learned targets have not been seen to help


@dataclass(frozen=True)
class ContrastiveConfig(ObjectiveConfig):
    """Masked prediction among distractors (arXiv 2006.11477); the defaults are those of arXiv 2407.13377."""

    distractors: int = 100
    """Distractors for each masked frame, K."""
    logit_temperature: float = 0.1
    """Cosine similarities are divided by it."""
    codebooks: int = 2
    """Codebooks of the quantizer, G."""
    entries: int = 320
    """Entries of each codebook, V."""
    code_dim: int = 256
    """Width of a code, and of the projection that is compared with it."""
    diversity_weight: float = 0.1
    """Weight of the diversity term; small batches need more."""
    feature_penalty: float = 0.0
    """Weight of the features' mean square; wav2vec 2.0 BASE has 10, the SummaryMixing recipe none."""
    gumbel_start: float = 2.0
    """Gumbel temperature at the start of the run."""
    gumbel_end: float = 0.25
    """Gumbel temperature at the end."""
    gumbel_fraction: float = 0.7
    """The temperature falls geometrically from start to end over this fraction of the run, then stays."""

    def __post_init__(self) -> None:
        super().__post_init__()
        bounds = {"distractors": 1, "logit_temperature": 1e-6, "codebooks": 1, "entries": 2, "gumbel_start": 1e-6,
                  "gumbel_end": 1e-6, "gumbel_fraction": 0}  # fmt: skip
        check_at_least(self, bounds, "objective.")
        if self.code_dim % self.codebooks:
            raise ValueError(
                f"objective.code_dim={self.code_dim} must be a multiple of objective.codebooks={self.codebooks}"
            )


class ContrastiveBatch(NamedTuple):
    """``MaskedClips``, with what is drawn for hidden frames, on the CPU, so that no accelerator waits to count them."""

    waveforms: Tensor
    lengths: Tensor
    mask: Tensor
    keys: Tensor
    present: Tensor
    masked: Tensor  # (B, M) the numbers of the hidden frames, padded with 0
    counts: Tensor  # (B,) how many hidden frames there are
    distractors: Tensor  # (B, M, K) indices into ``masked``


class Contrastive(Objective):
    """The encoder with what only pretraining needs: a quantizer for the targets and a projection to their width."""

    config: ContrastiveConfig

    def __init__(self, encoder: Any, config: ContrastiveConfig) -> None:
        super().__init__(encoder, config)
        self.quantizer = GumbelQuantizer(encoder.feature_dim, config.codebooks, config.entries, config.code_dim)
        self.project = nn.Linear(encoder.dim, config.code_dim)

    def describe(self, hours: float) -> list[str]:
        line = f"chance is ln({self.config.distractors} + 1) = {math.log(self.config.distractors + 1):.2f}"
        if hours >= LEAST_HOURS:
            return [line]
        warning = (
            f"WARNING small-budget: objective.kind=contrastive learns its targets too, which takes some "
            f"{LEAST_HOURS:g} h of audio; this run has {hours:.0f} h. objective.kind=units learns from the first hour"
        )
        return [line, warning]

    def collate(self, clips: list[Clip], multiple: int = 1) -> ContrastiveBatch:
        """Clips to a batch with masks and distractors; frames and masked frames are padded to a ``multiple``."""
        clipped = masked_clips(clips, self.config, self.encoder, multiple)
        counts = clipped.mask.sum(1)
        most = -(-max(1, int(counts.max())) // multiple) * multiple
        masked = torch.zeros(len(counts), most, dtype=torch.int64)
        distractors = torch.zeros(len(counts), most, self.config.distractors, dtype=torch.int64)
        for row, (clip, count) in enumerate(zip(clips, counts.tolist(), strict=False)):
            if count:
                masked[row, :count] = clipped.mask[row].nonzero().squeeze(1)
                drawn = draw_distractors(count, self.config.distractors, clip.rng)
                distractors[row, :count] = torch.from_numpy(drawn)
        return ContrastiveBatch(*clipped, masked, counts, distractors)

    def totals(self, batch: ContrastiveBatch, features: Tensor, valid: Tensor) -> Tensor:
        """(2 + G·V,): masked frames, frames, and the code probabilities summed over the masked frames."""
        probs = self.quantizer.logits(_pick(features, batch.masked)).softmax(-1)  # (B, M, G, V)
        real = padding_mask(batch.counts, batch.masked.shape[1])
        code_sum = (probs * real[..., None, None]).sum((0, 1))  # to index with the mask would wait for the device
        frames = (valid & (batch.counts > 0).unsqueeze(1)).sum()
        return torch.cat([torch.stack([batch.counts.sum(), frames]).float(), code_sum.flatten()])

    def loss(self, prepared: Prepared, frames: Tensor, totals: Tensor, progress: float) -> Loss:
        """This micro-batch's share of the update's loss:

            Σ contrastive / masked + w_d · diversity(mean code probabilities) + w_f · Σ feature² / frames

        with the diversity linearised around its value for the whole update (``diversity_gradient``).
        """
        config, batch, features = self.config, prepared.batch, prepared.features
        all_masked, all_frames = totals[:2].clamp(min=1)
        real = padding_mask(batch.counts, batch.masked.shape[1])  # (B, M)
        context = self.project(_pick(frames, batch.masked))  # (B, M, code_dim)
        codes, entries, logits = self.quantizer(_pick(features, batch.masked), self.temperature(progress), batch.keys)
        numbers = torch.zeros_like(entries[..., 0])  # (B, M) equal where all codebooks' entries are
        for own in entries.unbind(-1):
            numbers = numbers * config.entries + own
        contrast, correct = contrastive_sum(context, codes, numbers, batch.distractors, real, config.logit_temperature)
        loss = contrast / all_masked
        probs = (logits.softmax(-1) * real[..., None, None]).sum((0, 1))  # (G, V)
        slope = diversity_gradient(totals[2:].view_as(probs) / all_masked)
        loss = loss + config.diversity_weight * (slope * probs).sum() / all_masked
        valid = prepared.valid & (batch.counts > 0).unsqueeze(1)
        squares = features.float().square().sum(-1) * valid  # (B, T)
        square = squares.sum() / features.shape[-1]
        if config.feature_penalty:
            loss = loss + config.feature_penalty * square / all_frames
        chosen = entries.flatten(0, 1).T  # (G, B·M)
        used = torch.zeros_like(probs).scatter_add_(1, chosen, real.reshape(1, -1).expand_as(chosen).to(probs))
        return loss, {
            "masked": batch.counts.sum(), "frames": valid.sum(), "contrastive": contrast, "correct": correct,
            "feature_square": square, "feature_norm": squares.sqrt().sum(), "codes": used, "code_probs": probs,
        }  # fmt: skip

    def temperature(self, progress: float) -> float:
        """The Gumbel temperature at a fraction of the run."""
        config = self.config
        return gumbel_temperature(progress, config.gumbel_start, config.gumbel_end, config.gumbel_fraction)

    def metrics(self, sums: dict[str, Tensor], progress: float) -> dict[str, float]:
        masked, frames = float(sums["masked"]), max(float(sums["frames"]), 1.0)
        codes, probs = sums["codes"], sums["code_probs"]  # (G, V)
        return {
            "contrastive_loss": float(sums["contrastive"]) / masked if masked else math.nan,
            "chance_loss": math.log(self.config.distractors + 1),
            "accuracy": float(sums["correct"]) / max(masked, 1.0),
            "code_perplexity": float(perplexity(codes / codes.sum(-1, keepdim=True).clamp(min=1))),
            "probability_perplexity": float(perplexity(probs / probs.sum(-1, keepdim=True).clamp(min=1e-9))),
            "max_perplexity": codes.numel(),
            "feature_square": float(sums["feature_square"]) / frames,
            "feature_norm": float(sums["feature_norm"]) / frames,
            "masked_fraction": masked / frames,
            "temperature": self.temperature(progress),
        }

    def status(self, row: dict[str, Any]) -> str:
        return (
            f"loss {row['contrastive_loss']:.3f} (chance {row['chance_loss']:.2f})  accuracy {row['accuracy']:.3f}  "
            f"codes {row['code_perplexity']:.0f}/{row['max_perplexity']}  temperature {row['temperature']:.2f}"
        )

    def diagnose(self, row: dict[str, Any], *, past_warmup: bool) -> dict[str, str | None]:
        collapsed = chance = None
        in_use = row["code_perplexity"] / row["max_perplexity"]
        if in_use < 0.02 or (in_use < 0.1 and row["accuracy"] > 0.9):  # on the way down, accuracy is not near 1 yet
            collapsed = (
                f"{row['code_perplexity']:.1f} of {row['max_perplexity']} codes are in use and accuracy is "
                f"{row['accuracy']:.2f}: the targets become alike, and the loss means nothing. Likely causes: optim.lr "
                "too high, objective.diversity_weight too low, batch.update_s too small, silent or repeated audio."
            )
        if past_warmup and row["contrastive_loss"] > 0.99 * row["chance_loss"]:
            chance = (
                f"loss {row['contrastive_loss']:.3f} against ln(K+1) = {row['chance_loss']:.3f} after warm-up. Likely "
                "causes: optim.lr too low or too high, batch.update_s too small, too few run.updates, audio that is "
                "silent or not speech."
            )
        return {"collapsed-codebook": collapsed, "stuck-at-chance": chance}


def _pick(frames: Tensor, masked: Tensor) -> Tensor:
    """The masked frames (B, M, F) of (B, T, F)."""
    return frames.gather(1, masked.unsqueeze(-1).expand(-1, -1, frames.shape[-1]))


def draw_distractors(masked: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """For each of M masked frames, K of the utterance's others, with repetition: (M, K) indices into the masked ones.

    Raises:
        ValueError: fewer than two masked frames, as a frame is never its own distractor.
    """
    if masked < 2:
        raise ValueError(f"{masked} masked frames leave no distractor; at least 2 are needed")
    drawn = rng.integers(0, masked - 1, (masked, count))
    return drawn + (drawn >= np.arange(masked)[:, None])


def contrastive_sum(
    context: Tensor, targets: Tensor, entries: Tensor, distractors: Tensor, real: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """-log softmax over the target and K distractors of cosine similarity / temperature (arXiv 2006.11477, eq. 3).

    All similarities of an utterance's masked frames come from one matrix product (M × M), from which those with the
    distractors are picked: no (frames × distractors × width) tensor exists. A distractor with the target's very code
    is no distractor and drops out.

    Args:
        context: (B, M, D), targets: (B, M, D), entries: (B, M) one number per code, equal where codes are equal.
        distractors: (B, M, K) indices into the utterance's masked frames.
        real: (B, M), True where the masked frame exists.

    Returns:
        () the sum over masked frames in nats, and () how many of them prefer their own target to every distractor.
    """
    context, targets = F.normalize(context.float(), dim=-1), F.normalize(targets.float(), dim=-1)
    with torch.autocast(context.device.type, enabled=False):  # in bf16 the logits would have two digits
        similarity = torch.bmm(context, targets.transpose(1, 2)) / temperature  # (B, M, M)
    positive = similarity.diagonal(dim1=1, dim2=2).unsqueeze(-1)  # (B, M, 1)
    negative = similarity.gather(2, distractors)  # (B, M, K)
    drawn = entries.unsqueeze(1).expand(-1, entries.shape[1], -1).gather(2, distractors)
    negative = negative.masked_fill(drawn == entries.unsqueeze(-1), -torch.inf)
    logits = torch.cat([positive, negative], dim=-1)  # (B, M, 1 + K)
    loss = (logits.logsumexp(-1) - positive.squeeze(-1)).masked_fill(~real, 0.0)
    return loss.sum(), ((positive.squeeze(-1) > negative.amax(-1)) & real).sum()


def perplexity(probs: Tensor) -> Tensor:
    """exp of the entropy, summed over codebooks: (G, V) to a number in [G, G·V]."""
    return torch.exp(-torch.special.xlogy(probs, probs).sum(-1)).sum()


def diversity(probs: Tensor) -> Tensor:
    """1 - perplexity / (G·V) of the mean code probabilities (G, V) (arXiv 2006.11477, eq. 4): 0 where all are used."""
    return 1.0 - perplexity(probs) / probs.numel()


def diversity_gradient(probs: Tensor) -> Tensor:
    """The derivative of ``diversity`` by the mean ``probs`` (G, V) of the *whole* update, detached.

    With the loss linearised around that mean, Σ_gv ∂diversity/∂p̄ · p, each micro-batch's and rank's gradient is exact.
    """
    with torch.enable_grad():  # type: ignore[no-untyped-call]
        probs = probs.detach().clamp(min=1e-12).requires_grad_()
        (gradient,) = torch.autograd.grad(diversity(probs), probs)
    return gradient
