"""The bench's systems for a GPU, as far as a machine without one can run them."""

from __future__ import annotations

import pytest
import torch

from tools.bench import ours
from tools.bench.cases import gpu_cases, smoke_cases
from tools.bench.child import reason

MIXER, UPDATE = (next(case for case in smoke_cases() if case.suite == suite) for suite in ("mixer", "update"))


@pytest.mark.parametrize("variant", ["summary compiled fused", "materialised"])
def test_every_variant_of_the_gpu_preset_does_the_same_work(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU: the kernels interpreted, and nothing compiled but traced."""
    torch._dynamo.reset()
    traced = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, backend="eager": traced(self, backend=backend))
    monkeypatch.setattr(torch._dynamo, "lookup_backend", lambda name: lambda graph, inputs: graph)
    asked = {system.variant for made in gpu_cases() for system in made.systems}
    assert variant in asked
    plain, other = ours.update(UPDATE, variant.split()[0]), ours.update(UPDATE, variant)
    assert other.note == plain.note
    (found,), (expected,) = other.step(), plain.step()
    assert float(found) == pytest.approx(float(expected), abs=1.0), "the weights differ, both are near chance"
    assert ours.mixer(MIXER, variant).step().shape == ours.mixer(MIXER, "summary").step().shape


def test_kernels_that_cannot_run_are_no_row_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no compiler\nand more")

    monkeypatch.setattr("mixvec.kernels.triton.branches", broken)
    with pytest.raises(RuntimeError) as caught:
        ours.mixer(MIXER, "summary fused")
    assert "no compiler" in reason(caught.value)
