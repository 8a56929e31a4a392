"""The Triton kernels against the plain path, gradients included: on a GPU where there is one, else interpreted."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mixvec import SummaryMixing, UserError
from mixvec.kernels import select
from mixvec.kernels.select import choose_branches, largest_difference
from mixvec.model.mixing import Branches, SelfAttention, plain_branches

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
FRAMES = 40  # two programs forward, three backward
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # the interpreter's exp(1e4)


@pytest.fixture(autouse=True)
def interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small programs."""
    monkeypatch.delenv(select.ENVIRONMENT, raising=False)
    monkeypatch.setattr("mixvec.kernels.triton.FRAMES_FORWARD", 32)
    monkeypatch.setattr("mixvec.kernels.triton.FRAMES_BACKWARD", 16)


def mixers(width: int, heads: int, lite: bool, act: str) -> tuple[SummaryMixing, SummaryMixing]:
    """The same weights, once to run plain and once in the kernels."""
    from mixvec.kernels.triton import branches

    made = []
    for form in (plain_branches, branches):
        mixer = SummaryMixing(width * heads, heads, lite=lite, act=act, dropout=0.0)  # type: ignore[arg-type]
        mixer.branches = form
        made.append(mixer.to(DEVICE))
    made[1].load_state_dict(made[0].state_dict())
    return made[0], made[1]


def results(mixer: SummaryMixing, x: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
    """Output and all gradients, what lies under the padding left out."""
    x = x.detach().requires_grad_()
    out = mixer(x, mask)
    seen = out if mask is None or mixer.lite else out * mask.unsqueeze(-1)
    slopes = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    mixer.zero_grad()
    (seen * slopes).sum().backward()
    assert x.grad is not None
    grads = {name: p.grad for name, p in mixer.named_parameters() if p.grad is not None}
    return {"out": seen.detach(), "x": x.grad, **grads}


def inputs(dim: int) -> tuple[Tensor, Tensor]:
    """x (B, T, D) with junk beyond each length, and its mask (B, T); one utterance ends at a program's border."""
    mask = torch.arange(FRAMES) < torch.tensor([[FRAMES], [1], [32]])
    return torch.randn(3, FRAMES, dim).masked_fill(~mask.unsqueeze(-1), 1e4).to(DEVICE), mask.to(DEVICE)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize(
    ("width", "heads", "lite", "act"),
    [(8, 1, False, "gelu"), (96, 2, False, "swish"), (32, 3, True, "swish"), (16, 2, False, "swish")],
)
def test_fused_equals_plain(width: int, heads: int, lite: bool, act: str, masked: bool) -> None:
    plain, fast = mixers(width, heads, lite, act)
    x, mask = inputs(width * heads) if masked else (torch.randn(3, FRAMES, width * heads, device=DEVICE), None)
    got = results(fast, x, mask)
    for name, value in results(plain, x, mask).items():
        torch.testing.assert_close(got[name], value, rtol=2e-5, atol=2e-5 * float(value.abs().max()), msg=name)


def test_the_operators_keep_torchs_rules() -> None:
    """Shapes without data, gradients and the schema, as torch.compile relies on them."""
    from mixvec.kernels.triton import branches

    mixer, _ = mixers(8, 2, False, "swish")
    weights = [p.detach().requires_grad_() for p in (*mixer.first.parameters(), *mixer.second.parameters())]
    x, mask = inputs(16)
    x = x.clamp(max=3.0)[:, :20].contiguous().requires_grad_()
    kinds = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(branches, (x, mask[:, :20].contiguous(), *weights, False), test_utils=kinds)


def clock(monkeypatch: pytest.MonkeyPatch, kernel_s: float, plain_s: float) -> list[tuple[int, int]]:
    """A GPU's clock: how long each form takes. Returns the shapes that were timed."""
    shapes: list[tuple[int, int]] = []

    def seconds(form: Branches, mixer: SummaryMixing, shape: tuple[int, int], dtype: torch.dtype) -> float:
        shapes.append(shape)
        return plain_s if form is plain_branches else kernel_s

    monkeypatch.setattr(select, "seconds", seconds)
    monkeypatch.setattr(select, "can_choose", lambda mixer: True)
    return shapes


def test_the_faster_form_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = torch.nn.ModuleList(mixers(8, 2, False, "swish"))
    for kernel_s, plain_s, chosen in ((1e-3, 2e-3, "Triton kernel"), (2e-3, 1e-3, "plain path")):
        shapes, state = clock(monkeypatch, kernel_s, plain_s), torch.get_rng_state()
        line = choose_branches(encoder, (4, 100), torch.float32)
        assert torch.equal(torch.get_rng_state(), state), "the trial draws from a generator of its own"
        assert f"SummaryMixing: {chosen}" in line and "\n" not in line and shapes == [(4, 100)] * 2
        assert re.findall(r"[\d.]+ ms", line) == [f"{kernel_s * 1e3:.3f} ms", f"{plain_s * 1e3:.3f} ms"]
        assert all((mixer.branches is plain_branches) == (chosen == "plain path") for mixer in encoder)


def test_the_clock_sees_forward_and_backward_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device is idle at both ends, and results are made comparable elsewhere."""
    _, mixer = mixers(8, 2, False, "swish")
    seen: list[str] = []

    def form(*given: Any) -> tuple[Tensor, Tensor]:
        seen.append("run")
        return plain_branches(*given)

    run, read = select._run, time.perf_counter
    dtypes: set[torch.dtype] = set()
    monkeypatch.setattr(select, "_run", lambda *given: dtypes.update(value.dtype for value in run(*given)))
    monkeypatch.setattr(select, "_wait", lambda mixer: seen.append("wait"))
    monkeypatch.setattr(select.time, "perf_counter", lambda: seen.append("clock") or read())
    assert select.seconds(form, mixer, (2, 10), torch.bfloat16) > 0
    assert seen == ["wait", "clock", "run", "wait", "clock"] * select.REPEATS
    assert torch.bfloat16 in dtypes, "as they came"


def test_the_variable_overrides_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = clock(monkeypatch, 2.0, 1.0)
    monkeypatch.setattr(select, "largest_difference", lambda *_: 0.0)
    _, mixer = mixers(8, 2, False, "swish")
    for value, installed in (("off", False), ("on", True)):
        monkeypatch.setenv(select.ENVIRONMENT, value)
        assert f"{select.ENVIRONMENT}={value}" in choose_branches(mixer, (1, 40), torch.float32)
        assert (mixer.branches is not plain_branches) == installed
    assert shapes == []
    monkeypatch.setenv(select.ENVIRONMENT, "yes")
    with pytest.raises(UserError, match=r"MIXVEC_FUSED=yes.*auto, on, off"):
        choose_branches(mixer, (1, 40), torch.float32)


def wrong(*given: object) -> list[Tensor]:
    return [2 * tensor for tensor in plain_branches(*given)]  # type: ignore[arg-type]


def broken(*_: object) -> None:
    raise RuntimeError("no gcc\nand more")


@pytest.mark.parametrize(
    ("fault", "cause"), [(wrong, "differ"), (broken, "RuntimeError: no gcc$"), (None, "ModuleNotFoundError")]
)
def test_a_kernel_that_is_wrong_or_cannot_run_is_not_installed(
    fault: Callable[..., object] | None, cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock(monkeypatch, 1.0, 2.0)
    _, mixer = mixers(8, 2, False, "swish")
    if fault is None:
        monkeypatch.setitem(sys.modules, "mixvec.kernels.triton", None)
    else:
        monkeypatch.setattr("mixvec.kernels.triton.branches", fault)
    assert re.search(f"plain path.*{cause}", choose_branches(mixer, (1, 40), torch.float32))
    assert mixer.branches is plain_branches


def test_the_trial_finds_the_kernel_right_and_a_wrong_gradient_wrong() -> None:
    from mixvec.kernels.triton import branches

    _, mixer = mixers(8, 2, False, "swish")

    def detached(x: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
        f, sums = plain_branches(x, *rest)  # type: ignore[arg-type]
        return f, sums + 0.5 * (sums.detach() - sums)

    assert largest_difference(branches, mixer, torch.float32) < 1e-4
    assert largest_difference(detached, mixer, torch.float32) > 0.01


@pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without a GPU")
def test_without_a_gpu_there_is_nothing_to_choose() -> None:
    mixer = SummaryMixing(32, 2)
    form = mixer.branches
    assert choose_branches(mixer, (1, 40), torch.float32) == "" and mixer.branches is form
    assert choose_branches(SelfAttention(32, 2), (1, 40), torch.float32) == ""
