"""The Triton kernels against the plain path, gradients included: on a GPU where there is one, else interpreted."""

from __future__ import annotations

import sys
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor

from mixvec import SummaryMixing, UserError, fused
from mixvec.kernels.select import usable

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TRIED = fused._tried
FRAMES = 40  # two programs forward, three backward
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # the interpreter's exp(1e4)


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test decides anew, and the interpreter, which takes bf16's bits for numbers in a product, is mended;
    programs are small and there is no trial, since it is slow."""
    monkeypatch.delenv(fused.ENVIRONMENT, raising=False)
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    product = InterpreterBuilder.create_dot

    def widened(handle: TensorHandle) -> TensorHandle:
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        return TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def create_dot(self: object, a: TensorHandle, b: TensorHandle, *rest: object) -> TensorHandle:
        return product(self, widened(a), widened(b), *rest)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", create_dot)
    monkeypatch.setattr("mixvec.kernels.FRAMES_FORWARD", 32)
    monkeypatch.setattr("mixvec.kernels.FRAMES_BACKWARD", 16)
    monkeypatch.setattr(fused, "_tried", lambda *_: True)
    fused._warn.cache_clear()
    TRIED.cache_clear()


def mixers(
    width: int, heads: int, lite: bool, act: str, dtype: torch.dtype = torch.float32
) -> tuple[SummaryMixing, SummaryMixing]:
    """The same weights, once to run plain and once in the kernels."""
    made = []
    for asked in (False, True):
        mixer = SummaryMixing(width * heads, heads, lite=lite, act=act, dropout=0.0)  # type: ignore[arg-type]
        mixer.fused = asked
        made.append(mixer.to(DEVICE, dtype))
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


def inputs(dim: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """x (B, T, D) with junk beyond each length, and its mask (B, T); one utterance ends at a program's border."""
    mask = torch.arange(FRAMES) < torch.tensor([[FRAMES], [1], [32]])
    return torch.randn(3, FRAMES, dim).masked_fill(~mask.unsqueeze(-1), 1e4).to(DEVICE, dtype), mask.to(DEVICE)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize(
    ("width", "heads", "lite", "act"),
    [(8, 1, False, "gelu"), (96, 2, False, "swish"), (32, 3, True, "swish"), (16, 2, False, "swish")],
)
def test_fused_equals_plain(width: int, heads: int, lite: bool, act: str, masked: bool) -> None:
    plain, fast = mixers(width, heads, lite, act)
    x, mask = inputs(width * heads)
    if not masked:
        x = torch.randn_like(x)
    expected = results(plain, x, mask if masked else None)
    calls = count_calls(fast)
    got = results(fast, x, mask if masked else None)
    assert calls == [1], "the kernels ran"
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=2e-5, atol=2e-5 * float(value.abs().max()), msg=name)


def count_calls(mixer: SummaryMixing) -> list[int]:
    calls, branches = [], mixer.fused_branches

    def counted(x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        calls.append(1)
        return branches(x, mask)

    mixer.fused_branches = counted  # type: ignore[method-assign]
    return calls


@pytest.mark.parametrize("autocast", [True, False])
def test_bf16_is_near_fp32(autocast: bool) -> None:
    """As near as the plain path in bf16, or nearer; under autocast, and wholly in bf16."""
    plain, fast = mixers(24, 2, False, "swish")
    x, mask = inputs(48)
    exact = results(plain, x, mask)
    errors = []
    for mixer in (plain, fast):
        if autocast:
            with torch.autocast(DEVICE.type, torch.bfloat16):
                found = results(mixer, x, mask)
        else:
            found = results(mixer.bfloat16(), x.bfloat16(), mask)
        errors.append({name: float((found[name].float() - v).abs().max() / v.abs().max()) for name, v in exact.items()})
    for name in exact:
        assert errors[1][name] < max(0.03, 1.5 * errors[0][name]), (name, errors)


def test_the_same_input_gives_the_same_bits() -> None:
    _, fast = mixers(16, 2, False, "swish")
    x, mask = inputs(32)
    first, second = results(fast, x, mask), results(fast, x, mask)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_trial_is_passed() -> None:
    assert TRIED(DEVICE, torch.float32, 8, 2, "swish")


def test_padding_never_enters_the_sum() -> None:
    _, fast = mixers(16, 2, True, "swish")
    x, mask = inputs(32)
    torch.testing.assert_close(fast(x.masked_fill(~mask.unsqueeze(-1), torch.nan), mask), fast(x, mask), rtol=0, atol=0)
    alone = fast(x[2:, :32], None)
    torch.testing.assert_close(fast(x, mask)[2:], alone, rtol=1e-6, atol=1e-6)


def test_the_operators_keep_torchs_rules() -> None:
    """Shapes without data, gradients and the schema, as torch.compile relies on them."""
    from mixvec.kernels.triton import branches

    mixer, _ = mixers(8, 2, False, "swish")
    weights = [p.detach().requires_grad_() for p in (*mixer.first.parameters(), *mixer.second.parameters())]
    x, mask = inputs(16)
    x = x.clamp(max=3.0)[:, :20].contiguous().requires_grad_()
    kinds = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(branches, (x, mask[:, :20].contiguous(), *weights, False), test_utils=kinds)


def test_compiled_the_kernels_are_one_step_of_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the trial may come while the graph is made."""
    _, fast = mixers(8, 2, False, "swish")
    x, mask = inputs(16)
    expected = results(fast, x, mask)
    torch._dynamo.reset()
    fast.compile(backend="aot_eager", fullgraph=True)
    monkeypatch.setattr(fused, "_tried", TRIED)
    got = results(fast, x, mask)
    assert TRIED.cache_info().currsize == 1
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=1e-5, atol=1e-5 * float(value.abs().max()), msg=name)


def ask(device: str = "cuda", dtype: torch.dtype = torch.bfloat16, width: int = 96, asked: bool | None = None) -> bool:
    return usable(asked, torch.device(device), dtype, width, 2, "swish")  # type: ignore[no-any-return]


def test_the_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the device and for the trial on it."""
    tried: list[object] = []
    monkeypatch.setattr(fused, "_tried", lambda *given: tried.append(given) or True)
    for capability, expected in (((9, 0), True), ((8, 0), True), ((7, 5), False)):
        monkeypatch.setattr("torch.cuda.get_device_capability", lambda device, found=capability: found)
        assert ask() is expected
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (9, 0))
    assert not ask(dtype=torch.float32) and not ask(width=768) and not ask(width=8) and not ask(device="cpu")
    assert not ask(asked=False) and ask(device="cpu", dtype=torch.float32, asked=True)
    assert not ask(dtype=torch.float64, asked=True)
    monkeypatch.setenv(fused.ENVIRONMENT, "off")
    assert not ask() and ask(asked=True)
    monkeypatch.setenv(fused.ENVIRONMENT, "on")
    assert ask(device="cpu", dtype=torch.float32)
    monkeypatch.setenv(fused.ENVIRONMENT, "yes")
    with pytest.raises(UserError, match="MIXVEC_FUSED=yes must be one of auto, on, off"):
        ask()


def test_on_a_cpu_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mixvec.model.mixing.usable", lambda *_: pytest.fail("asked"))
    SummaryMixing(32, 2)(torch.randn(1, 5, 32))


def failing(monkeypatch: pytest.MonkeyPatch, cause: str) -> None:
    monkeypatch.setattr(fused, "_tried", TRIED)
    if cause == "missing":
        monkeypatch.setitem(sys.modules, "mixvec.kernels", None)
    elif cause == "wrong":
        monkeypatch.setattr(SummaryMixing, "fused_branches", lambda *given: [2 * t for t in plain_branches(*given)])
    else:
        monkeypatch.setattr(
            SummaryMixing, "fused_branches", lambda *_: (_ for _ in ()).throw(RuntimeError("no gcc\n!"))
        )


plain_branches = SummaryMixing.plain_branches


@pytest.mark.parametrize(
    ("cause", "said"),
    [("missing", "ModuleNotFoundError: import of mixvec.kernels"), ("wrong", "ArithmeticError: the kernels' results "),
     ("raises", "RuntimeError: no gcc$")],
)  # fmt: skip
def test_what_fails_is_one_warning_and_the_plain_path(monkeypatch: pytest.MonkeyPatch, cause: str, said: str) -> None:
    plain, fast = mixers(16, 2, False, "swish")
    x, mask = inputs(32)
    expected, before = plain(x, mask), torch.get_rng_state()
    failing(monkeypatch, cause)
    with pytest.warns(RuntimeWarning, match=f"^SummaryMixing runs without its Triton kernels: {said}"):
        assert torch.equal(fast(x, mask), expected)
    assert torch.equal(torch.get_rng_state(), before), "the trial's random numbers are its own"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(fast(x, mask), expected), "and is not tried again"
        mixers(32, 2, False, "swish")[1](torch.cat([x, x], dim=-1), mask)
