"""The terms of the pretraining loss, as sums: the caller adds them over micro-batches and ranks and divides once.

Symbols: B batch, M masked frames (padded to the batch's most), K distractors, D code width, G codebooks, V entries.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Contrast(NamedTuple):
    loss: Tensor
    """Sum over masked frames of the loss in nats."""
    correct: Tensor
    """How many masked frames prefer their own target to every distractor."""


def contrastive_sum(
    context: Tensor, targets: Tensor, entries: Tensor, distractors: Tensor, real: Tensor, temperature: float
) -> Contrast:
    """-log softmax over the target and K distractors of cosine similarity / temperature (arXiv 2006.11477, eq. 3).

    All similarities of an utterance's masked frames come from one matrix product (M × M), from which those with the
    distractors are picked: no (frames × distractors × width) tensor exists. A distractor with the target's very code
    is no distractor and drops out.

    Args:
        context: (B, M, D), targets: (B, M, D), entries: (B, M) one number per code, equal where codes are equal.
        distractors: (B, M, K) indices into the utterance's masked frames.
        real: (B, M), True where the masked frame exists.
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
    correct = (positive.squeeze(-1) > negative.amax(-1)) & real
    return Contrast(loss.sum(), correct.sum())


def perplexity(probs: Tensor) -> Tensor:
    """exp of the entropy, summed over codebooks: (G, V) to a number in [G, G·V]."""
    return torch.exp(-torch.special.xlogy(probs, probs).sum(-1)).sum()


def diversity(probs: Tensor) -> Tensor:
    """1 - perplexity / (G·V) of the mean code probabilities (G, V) (arXiv 2006.11477, eq. 4): 0 where all are used."""
    return 1.0 - perplexity(probs) / probs.numel()


def diversity_gradient(probs: Tensor) -> Tensor:
    """The derivative of ``diversity`` by ``probs`` (G, V), detached.

    Diversity is a function of the mean over the *whole* update. Its gradient is exact in each micro-batch and rank
    when the mean is found first and the loss is linearised around it: Σ_gv ∂diversity/∂p̄ · p.
    """
    with torch.enable_grad():
        probs = probs.detach().clamp(min=1e-12).requires_grad_()
        (gradient,) = torch.autograd.grad(diversity(probs), probs)
    return gradient
