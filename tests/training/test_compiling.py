"""torch.compile of the blocks: what it computes, how many graphs it takes, and what happens where it fails.

The backend is aot_eager, which traces forward and backward as inductor's does and leaves the kernels as they are:
inductor takes half a minute on two cores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mixvec import EncoderConfig, build_encoder, encoder_config
from mixvec.data.batches import Clip
from mixvec.data.utterances import Utterance
from mixvec.training.compiling import FRAMES_MULTIPLE, warm_up
from mixvec.training.optim import seed_update
from pretrain.objectives.base import rounded_samples
from pretrain.objectives.contrastive import Contrastive, ContrastiveConfig
from tests.pretrain.test_probe import probe_data
from tests.runs import pretrain, rows, weights

TOY = replace(
    encoder_config("tiny"), mel_bins=20, conv_channels=16, dim=32, num_layers=2, ffn_dim=64, heads=4, conv_kernel=7
)
Result = tuple[Tensor, dict[str, Tensor]]
Backend = Callable[[Any, Any], Any]


def compile_with(patch: pytest.MonkeyPatch, backend: Backend) -> list[Any]:
    """Let ``backend`` stand for inductor; the graphs that it is given."""
    graphs = []

    def compiled(_: Any, graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return backend(graph, inputs)

    patch.setattr(torch._TorchCompileInductorWrapper, "__call__", compiled)
    return graphs


@pytest.fixture(autouse=True)
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What is compiled in a test, from nothing."""
    torch._dynamo.reset()
    yield compile_with(monkeypatch, torch._dynamo.lookup_backend("aot_eager"))
    torch._dynamo.reset()


def model(config: EncoderConfig = TOY) -> Contrastive:
    torch.manual_seed(0)
    return Contrastive(build_encoder(config), ContrastiveConfig(distractors=5, entries=8, code_dim=16)).train()


def results(made: Contrastive, clips: int, seconds: float, multiple: int = 1) -> Result:
    """The loss of a batch and all gradients; the last clip is shorter."""
    noise = torch.randn(clips, round(seconds * 16_000), generator=torch.Generator().manual_seed(2)).unbind()
    cut = [*noise[:-1], noise[-1][: len(noise[-1]) * 3 // 4]]
    drawn = [Clip(Utterance("noise", seconds), wave, np.random.default_rng(i), (i,)) for i, wave in enumerate(cut)]
    batch = made.collate(drawn, multiple)
    prepared = made.prepare(batch)
    seed_update(made.encoder, 0, 1, batch.keys)
    made.zero_grad()
    loss = made(prepared, prepared.totals, 1.0).loss
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in made.named_parameters() if p.grad is not None}


def assert_same(got: Result, expected: Result) -> None:
    torch.testing.assert_close(got[0], expected[0], rtol=1e-5, atol=1e-6)
    assert got[1].keys() == expected[1].keys()
    for name, grad in expected[1].items():
        torch.testing.assert_close(got[1][name], grad, rtol=1e-3, atol=1e-5 + 1e-4 * float(grad.abs().max()), msg=name)


@pytest.mark.slow
def test_compiled_equals_eager_and_no_shape_is_a_new_graph(graphs: list[Any]) -> None:
    """Dropout, and recomputation, which goes through the compiler too, included."""
    config = replace(TOY, dropout=0.1)
    eager, compiled = model(config), model(replace(config, checkpointing="selective"))
    for layer in compiled.encoder.layers:
        layer.compile()
    before = torch.get_rng_state()
    warm_up(compiled.encoder, 40)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(p.grad is None for p in compiled.parameters())
    for clips, seconds in ((3, 1.0), (1, 2.0), (5, 0.7)):
        assert_same(results(compiled, clips, seconds), results(eager, clips, seconds))
    assert len(graphs) == 2, "one for many rows, one for a single one; all layers share them"
    assert compiled.state_dict().keys() == eager.state_dict().keys()


@pytest.mark.parametrize("front_end", ["mel", "waveform"])
def test_padding_to_a_multiple_changes_no_result(front_end: str) -> None:
    """And there are few lengths, each of which gives a multiple of frames."""
    made = model(replace(TOY, front_end=front_end, dropout=0.1))  # type: ignore[arg-type]
    for seconds in (0.73, 2.0):
        assert_same(results(made, 3, seconds, FRAMES_MULTIPLE), results(made, 3, seconds))
    frames, hop = made.encoder.frame_lengths, made.encoder.hop_samples
    lengths = {n: rounded_samples(n, FRAMES_MULTIPLE, made.encoder) for n in range(400, 40_000, 7)}
    for samples, longer in lengths.items():
        assert samples <= longer < samples + FRAMES_MULTIPLE * hop and frames(longer) % FRAMES_MULTIPLE == 0
    assert len(set(lengths.values())) <= 40_000 / (FRAMES_MULTIPLE * hop) + 2


@pytest.mark.slow
def test_a_compiled_run_learns_what_an_eager_one_does(
    corpus: Path, tmp_path: Path, graphs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the probe nor a short batch is a graph of its own."""
    graphs = compile_with(monkeypatch, lambda graph, inputs: graph)
    keys = ("run.updates=3", "encoder.block=branchformer", "encoder.layer_drop=0.2", probe_data(corpus),
            "probe.every=1")  # fmt: skip
    losses = []
    for asked, count in (("false", 0), ("auto", 0), ("true", 2)):
        assert pretrain(corpus, tmp_path / asked, *keys, f"run.compile={asked}") == 0
        assert len(graphs) == count
        losses.append([row["contrastive_loss"] for row in rows(tmp_path / asked)])
    assert losses[0] == losses[1] == pytest.approx(losses[2], rel=1e-4)
    assert weights(tmp_path / "true").keys() == weights(tmp_path / "false").keys()


@pytest.mark.slow
def test_where_compiling_fails_the_run_continues_without_it(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(graph: object, inputs: object) -> None:
        raise RuntimeError("no C++ compiler here\nand more")

    compile_with(monkeypatch, broken)
    assert pretrain(corpus, tmp_path / "run", "run.updates=2", "run.compile=true") == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "torch.compile" in line]
    assert line.startswith("WARNING") and "no C++ compiler here" in line
