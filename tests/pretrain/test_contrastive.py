"""The contrastive objective: one batch = micro-batches = ranks, its value by the formula, and what it must not see."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mixvec import EncoderConfig
from mixvec.build import build_encoder
from mixvec.data.batches import Clip
from mixvec.data.utterances import Utterance
from mixvec.training.optim import seed_update
from pretrain.objectives.base import Step
from pretrain.objectives.contrastive import Contrastive, ContrastiveBatch, ContrastiveConfig, diversity

ENCODER = EncoderConfig(
    mel_bins=40, conv_channels=12, dim=16, num_layers=2, ffn_dim=24, conv_kernel=7, heads=4, dropout=0.2,
    layer_drop=0.3,
)  # fmt: skip
OBJECTIVE = ContrastiveConfig(
    mask_span_frames=4, distractors=6, codebooks=2, entries=5, code_dim=8, feature_penalty=0.5, diversity_weight=0.7,
    gumbel_start=0.8, gumbel_end=0.8,
)  # fmt: skip
SAMPLES = (9_001, 3_000, 6_400, 2_001, 7_777, 8_000, 2_500, 5_003)
UPDATE = 5


def build(encoder: EncoderConfig = ENCODER, objective: ContrastiveConfig = OBJECTIVE) -> Contrastive:
    torch.manual_seed(0)
    return Contrastive(build_encoder(encoder), objective).train()


def batch_of(model: Contrastive, numbers: list[int]) -> ContrastiveBatch:
    """The utterances of these numbers; each has its own generator, whatever the company."""
    clips = []
    for number in numbers:
        rng = np.random.default_rng([5, number])
        waveform = torch.from_numpy(rng.standard_normal(SAMPLES[number], dtype=np.float32)) * (number + 1)
        clips.append(Clip(Utterance(f"{number}.wav", SAMPLES[number] / 16_000), waveform, rng, (5, number)))
    return model.collate(clips)


def totals_of(model: Contrastive, batches: list[ContrastiveBatch]) -> Tensor:
    return torch.stack([model.prepare(batch).totals for batch in batches]).sum(0)


def step_of(model: Contrastive, batch: ContrastiveBatch, totals: Tensor) -> Step:
    """One micro-batch as the training loop runs it."""
    prepared = model.prepare(batch)
    seed_update(model.encoder, 0, UPDATE, batch.keys)
    return model(prepared, totals, 0.5)  # type: ignore[no-any-return]


def gradients(model: Contrastive, parts: list[list[int]], totals: Tensor, scale: float = 1.0) -> dict[str, Tensor]:
    model.zero_grad()
    for numbers in parts:
        (step_of(model, batch_of(model, numbers), totals).loss * scale).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("mixer", ["summary", "attention"])
@pytest.mark.parametrize("front_end", ["mel", "waveform"])
def test_one_batch_equals_micro_batches_equals_ranks(mixer: str, front_end: str) -> None:
    """1 x 8 = 4 x 2 accumulated = 2 ranks x 4 = 3 ranks of which one has nothing; unequal lengths and masks.

    With Gumbel noise, dropout and LayerDrop, which belong to the utterance and to the update; dropout inside fused
    attention does not.
    """
    dropout = 0.0 if mixer == "attention" else ENCODER.dropout
    model = build(replace(ENCODER, mixer=mixer, front_end=front_end, dropout=dropout))  # type: ignore[arg-type]
    whole = [list(range(8))]
    totals = totals_of(model, [batch_of(model, whole[0])])
    expected = gradients(model, whole, totals)
    assert set(expected) == {name for name, _ in model.named_parameters()}
    counts = batch_of(model, whole[0]).counts.tolist()
    assert len(set(counts)) > 4
    for ranks in (
        [[[0, 1], [2, 3], [4, 5], [6, 7]]],
        [[[0, 1, 2, 3]], [[4, 5, 6, 7]]],
        [[[3]], [[0, 1, 2, 4, 5, 6, 7]], [[]]],
    ):
        shared = totals_of(model, [batch_of(model, part) for parts in ranks for part in parts])
        torch.testing.assert_close(shared, totals, rtol=1e-5, atol=1e-6)
        copies = [copy.deepcopy(model) for _ in ranks]
        each = [gradients(m, parts, shared, len(ranks)) for m, parts in zip(copies, ranks, strict=True)]
        for name, gradient in expected.items():
            mean = sum(own[name] for own in each) / len(ranks)  # as DDP takes it
            torch.testing.assert_close(
                mean, gradient, rtol=1e-3, atol=1e-6 + 1e-5 * float(gradient.abs().max()), msg=name
            )


def test_gradient_is_that_of_the_loss_as_it_is_written() -> None:
    """Contrastive mean + 0.7 x diversity of the mean probabilities + 0.5 x mean square, not linearised."""
    model = build(replace(ENCODER, dropout=0.0, layer_drop=0.0))
    batch = batch_of(model, list(range(8)))
    got = gradients(model, [list(range(8))], totals_of(model, [batch]))
    model.zero_grad()
    features, frame_lengths = model.encoder.features(batch.waveforms, batch.lengths)
    hidden = model.encoder.encode(features, frame_lengths, batch.mask).frames
    contrast, probs, square = torch.zeros(()), [], torch.zeros(())
    for row, count in enumerate(batch.counts.tolist()):
        where = batch.mask[row].nonzero().squeeze(1)
        assert torch.equal(where, batch.masked[row, :count])
        context = model.project(hidden[row, where])
        codes, entries, logits = model.quantizer(features[row : row + 1, where], 0.8, batch.keys[row : row + 1])
        probs.append(logits[0].softmax(-1))
        square = square + features[row, : frame_lengths[row]].square().mean(-1).sum()
        for m in range(count):
            choices = [m] + [
                k for k in batch.distractors[row, m].tolist() if not torch.equal(entries[0, k], entries[0, m])
            ]
            cosines = F.cosine_similarity(context[m], codes[0, choices], dim=-1)
            contrast = contrast - (cosines / 0.1).log_softmax(0)[0]
    loss = (
        contrast / batch.counts.sum() + 0.7 * diversity(torch.cat(probs).mean(0)) + 0.5 * square / frame_lengths.sum()
    )
    loss.backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is None:  # the mixer's in no layer
            raise AssertionError(name)
        atol = 1e-6 + 1e-4 * float(parameter.grad.abs().max())
        torch.testing.assert_close(got[name], parameter.grad, rtol=1e-3, atol=atol, msg=name)


@torch.no_grad()
def test_sums_are_what_they_are_named() -> None:
    model = build().eval()
    batch = batch_of(model, [0, 1, 6])
    totals = totals_of(model, [batch])
    loss, sums, _, _ = step_of(model, batch, totals)
    features, frame_lengths = model.encoder.features(batch.waveforms, batch.lengths)
    counts, squares = torch.zeros(2, 5), 0.0
    for row in range(3):
        for frame in features[row, batch.mask[row]]:
            for book, entry in enumerate(model.quantizer.logits(frame).argmax(-1).tolist()):
                counts[book, entry] += 1
        squares += float(features[row, : frame_lengths[row]].square().mean(-1).sum())
    assert torch.equal(sums["codes"], counts)
    assert (int(totals[0]), int(totals[1])) == (int(sums["masked"]), int(sums["frames"]))
    assert (int(sums["masked"]), int(sums["frames"])) == (int(batch.mask.sum()), int(frame_lengths.sum()))
    assert float(sums["feature_square"]) == pytest.approx(squares, rel=1e-5)
    assert 0 <= int(sums["correct"]) <= int(totals[0])
    probs = totals[2:].view(2, 5) / totals[0]
    torch.testing.assert_close(probs, model.quantizer.logits(features[batch.mask]).softmax(-1).mean(0))
    with torch.enable_grad():
        slope = torch.autograd.grad(diversity(probs.requires_grad_()), probs)[0]
    terms = float(sums["contrastive"]) / int(totals[0]) + 0.7 * float((slope * probs).sum())
    assert float(loss) == pytest.approx(terms + 0.5 * squares / int(totals[1]), rel=1e-5)
    off = build(objective=replace(OBJECTIVE, feature_penalty=0.0, diversity_weight=0.0)).eval()
    assert float(step_of(off, batch, totals).loss) == pytest.approx(
        float(sums["contrastive"]) / int(totals[0]), rel=1e-6
    )
    row = model.metrics(sums, 0.5)
    assert row["masked_fraction"] == pytest.approx(int(totals[0]) / int(totals[1]))
    assert row["contrastive_loss"] == pytest.approx(float(sums["contrastive"]) / int(totals[0]))


@pytest.mark.parametrize("penalty", [0.0, 0.5])
def test_a_batch_with_nothing_masked_adds_nothing(penalty: float) -> None:
    """What a rank gets when no file of its share could be read: zero gradients for every parameter, no NaN."""
    model = build(objective=replace(OBJECTIVE, feature_penalty=penalty))
    totals = totals_of(model, [batch_of(model, [0])])
    for shared in (totals, torch.zeros(12)):
        model.zero_grad()
        step = step_of(model, batch_of(model, []), shared)
        assert float(step.loss.detach()) == 0 and {float(value.sum()) for value in step.sums.values()} == {0.0}
        assert not step.sampled.any()
        step.loss.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() == 0, name
    assert totals_of(model, [batch_of(model, [])]).abs().sum() == 0


@pytest.mark.parametrize("mixer", ["summary", "attention"])
@torch.no_grad()
def test_prediction_does_not_see_what_is_hidden(mixer: str) -> None:
    """Other features under the mask: the same context, other targets."""
    model = build(replace(ENCODER, mixer=mixer)).eval()  # type: ignore[arg-type]
    batch = batch_of(model, [0, 3, 5])
    prepared, totals = model.prepare(batch), totals_of(model, [batch])
    real = torch.arange(batch.masked.shape[1]) < batch.counts.unsqueeze(1)
    contexts: list[Tensor] = []
    model.project.register_forward_hook(lambda module, args, out: contexts.append(out[real]))

    def with_features(features: Tensor) -> Any:
        return model(prepared._replace(features=features), totals, 0.5)

    noise, hidden = torch.randn_like(prepared.features), batch.mask.unsqueeze(-1)
    first = with_features(prepared.features)
    second = with_features(torch.where(hidden, noise, prepared.features))
    assert torch.equal(contexts[0], contexts[1])
    assert float(first.sums["contrastive"]) != float(second.sums["contrastive"])
    with_features(torch.where(hidden, prepared.features, noise))
    assert not torch.allclose(contexts[0], contexts[2], atol=1e-2)


def test_recomputing_the_front_end_changes_nothing() -> None:
    """With a waveform front end and several micro-batches, the features alone are kept."""
    model = build(replace(ENCODER, front_end="waveform"))
    batch = batch_of(model, [0, 3, 5])
    found = []
    for recompute in (False, True):
        model.zero_grad()
        prepared = model.prepare(batch, recompute=recompute)
        seed_update(model.encoder, 0, UPDATE, batch.keys)
        model(prepared, prepared.totals, 0.5).loss.backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-6, atol=1e-8, msg=name)


def test_the_front_end_runs_once_in_the_precision_of_the_run() -> None:
    model = build()
    dtypes: list[torch.dtype] = []
    model.encoder.front_end.convs[0].conv.register_forward_hook(lambda module, args, out: dtypes.append(out.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        batch = batch_of(model, [0, 1])
        prepared = model.prepare(batch)
        model(prepared, prepared.totals, 0.5)
    assert dtypes == [torch.bfloat16]


def test_bf16_stays_near_fp32() -> None:
    model = build(replace(ENCODER, dropout=0.0, layer_drop=0.0)).eval()
    batch = batch_of(model, list(range(8)))
    totals = totals_of(model, [batch])
    expected = step_of(model, batch, totals)
    with torch.autocast("cpu", torch.bfloat16):
        got = step_of(model, batch, totals)
    assert got.loss.dtype == torch.float32
    assert float(got.sums["contrastive"]) == pytest.approx(float(expected.sums["contrastive"]), rel=0.1)
    got.loss.backward()
    learned = [p for name, p in model.named_parameters() if p.requires_grad and name != "encoder.mask_embedding"]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learned)


def test_a_short_budget_is_warned_of_at_the_start() -> None:
    """Learned targets take hundreds of hours; the warning names the key that does not."""
    model = build()
    assert len(model.describe(1000.0)) == 1
    assert any("objective.kind=units" in line for line in model.describe(12.5))
