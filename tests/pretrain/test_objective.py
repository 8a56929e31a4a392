"""Masked prediction: one batch = micro-batches = ranks, its value from the formula, and what it must not see."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mixvec import EncoderConfig
from mixvec.data.batches import Clip
from mixvec.data.utterances import Utterance
from pretrain.objectives.contrastive import MaskedBatch, MaskedPrediction, ObjectiveConfig, Sums, Totals, collate_masked
from pretrain.objectives.loss import diversity

ENCODER = EncoderConfig(
    mel_bins=40, conv_channels=12, dim=16, num_layers=2, ffn_dim=24, conv_kernel=7, heads=4, dropout=0.0, layer_drop=0.0
)
OBJECTIVE = ObjectiveConfig(
    mask_span_frames=4, distractors=6, codebooks=2, entries=5, code_dim=8, feature_penalty=0.5, diversity_weight=0.7
)
SAMPLES = (9_001, 3_000, 6_400, 2_001, 7_777, 8_000, 2_500, 5_003)


@pytest.fixture
def no_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training mode with the straight-through choice, but without the Gumbel noise."""

    def softmax(logits: Tensor, tau: float, hard: bool, dim: int) -> Tensor:
        assert hard
        soft = (logits / tau).softmax(dim)
        return F.one_hot(soft.argmax(dim), logits.shape[dim]) - soft.detach() + soft

    monkeypatch.setattr("torch.nn.functional.gumbel_softmax", softmax)


def build(encoder: EncoderConfig = ENCODER, objective: ObjectiveConfig = OBJECTIVE) -> MaskedPrediction:
    """The table near one and the scores well apart, so that no rounding changes a choice."""
    torch.manual_seed(0)
    return MaskedPrediction(encoder, objective).train()


def batch_of(model: MaskedPrediction, numbers: list[int]) -> MaskedBatch:
    """The utterances of these numbers; each has its own generator, whatever the company."""
    clips = []
    for number in numbers:
        rng = np.random.default_rng([5, number])
        waveform = torch.from_numpy(rng.standard_normal(SAMPLES[number], dtype=np.float32)) * (number + 1)
        clips.append(Clip(Utterance(f"{number}.wav", SAMPLES[number] / 16_000), waveform, rng))
    return collate_masked(clips, model.objective, model.encoder.frame_lengths)


def totals_of(model: MaskedPrediction, batches: list[MaskedBatch]) -> Totals:
    masked = torch.stack([batch.counts.sum() for batch in batches]).sum()
    frames = [(model.encoder.frame_lengths(batch.lengths) * (batch.counts > 0)).sum() for batch in batches]
    probs = torch.stack([model.code_probability_sum(batch) for batch in batches]).sum(0)
    return Totals(masked, torch.stack(frames).sum(), probs / masked)


def gradients(model: MaskedPrediction, parts: list[list[int]], totals: Totals, scale: float = 1.0) -> dict[str, Tensor]:
    model.zero_grad()
    for numbers in parts:
        (model(batch_of(model, numbers), totals, 0.8).loss * scale).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.usefixtures("no_noise")
@pytest.mark.parametrize("mixer", ["summary", "attention"])
@pytest.mark.parametrize("front_end", ["mel", "waveform"])
def test_one_batch_equals_micro_batches_equals_ranks(mixer: str, front_end: str) -> None:
    """1 x 8 = 4 x 2 accumulated = 2 ranks x 4 = 3 ranks of which one has nothing; unequal lengths and masks."""
    model = build(replace(ENCODER, mixer=mixer, front_end=front_end))  # type: ignore[arg-type]
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


@pytest.mark.usefixtures("no_noise")
def test_gradient_is_that_of_the_loss_as_it_is_written() -> None:
    """Contrastive mean + 0.7 x diversity of the mean probabilities + 0.5 x mean square, not linearised."""
    model = build()
    batch = batch_of(model, list(range(8)))
    got = gradients(model, [list(range(8))], totals_of(model, [batch]))
    model.zero_grad()
    features, frame_lengths = model.encoder.features(batch.waveforms, batch.lengths)
    hidden = model.encoder.encode(features, frame_lengths, batch.mask).frames
    contrast, probs, square = torch.zeros(()), [], torch.zeros(())
    for row, count in enumerate(batch.counts.tolist()):
        where = batch.mask[row].nonzero().squeeze(1)
        assert torch.equal(where, batch.masked[row, :count])
        context, quantized = model.project(hidden[row, where]), model.quantizer(features[row, where], 0.8)
        probs.append(quantized.logits.softmax(-1))
        square = square + features[row, : frame_lengths[row]].square().mean(-1).sum()
        for m in range(count):
            choices = [m] + [
                k for k in batch.distractors[row, m].tolist()
                if not torch.equal(quantized.entries[k], quantized.entries[m])
            ]  # fmt: skip
            cosines = F.cosine_similarity(context[m], quantized.codes[choices], dim=-1)
            contrast = contrast - (cosines / 0.1).log_softmax(0)[0]
    loss = (
        contrast / batch.counts.sum() + 0.7 * diversity(torch.cat(probs).mean(0)) + 0.5 * square / frame_lengths.sum()
    )
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        atol = 1e-6 + 1e-4 * float(parameter.grad.abs().max())
        torch.testing.assert_close(got[name], parameter.grad, rtol=1e-3, atol=atol, msg=name)


@torch.no_grad()
def test_sums_are_what_they_say() -> None:
    model = build().eval()
    batch = batch_of(model, [0, 1, 6])
    totals = totals_of(model, [batch])
    sums = model(batch, totals, 1.0)
    assert isinstance(sums, Sums)
    features, frame_lengths = model.encoder.features(batch.waveforms, batch.lengths)
    counts, squares = torch.zeros(2, 5), 0.0
    for row in range(3):
        for frame in features[row, batch.mask[row]]:
            for book, entry in enumerate(model.quantizer.logits(frame).argmax(-1).tolist()):
                counts[book, entry] += 1
        squares += float(features[row, : frame_lengths[row]].square().mean(-1).sum())
    assert torch.equal(sums.code_counts, counts)
    assert float(sums.feature_square) == pytest.approx(squares, rel=1e-5)
    assert 0 <= int(sums.correct) <= int(totals.masked)
    probs = totals.code_probs.clone()
    with torch.enable_grad():
        slope = torch.autograd.grad(diversity(probs.requires_grad_()), probs)[0]
    terms = float(sums.contrastive) / int(totals.masked) + 0.7 * float((slope * probs).sum())
    assert float(sums.loss) == pytest.approx(terms + 0.5 * squares / int(totals.frames), rel=1e-5)
    off = build(objective=replace(OBJECTIVE, feature_penalty=0.0, diversity_weight=0.0)).eval()
    plain = off(batch, totals, 1.0)
    assert float(plain.loss) == pytest.approx(float(sums.contrastive) / int(totals.masked), rel=1e-6)


@torch.no_grad()
def test_code_probabilities_are_those_of_the_masked_frames() -> None:
    model = build()
    batch = batch_of(model, [0, 1, 6])
    features, _ = model.encoder.features(batch.waveforms, batch.lengths)
    expected = model.quantizer.logits(features[batch.mask]).softmax(-1).sum(0)
    torch.testing.assert_close(model.code_probability_sum(batch), expected)
    torch.testing.assert_close(model.code_probability_sum(batch).sum(1), batch.counts.sum().float().expand(2))


@pytest.mark.parametrize("penalty", [0.0, 0.5])
def test_a_batch_with_nothing_masked_adds_nothing(penalty: float) -> None:
    """What a rank gets when no file of its share could be read: zero gradients for every parameter, no NaN."""
    model = build(objective=replace(OBJECTIVE, feature_penalty=penalty))
    totals = totals_of(model, [batch_of(model, [0])])
    for shared in (totals, Totals(torch.tensor(1.0), torch.tensor(1.0), torch.zeros(2, 5))):
        model.zero_grad()
        sums = model(batch_of(model, []), shared, 1.0)
        assert [float(x.detach().sum()) for x in sums if x is not sums.sample] == [0.0] * 8
        sums.loss.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() == 0, name
    assert model.code_probability_sum(batch_of(model, [])).abs().sum() == 0


@pytest.mark.parametrize("mixer", ["summary", "attention"])
@torch.no_grad()
def test_prediction_does_not_see_what_is_hidden(mixer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other features under the mask: the same context, other targets."""
    model = build(replace(ENCODER, mixer=mixer)).eval()  # type: ignore[arg-type]
    batch = batch_of(model, [0, 3, 5])
    features, lengths = model.encoder.features(batch.waveforms, batch.lengths)
    real = torch.arange(batch.masked.shape[1]) < batch.counts.unsqueeze(1)
    contexts: list[Tensor] = []
    model.project.register_forward_hook(lambda module, args, out: contexts.append(out[real]))
    other = torch.where(batch.mask.unsqueeze(-1), torch.randn_like(features), features)
    sums = []
    for seen in (features, other):
        monkeypatch.setattr(model.encoder, "features", lambda waveforms, lengths_, seen=seen: (seen, lengths))
        sums.append(model(batch, totals_of(model, [batch]), 1.0))
    assert torch.equal(contexts[0], contexts[1])
    assert float(sums[0].contrastive) != float(sums[1].contrastive)
    beside = torch.where(batch.mask.unsqueeze(-1), features, torch.randn_like(features))
    monkeypatch.setattr(model.encoder, "features", lambda waveforms, lengths_: (beside, lengths))
    model(batch, totals_of(model, [batch]), 1.0)
    assert not torch.allclose(contexts[0], contexts[2], atol=1e-2)


@pytest.mark.usefixtures("no_noise")
def test_bf16_stays_near_fp32() -> None:
    model = build()
    batch = batch_of(model, list(range(8)))
    totals = totals_of(model, [batch])
    expected = model(batch, totals, 1.0)
    with torch.autocast("cpu", torch.bfloat16):
        got = model(batch, totals, 1.0)
    assert got.loss.dtype == torch.float32
    assert float(got.contrastive) == pytest.approx(float(expected.contrastive), rel=0.1)
    got.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_it_learns() -> None:
    """A few dozen steps on one batch bring the contrastive loss well under chance, with codes in use."""
    model = build(objective=replace(OBJECTIVE, feature_penalty=0.0))
    batch = batch_of(model, [0, 2, 4, 5])
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    for _ in range(60):
        totals = totals_of(model, [batch])
        sums = model(batch, totals, 1.0)
        sums.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    sums = model.eval()(batch, totals, 1.0)
    assert float(sums.contrastive) / int(totals.masked) < 1.0 < np.log(7)
    assert int((sums.code_counts > 0).sum()) >= 6
