"""Losses shared by the tasks that learn with CTC."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from mixvec.data.sources import Corpus
from mixvec.data.utterances import Utterance
from mixvec.model.ctc import CtcModel
from mixvec.model.decoder import HybridModel
from mixvec.model.padding import padding_mask
from mixvec.model.protocol import EncoderOutput

from .batch import LabelledBatch


def loss_sum(model: CtcModel, encoded: EncoderOutput, batch: LabelledBatch, label_smoothing: float) -> Tensor:
    """CTC in nats () summed over utterances; λ CTC + (1 − λ) cross-entropy where there is an attention decoder."""
    ctc = ctc_loss_sum(model.head(encoded), encoded.lengths, batch)
    if not isinstance(model, HybridModel):
        return ctc
    attention = cross_entropy_sum(model, encoded, batch, label_smoothing)
    return model.ctc_weight * ctc + (1.0 - model.ctc_weight) * attention


def ctc_loss_sum(log_probs: Tensor, frame_lengths: Tensor, batch: LabelledBatch) -> Tensor:
    """CTC in nats () summed over the batch's utterances, from (B, T, V) and (B,); 0 for one with too few frames."""
    losses = torch.nn.functional.ctc_loss(
        log_probs.transpose(0, 1), batch.targets, frame_lengths, batch.target_lengths,
        reduction="none", zero_infinity=True,
    )  # fmt: skip
    return losses[: len(batch.numbers)].sum()


def cross_entropy_sum(model: HybridModel, encoded: EncoderOutput, batch: LabelledBatch, smoothing: float) -> Tensor:
    """Cross-entropy of the attention decoder in nats (), summed over each text's tokens and its end."""
    count = len(batch.numbers)
    logits = model.attend(encoded, batch.targets)[:count]  # (B, U + 1, V)
    wanted = torch.nn.functional.pad(batch.targets, (0, 1))[:count]  # padding is 0, which is the end as well
    losses = torch.nn.functional.cross_entropy(
        logits.transpose(1, 2), wanted, reduction="none", label_smoothing=smoothing
    )
    return (losses * padding_mask(batch.target_lengths[:count] + 1, wanted.shape[1])).sum()


def frames_needed(target: list[int]) -> int:
    """The fewest frames on which CTC can emit ``target``: one per token, and a blank between two equal ones."""
    return len(target) + sum(a == b for a, b in pairwise(target))


def skip_too_long(corpus: Corpus, target: Callable[[Utterance], list[int]], frames: Callable[[Utterance], int]) -> int:
    """Skip the utterances whose ``target`` needs more frames than their audio has; their number."""
    before = len(corpus.utterances)
    corpus.keep(lambda u: frames_needed(target(u)) <= frames(u), "{u.source}: more tokens than frames")
    return before - len(corpus.utterances)
