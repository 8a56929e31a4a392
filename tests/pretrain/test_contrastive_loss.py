"""The loss terms against loops over frames and distractors, gradients included."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pretrain.objectives.contrastive import contrastive_sum, diversity, diversity_gradient, perplexity

BATCH, MASKED, DISTRACTORS, DIM = 3, 9, 6, 8
COUNTS = (9, 2, 5)
TEMPERATURE = 0.1


def problem(codes: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Context, targets, entries, distractors and real frames; equal entries have equal targets; junk in the padding."""
    generator = torch.Generator().manual_seed(codes)
    context = torch.randn(BATCH, MASKED, DIM, generator=generator)
    entries = torch.randint(0, codes, (BATCH, MASKED), generator=generator)
    targets = torch.randn(codes, DIM, generator=generator)[entries]
    distractors = torch.zeros(BATCH, MASKED, DISTRACTORS, dtype=torch.int64)
    for row, count in enumerate(COUNTS):
        for m in range(count):
            others = torch.tensor([i for i in range(count) if i != m])
            distractors[row, m] = others[torch.randint(0, count - 1, (DISTRACTORS,), generator=generator)]
        context[row, count:] = 1e3
    real = torch.arange(MASKED) < torch.tensor(COUNTS).unsqueeze(1)
    return context, targets, entries, distractors, real


def oracle(context: Tensor, targets: Tensor, entries: Tensor, distractors: Tensor) -> tuple[Tensor, int]:
    """Equation 3, one masked frame at a time."""
    loss, correct = torch.zeros((), dtype=context.dtype), 0
    for row, count in enumerate(COUNTS):
        for m in range(count):
            own = F.cosine_similarity(context[row, m], targets[row, m], dim=0) / TEMPERATURE
            others = [
                F.cosine_similarity(context[row, m], targets[row, k], dim=0) / TEMPERATURE
                for k in distractors[row, m].tolist()
                if entries[row, k] != entries[row, m]
            ]
            loss = loss - torch.log(own.exp() / (own.exp() + sum(other.exp() for other in others)))
            correct += all(own > other for other in others)
    return loss, correct


@pytest.mark.parametrize("codes", [3, 1000])
def test_contrastive_sum_equals_a_loop(codes: int) -> None:
    """With 3 codes many distractors share the target's code and drop out, though drawn; with 1000 none does."""
    context, targets, entries, distractors, real = problem(codes)
    shared = entries.gather(1, distractors.flatten(1)).view_as(distractors) == entries.unsqueeze(-1)
    assert bool((shared & real.unsqueeze(-1)).any()) == (codes == 3)
    context.requires_grad_()
    targets.requires_grad_()
    doubles = [x.detach().double().requires_grad_() for x in (context, targets)]
    expected, correct = oracle(*doubles, entries, distractors)
    got = contrastive_sum(context, targets, entries, distractors, real, TEMPERATURE)
    torch.testing.assert_close(got[0].double(), expected, rtol=1e-5, atol=1e-5)
    assert got[1] == correct
    assert 0 < correct < sum(COUNTS)
    got[0].backward()
    expected.backward()
    for single, double in zip((context, targets), doubles, strict=True):
        assert single.grad is not None and double.grad is not None
        torch.testing.assert_close(single.grad.double(), double.grad, rtol=1e-4, atol=1e-5)
    assert context.grad is not None
    assert context.grad[~real].abs().sum() == 0


def test_what_fills_the_padding_does_not_matter() -> None:
    context, targets, entries, distractors, real = problem(1000)
    expected = contrastive_sum(context, targets, entries, distractors, real, TEMPERATURE)
    for tensor in (context, targets):
        tensor[~real] = torch.randn(DIM)
    entries[~real], distractors[~real] = 5, 1
    got = contrastive_sum(context, targets, entries, distractors, real, TEMPERATURE)
    assert torch.equal(got[0], expected[0])
    assert torch.equal(got[1], expected[1])


def test_full_collapse_is_a_loss_of_zero() -> None:
    """One code for all: every distractor drops out. The log's perplexity shows it, the loss does not."""
    context, targets, entries, distractors, real = problem(1)
    context.requires_grad_()
    got = contrastive_sum(context, targets, entries, distractors, real, TEMPERATURE)
    assert got[0] == 0
    assert got[1] == sum(COUNTS)
    got[0].backward()
    assert context.grad is not None and context.grad.abs().sum() == 0


def test_chance_is_ln_of_all_choices() -> None:
    """Nearly orthogonal vectors: the loss is ln(K + 1), and one frame in K + 1 is right."""
    masked, count = 400, 100
    context, targets = torch.randn(2, 2, masked, 4096).unbind(0)
    distractors = (torch.randint(1, masked, (2, masked, count)) + torch.arange(masked).view(1, -1, 1)) % masked
    entries, real = torch.arange(masked).expand(2, -1), torch.ones(2, masked, dtype=torch.bool)
    got = contrastive_sum(context, targets, entries, distractors, real, 1.0)
    assert float(got[0]) / 800 == pytest.approx(math.log(count + 1), abs=0.01)
    assert 0 < float(got[1]) / 800 < 0.03
    perfect = contrastive_sum(targets, targets, entries, distractors, real, TEMPERATURE)
    assert perfect[1] == 800
    assert float(perfect[0]) / 800 < 0.02


def test_a_tie_is_not_a_right_answer() -> None:
    same = torch.ones(1, 2, DIM)
    distractors = torch.tensor([[[1], [0]]])
    got = contrastive_sum(same, same, torch.tensor([[0, 1]]), distractors, torch.ones(1, 2, dtype=torch.bool), 1.0)
    assert got[1] == 0
    assert float(got[0]) == pytest.approx(2 * math.log(2))


class Largest(TorchDispatchMode):
    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


def test_no_tensor_of_frames_by_distractors_by_width() -> None:
    """Nor in the backward pass: nothing is larger than the logits or the vectors themselves."""
    masked, count, width = 60, 50, 64
    context = torch.randn(2, masked, width, requires_grad=True)
    targets = torch.randn(2, masked, width, requires_grad=True)
    distractors = (torch.randint(1, masked, (2, masked, count)) + torch.arange(masked).view(1, -1, 1)) % masked
    entries, real = torch.arange(masked).expand(2, -1), torch.ones(2, masked, dtype=torch.bool)
    with Largest() as largest:
        contrastive_sum(context, targets, entries, distractors, real, TEMPERATURE)[0].backward()
    assert largest.numel <= 2 * masked * max(masked, count + 1, width)


def test_logits_are_in_fp32_under_autocast() -> None:
    context, targets, entries, distractors, real = problem(1000)
    expected = contrastive_sum(context, targets, entries, distractors, real, TEMPERATURE)[0]
    half = contrastive_sum(context.bfloat16(), targets.bfloat16(), entries, distractors, real, TEMPERATURE)[0]
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, expected, rtol=0.02, atol=0.0)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = contrastive_sum(context, targets, entries, distractors, real, TEMPERATURE)[0]
    torch.testing.assert_close(mixed, expected, rtol=1e-4, atol=0.0)


def test_perplexity_and_diversity() -> None:
    probs = torch.rand(2, 5).softmax(-1)
    expected = sum(math.exp(-sum(float(p) * math.log(float(p)) for p in book)) for book in probs)
    assert float(perplexity(probs)) == pytest.approx(expected, rel=1e-5)
    assert float(diversity(probs)) == pytest.approx((10 - expected) / 10, rel=1e-4)
    uniform, single = torch.full((2, 5), 0.2), torch.eye(5)[:2]
    assert float(perplexity(uniform)) == pytest.approx(10)
    assert float(diversity(uniform)) == pytest.approx(0, abs=1e-6)
    assert float(perplexity(single)) == pytest.approx(2)
    assert float(diversity(single)) == pytest.approx(0.8)


def test_diversity_gradient_of_unused_entries_is_finite() -> None:
    for probs in (torch.eye(5)[:2], torch.zeros(2, 5)):
        assert diversity_gradient(probs).isfinite().all()
    probs = torch.rand(2, 5).softmax(-1).requires_grad_()
    (expected,) = torch.autograd.grad(diversity(probs), probs)
    with torch.no_grad():
        got = diversity_gradient(probs)
    torch.testing.assert_close(got, expected)
    assert not got.requires_grad


def test_linearised_diversity_has_the_gradient_of_the_whole_updates() -> None:
    """Micro-batches of unequal size, each with its own backward pass, add up to the gradient over all frames."""
    frames = torch.randn(24, 7)
    weight = torch.randn(7, 10, requires_grad=True)

    def probabilities(x: Tensor) -> Tensor:
        return (x @ weight).unflatten(1, (2, 5)).softmax(-1)

    (expected,) = torch.autograd.grad(diversity(probabilities(frames).mean(0)), weight)
    total = probabilities(frames).mean(0).detach()
    for part in frames.split([3, 13, 8]):
        ((diversity_gradient(total) * probabilities(part).sum(0)).sum() / 24).backward()
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, expected, rtol=1e-4, atol=1e-7)
