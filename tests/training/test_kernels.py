"""The measurement of kernels at the start of a run: at the run's shape and precision, one line in the log."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mixvec import SummaryMixing, build_encoder
from mixvec.kernels import select
from mixvec.model.mixing import Branches, plain_branches
from mixvec.training.compiling import choose_kernels
from tests.tiny_models import MEL


def run_of(lines: list[str], precision: str = "bf16") -> Any:
    config = SimpleNamespace(data=SimpleNamespace(max_s=2.0), batch=SimpleNamespace(max_s=7.0))
    return SimpleNamespace(
        config=config, accelerator=SimpleNamespace(mixed_precision=precision), log=SimpleNamespace(print=lines.append)
    )


def test_the_run_measures_at_its_own_shape_and_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[tuple[int, int], torch.dtype]] = []

    def seconds(form: Branches, mixer: SummaryMixing, shape: tuple[int, int], dtype: torch.dtype) -> float:
        asked.append((shape, dtype))
        return 1.0 if form is plain_branches else 2.0

    monkeypatch.setattr(select, "seconds", seconds)
    monkeypatch.setattr(select, "can_choose", lambda mixer: True)
    monkeypatch.setattr(select, "largest_difference", lambda *_: 0.0)
    encoder, lines = build_encoder(MEL), list[str]()
    choose_kernels(run_of(lines), encoder)
    assert len(lines) == 1 and "plain path" in lines[0]
    assert asked == [((3, encoder.frame_lengths(32_000)), torch.bfloat16)] * 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without a GPU")
def test_without_a_gpu_nothing_is_said() -> None:
    lines: list[str] = []
    choose_kernels(run_of(lines), build_encoder(MEL))
    assert lines == []
