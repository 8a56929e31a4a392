"""torch.compile of the blocks: what it computes, how many graphs it takes, and what happens where it fails.

The backend is aot_eager, which traces forward and backward as inductor's does and leaves the kernels as they are:
inductor takes half a minute on two cores.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mixvec import EncoderConfig, encoder_config
from mixvec.data.batches import Clip
from mixvec.data.plan import deal, plan_epoch
from mixvec.data.utterances import Utterance
from mixvec.training import compiling
from mixvec.training.compiling import FRAMES_MULTIPLE, GraphCounter, compile_blocks, warm_up
from pretrain.objectives.contrastive import MaskedPrediction, ObjectiveConfig, Totals, collate_masked, rounded_samples
from tests.pretrain.test_probe import probe_data
from tests.runs import pretrain, rows, weights

TOY = replace(
    encoder_config("tiny"), mel_bins=20, conv_channels=16, dim=32, num_layers=2, ffn_dim=64, heads=4, conv_kernel=7
)


@pytest.fixture(autouse=True)
def aot_eager(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    torch._dynamo.reset()
    looked_up = torch._dynamo.lookup_backend
    monkeypatch.setattr(compiling.torch._dynamo, "lookup_backend", lambda _: looked_up("aot_eager"))
    yield
    torch._dynamo.reset()


def model(config: EncoderConfig = TOY) -> MaskedPrediction:
    torch.manual_seed(0)
    return MaskedPrediction(config, ObjectiveConfig(distractors=5, entries=8, code_dim=16)).train()


def results(made: MaskedPrediction, clips: int, seconds: float, multiple: int = 1) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a batch and all gradients; the last clip is shorter."""
    noise = torch.randn(clips, round(seconds * 16_000), generator=torch.Generator().manual_seed(2)).unbind()
    cut = [*noise[:-1], noise[-1][: len(noise[-1]) * 3 // 4]]
    drawn = [Clip(Utterance("noise", seconds), wave, np.random.default_rng(i)) for i, wave in enumerate(cut)]
    batch = collate_masked(
        drawn, made.objective, made.encoder.frame_lengths, multiple=multiple, hop_samples=made.encoder.hop_samples
    )
    made.quantizer.eval()  # no noise, whose shape the rounding changes
    made.zero_grad()
    loss = made(batch, Totals(torch.tensor(10.0), torch.tensor(100.0), None), 1.0).loss
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in made.named_parameters() if p.grad is not None}


def assert_same(got: tuple[Tensor, dict[str, Tensor]], expected: tuple[Tensor, dict[str, Tensor]]) -> None:
    torch.testing.assert_close(got[0], expected[0], rtol=1e-5, atol=1e-6)
    assert got[1].keys() == expected[1].keys()
    for name, grad in expected[1].items():
        torch.testing.assert_close(got[1][name], grad, rtol=1e-3, atol=1e-5 + 1e-4 * float(grad.abs().max()), msg=name)


def test_compiled_equals_eager_and_no_shape_is_a_new_graph() -> None:
    """Recomputation, which goes through the compiler too, included."""
    told: list[str] = []
    eager, compiled = model(), model(replace(TOY, checkpointing="selective"))
    counter = GraphCounter(told.append)
    compile_blocks(compiled.encoder, counter)
    before = torch.get_rng_state()
    warm_up(compiled.encoder, 40, nullcontext)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(p.grad is None for p in compiled.parameters())
    assert counter.graphs == 2, "one for many rows, one for a single one; all layers share them"
    counter.warm = True
    for clips, seconds in ((3, 1.0), (1, 2.0), (5, 0.7)):
        assert_same(results(compiled, clips, seconds), results(eager, clips, seconds))
    assert counter.graphs == 2 and not told
    assert compiled.state_dict().keys() == eager.state_dict().keys()
    with torch.no_grad():
        compiled.encoder.eval()(torch.randn(2, 16_000))
    assert len(told) == 1 and told[0].startswith("WARNING compiled-in-mid-run: graph 3 of the encoder's block")


@pytest.mark.parametrize("front_end", ["mel", "waveform"])
def test_padding_to_a_multiple_changes_no_result(front_end: str) -> None:
    """And there are few lengths, each of which gives a multiple of frames."""
    made = model(replace(TOY, front_end=front_end))  # type: ignore[arg-type]
    for seconds in (0.73, 2.0):
        assert_same(results(made, 3, seconds, FRAMES_MULTIPLE), results(made, 3, seconds))
    frames, hop = made.encoder.frame_lengths, made.encoder.hop_samples
    lengths = {n: rounded_samples(n, FRAMES_MULTIPLE, hop, frames) for n in range(400, 40_000, 7)}
    for samples, longer in lengths.items():
        assert samples <= longer < samples + FRAMES_MULTIPLE * hop and frames(longer) % FRAMES_MULTIPLE == 0
    assert len(set(lengths.values())) <= 40_000 / (FRAMES_MULTIPLE * hop) + 2


def test_an_epoch_has_few_lengths() -> None:
    """On a plan of 20 000 utterances of any length."""
    made = MaskedPrediction(replace(encoder_config("base"), num_layers=1), ObjectiveConfig())
    durations_s = np.random.default_rng(0).uniform(1.0, 30.0, 20_000)
    plan = plan_epoch(durations_s, 720, seed=0, epoch=0)
    longest = [round(float(durations_s[part].max()) * 16_000)
               for update in plan for part in deal(update, durations_s, 360, 1, 0)]  # fmt: skip
    frames, hop = made.encoder.frame_lengths, made.encoder.hop_samples
    rounded = {rounded_samples(samples, FRAMES_MULTIPLE, hop, frames) for samples in longest}
    assert len(set(longest)) > 700 and len(rounded) <= 188
    assert {frames(samples) % FRAMES_MULTIPLE for samples in rounded} == {0}


def test_a_compiled_run_learns_what_an_eager_one_does(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling.torch._dynamo, "lookup_backend", lambda _: lambda graph, inputs: graph)
    keys = (
        "run.updates=3",
        "encoder.block=branchformer",
        "encoder.layer_drop=0.2",
        probe_data(corpus),
        "probe.every=1",
    )
    losses = []
    for asked in ("false", "true", "auto"):
        assert pretrain(corpus, tmp_path / asked, *keys, f"run.compile={asked}") == 0
        losses.append([row["contrastive_loss"] for row in rows(tmp_path / asked)])
        said = capsys.readouterr().out
        assert ("torch.compile: 2 graphs of the encoder's block" in said) == (asked == "true")
        assert "compiled-in-mid-run" not in said, "neither the probe nor a short batch is a graph of its own"
    assert losses[0] == losses[2] == pytest.approx(losses[1], rel=1e-4)
    assert weights(tmp_path / "true").keys() == weights(tmp_path / "false").keys()


def test_where_compiling_fails_the_run_goes_on(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(graph: object, inputs: object) -> None:
        raise RuntimeError("no C++ compiler here\nand more")

    monkeypatch.setattr(compiling.torch._dynamo, "lookup_backend", lambda _: broken)
    assert pretrain(corpus, tmp_path / "run", "run.updates=2", "run.compile=true") == 0
    said = capsys.readouterr().out
    (line,) = [line for line in said.splitlines() if "torch.compile" in line]
    assert line.startswith("WARNING torch.compile failed, so nothing is compiled: ") and "no C++ compiler here" in line
