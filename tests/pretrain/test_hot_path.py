"""What keeps a GPU busy, as far as a machine without one can tell."""

from __future__ import annotations

import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mixvec import encoder_config
from mixvec.build import build_encoder
from mixvec.data.batches import Clip, Loaded, loaded_of
from mixvec.data.utterances import Utterance
from mixvec.training.config import OptimConfig
from mixvec.training.optim import adamw, seed_update
from pretrain.objectives.base import Step
from pretrain.objectives.contrastive import Contrastive, ContrastiveBatch, ContrastiveConfig
from pretrain.objectives.targets import Codebooks
from pretrain.report import Window
from tests.runs import in_forward, pretrain

TOY = replace(
    encoder_config("tiny"), mel_bins=20, conv_channels=16, dim=32, num_layers=2, ffn_dim=64, heads=4, dropout=0.1
)
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique", "item")
"""Operations whose result, or its shape, the host must know before it goes on."""


class Waits(TorchDispatchMode):
    """Lists the operations for which a host waits for its GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_") and any(
            isinstance(index, Tensor) and index.dtype == torch.bool for index in args[1]
        )
        if name in WAITS or by_mask:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def loaded(model: Contrastive, clips: int = 3) -> Loaded[ContrastiveBatch]:
    drawn = [Clip(Utterance("noise", 1.0), torch.randn(16_000 - 2_000 * i), np.random.default_rng(i), (0, i))
             for i in range(clips)]  # fmt: skip
    return loaded_of(drawn, [], model.collate)


def build() -> Contrastive:
    return Contrastive(build_encoder(TOY), ContrastiveConfig(distractors=5, entries=8, code_dim=16)).train()


@pytest.mark.parametrize("parts", [1, 2])
def test_an_update_never_waits_for_the_device(parts: int) -> None:
    """From the totals to the gradients and the log's sums; the one wait is in ``step``."""
    model, window = build(), Window()
    given = [loaded(model) for _ in range(parts)]
    with Waits() as waits:
        prepared = [model.prepare(part.batch) for part in given]
        totals = torch.stack([part.totals for part in prepared]).sum(0)
        steps = []
        for part in prepared:
            seed_update(model.encoder, 0, 1, part.batch.keys)
            steps.append(model(part, totals, 1.0))
            steps[-1].loss.backward()
        window.add(steps[-1], [done.sums for done in steps], given, 1.0)
    assert waits.found == []
    with Waits() as waits:
        float(steps[0].loss.detach())
        steps[0].sums["code_probs"][steps[0].sums["code_probs"] > 0]
    assert waits.found == ["_local_scalar_dense", "index"], "they would be seen"


def test_batches_are_pinned_whatever_they_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loader asks each ``Loaded``; a stand-in for page-locked memory, which takes a GPU."""
    monkeypatch.setattr(Tensor, "pin_memory", lambda self, device=None: self + 0)
    given = loaded(build())
    pinned = given.pin_memory()
    assert isinstance(pinned.batch, ContrastiveBatch) and pinned.sources == given.sources
    for before, after in zip(given.batch, pinned.batch, strict=True):
        assert after is not before and torch.equal(after, before)
    mixed = replace(given, batch=(torch.ones(2), ["a", "b"])).pin_memory()  # type: ignore[arg-type]
    assert mixed.batch[1] == ["a", "b"]


def test_adamw_is_fused_on_a_gpu_alone() -> None:
    weight = [torch.nn.Parameter(torch.ones(2))]
    assert adamw(weight, OptimConfig(), torch.device("cuda")).param_groups[0]["fused"] is True
    made = adamw(weight, OptimConfig(lr=0.25, weight_decay=0.125), torch.device("cpu"))
    group = made.param_groups[0]
    assert group["fused"] is None and (group["lr"], group["weight_decay"], group["eps"]) == (0.25, 0.125, 1e-6)


def test_an_update_keeps_one_micro_batch(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those before it, only numbers: their frames and losses are gone while the next one is computed."""
    made: list[weakref.ref[Tensor]] = []
    alive: list[int] = []

    def note(step: Step) -> None:
        made.append(weakref.ref(step.sample))
        alive.append(sum(sample() is not None for sample in made))

    in_forward(monkeypatch, *range(1, 100), do=note)
    assert pretrain(corpus, tmp_path / "run", "run.updates=2", "batch.max_s=5") == 0
    assert len(made) >= 8 and max(alive) == 2


def test_frames_that_were_collected_are_fitted_on_the_device_of_the_units() -> None:
    """A device without numbers instead of a GPU: fitting gets as far as the first one that it asks for."""
    with pytest.raises(RuntimeError, match=r"item\(\) cannot be called on meta tensors"):
        Codebooks(6, (4,)).to("meta").fit(torch.randn(60, 6), 0)
