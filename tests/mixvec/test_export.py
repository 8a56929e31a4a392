"""torch.export of the encoder and of the CTC model: any batch, any length, with and without lengths."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from mixvec import CtcRecognizer, SpeechEncoder
from tests.tiny_models import MEL, VOCABULARY, scattered

KINDS = {
    "conformer": MEL,
    "branchformer-lite": replace(MEL, block="branchformer", mixer="summary-lite"),
    "attention": replace(MEL, mixer="attention", conv_strides=(2, 1)),
    "waveform": replace(MEL, front_end="waveform"),
}
SHAPES = [(1, 5_000), (2, 16_000), (5, 23_457)]


class Plain(nn.Module):
    """The tensors that a model gives, without the tuple around them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, waveforms: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        found = self.model(waveforms, lengths)
        return found[0], found[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "head", "masked"),
    [("conformer", True, True), ("conformer", False, False), *((kind, False, True) for kind in [*KINDS][1:])],
)
@torch.no_grad()
def test_an_exported_model_takes_any_batch_and_length(kind: str, head: bool, masked: bool) -> None:
    model: Any = SpeechEncoder(KINDS[kind])
    model = scattered(CtcRecognizer(model, VOCABULARY, "weighted") if head else model)
    given: list[Tensor] = [torch.randn(2, 12_000), torch.tensor([12_000, 7_000])][: 2 if masked else 1]
    shapes = ({0: Dim.DYNAMIC, 1: Dim.DYNAMIC}, {0: Dim.DYNAMIC})[: len(given)]
    program = torch.export.export(Plain(model), tuple(given), dynamic_shapes=shapes).module()
    for batch, samples in SHAPES:
        given = [torch.randn(batch, samples)]
        if masked:
            given.append(torch.tensor([samples, *(3_000 + 1_000 * row for row in range(1, batch))]))
        for found, expected in zip(program(*given), model(*given), strict=False):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
