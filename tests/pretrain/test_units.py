"""Masked prediction of units: targets and losses against plain loops, whatever the batch, ranks and interruptions."""

from __future__ import annotations

import copy
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.fft
import torch
import torchaudio.functional
from torch import Tensor

from mixvec import EncoderConfig, UserError, build_encoder
from mixvec.data.batches import Clip, loaded_of
from mixvec.data.utterances import Utterance
from mixvec.model.mel import MelTables, log_mel
from mixvec.training.config import load_config
from mixvec.training.optim import seed_update
from pretrain.config import PretrainConfig
from pretrain.objectives.base import MaskedClips
from pretrain.objectives.targets import MEL_BINS, Codebooks, TargetFrames
from pretrain.objectives.units import Units, UnitsConfig
from pretrain.report import diagnose
from tests.pretrain.test_train import stop_after
from tests.runs import UNITS, command, identical, largest_difference, pretrain, rows, weights

ENCODER = EncoderConfig(
    mel_bins=40, conv_channels=12, conv_strides=(2, 2), dim=16, num_layers=3, ffn_dim=24, conv_kernel=7, heads=4,
    dropout=0.2, layer_drop=0.3,
)  # fmt: skip
SAMPLES = (19_001, 13_000, 16_400, 12_001, 17_777, 18_000, 12_500, 15_003)


def waves(numbers: list[int]) -> list[Clip]:
    clips = []
    for number in numbers:
        rng = np.random.default_rng([5, number])
        tones = np.sin(np.cumsum(rng.uniform(0.05, 0.8, SAMPLES[number] // 800 + 1).repeat(800)))[: SAMPLES[number]]
        waveform = torch.from_numpy((tones + 0.1 * rng.standard_normal(len(tones))).astype(np.float32))
        clips.append(Clip(Utterance(f"{number}.wav", len(tones) / 16_000), waveform, rng, (5, number)))
    return clips


def build(config: UnitsConfig, encoder: EncoderConfig = ENCODER) -> Units:
    """An objective whose units are fitted on its own utterances."""
    torch.manual_seed(0)
    model = Units(build_encoder(encoder), config).train()

    def sample(seconds: float) -> Any:
        yield loaded_of(waves(list(range(8))), [], model.collate)

    while model.due(0.9):
        model.fit(sample, 3, lambda line: None)
    return model


def step_of(model: Units, batch: MaskedClips, totals: Tensor, progress: float = 0.5) -> Any:
    prepared = model.prepare(batch)
    seed_update(model.encoder, 0, 5, batch.keys)
    return model(prepared, totals, progress)


def totals_of(model: Units, batches: list[MaskedClips]) -> Tensor:
    return torch.stack([model.prepare(batch).totals for batch in batches]).sum(0)


@pytest.mark.parametrize("relabel", [(), (0.4,)])
def test_loss_and_gradients_equal_a_loop(relabel: tuple[float, ...]) -> None:
    """Cross-entropy of each frame and codebook, over masked and over visible frames, new units beside the old."""
    config = UnitsConfig(units=(7, 5), visible_weight=0.8, visible_final=0.2, relabel=relabel, relabel_units=6)
    model = build(config, replace(ENCODER, dropout=0.0, layer_drop=0.0))
    batch = model.collate(waves([0, 1, 6]))
    totals = totals_of(model, [batch])
    step = step_of(model, batch, totals)
    step.loss.backward()
    got = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    features, lengths = model.encoder.features(batch.waveforms, batch.lengths)
    hidden = model.encoder.encode(features, lengths, batch.mask).frames
    sets = [
        (model.head, model.codebooks(model.frames(batch.waveforms, batch.lengths)), (7, 5), 0.3 if relabel else 1.0)
    ]
    if relabel:
        new = model.own.codebooks(model.own.frames(batch.waveforms, batch.lengths))
        sets.append((model.own.head, new, (6,), 1.0))
    loss, correct = torch.zeros(()), 0
    for head, units, counts, weight in sets:
        terms: dict[bool, list[Tensor]] = {True: [], False: []}
        for row in range(3):
            for t in range(int(lengths[row])):
                logits, start = head(hidden[row, t]), 0
                for book, count in enumerate(counts):
                    own, start = logits[start : start + count], start + count
                    terms[bool(batch.mask[row, t])].append(-own.log_softmax(0)[units[row, t, book]] / len(counts))
                    first = head is (model.own.head if relabel else model.head)
                    correct += int(first and batch.mask[row, t] and own.argmax() == units[row, t, book])
        masked, visible = (torch.stack(terms[hidden_]).sum() * 1.0 for hidden_ in (True, False))
        loss = loss + weight * (masked / totals[0] + 0.5 * visible / totals[1])
    assert float(step.loss.detach()) == pytest.approx(float(loss.detach()), rel=1e-5)
    assert int(step.sums["masked_correct"]) == correct
    loss.backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            atol = 1e-7 + 1e-4 * float(parameter.grad.abs().max())
            torch.testing.assert_close(got[name], parameter.grad, rtol=1e-3, atol=atol, msg=name)


@pytest.mark.parametrize("relabel", [(), (0.4,)])
def test_one_batch_equals_micro_batches_equals_ranks(relabel: tuple[float, ...]) -> None:
    """With dropout and LayerDrop; a rank that could read none of its files adds nothing."""
    model = build(UnitsConfig(units=(7,), relabel=relabel, relabel_units=6))
    whole = model.collate(waves(list(range(8))))
    totals = totals_of(model, [whole])
    step_of(model, whole, totals).loss.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert set(expected) == {name for name, p in model.named_parameters() if p.requires_grad}
    for parts in ([[0, 1], [2, 3], [4, 5], [6, 7]], [[3], [0, 1, 2, 4, 5, 6, 7], []]):
        batches = [model.collate(waves(part)) for part in parts]
        torch.testing.assert_close(totals_of(model, batches), totals)
        model.zero_grad()
        for batch in batches:
            step_of(model, batch, totals).loss.backward()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                atol = 1e-6 + 1e-5 * float(expected[name].abs().max())
                torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-3, atol=atol, msg=name)


@pytest.mark.parametrize("kind", ["mfcc", "log-mel", "random-projection", "layer"])
@pytest.mark.parametrize("strides", [(2, 1), (2, 2), (2, 2, 2)])
def test_targets_are_the_same_alone_and_in_a_padded_batch(kind: str, strides: tuple[int, ...]) -> None:
    encoder = build_encoder(replace(ENCODER, conv_strides=strides))
    teacher = build_encoder(replace(ENCODER, conv_strides=(2, 1))).eval() if kind == "layer" else None
    frames = TargetFrames(encoder, kind, teacher, 2)
    clips = waves([0, 3, 4])
    waveforms = torch.nn.utils.rnn.pad_sequence([clip.waveform for clip in clips], batch_first=True)
    lengths = torch.tensor([len(clip.waveform) for clip in clips])
    together = frames(waveforms, lengths)
    assert together.shape == (3, encoder.frame_lengths(waveforms.shape[1]), frames.width)
    for row, clip in enumerate(clips):
        alone = frames(clip.waveform.unsqueeze(0), lengths[row : row + 1])
        torch.testing.assert_close(together[row, : alone.shape[1]], alone[0], rtol=1e-4, atol=1e-4)


def test_mfcc_against_scipy_and_torchaudio() -> None:
    """Cepstra by scipy's cosine transform, differences by torchaudio, normalised by NumPy; frame t in the middle of
    what the encoder's frame t sees."""
    encoder, waveform = build_encoder(ENCODER), waves([2])[0].waveform.unsqueeze(0)
    got = TargetFrames(encoder, "mfcc")(waveform, torch.tensor([waveform.shape[1]]))[0]
    mel = log_mel(waveform, None, MelTables(MEL_BINS))[0].double().numpy()
    cepstra = torch.from_numpy(scipy.fft.dct(mel, type=2, norm="ortho")[:, :13]).T  # (13, T)
    first = torchaudio.functional.compute_deltas(cepstra, 5)
    x = torch.cat([cepstra, first, torchaudio.functional.compute_deltas(first, 5)]).T.numpy()
    x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
    np.testing.assert_allclose(got.numpy(), x[3 : 3 + 4 * len(got) : 4], rtol=2e-3, atol=2e-3)


def test_codebooks_assign_the_nearest_centroid() -> None:
    frames = torch.randn(3000, 6) * torch.tensor([9.0, 4, 1, 1, 1, 1]) + 3
    books = Codebooks(6, (8, 3), 4)
    perplexities = books.fit(frames, 0)
    assert all(1 < p <= count for p, count in zip(perplexities, (8, 3), strict=True))
    x = (frames - books.mean) @ books.projection
    torch.testing.assert_close(x.T @ x / len(x), torch.eye(4), rtol=0, atol=1e-3)  # whitened
    for book in range(2):
        nearest = torch.cdist(x, books.get_buffer(f"centroids_{book}")).argmin(1)
        assert torch.equal(books(frames.unsqueeze(0))[0, :, book], nearest)
    random = [Codebooks(6, (8,), 4, cosine=True) for _ in range(3)]
    for seed, book in zip((1, 1, 2), random, strict=True):
        book.randomise(seed)
    assert torch.equal(random[0](frames.unsqueeze(0)), random[1](frames.unsqueeze(0)))
    assert not torch.equal(random[0](frames.unsqueeze(0)), random[2](frames.unsqueeze(0)))
    unit = torch.nn.functional.normalize((frames - 0) @ random[0].projection, dim=-1)
    assert torch.equal(
        (unit @ random[0].get_buffer("centroids_0").T).argmax(1), random[0](frames.unsqueeze(0))[0, :, 0]
    )


def test_what_cannot_be_fitted_is_refused() -> None:
    with pytest.raises(UserError, match=r"objective\.units=\[40\].*60 frames"):
        Codebooks(6, (40,)).fit(torch.randn(60, 6), 0)
    with pytest.raises(UserError, match="silent"):
        Codebooks(6, (4,)).fit(torch.ones(60, 6), 0)


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        (["objective.relabel=[1.0]"], r"objective\.relabel=\[1\.0\]"),
        (["objective.relabel=[0.5,0.2]"], r"objective\.relabel=\[0\.5, 0\.2\]"),
        (["objective.units=[1]"], r"objective\.units=\[1\]"),
        (["objective.units=[1000000000]"], r"objective\.units=\[1000000000\]"),
        (["objective.targets=layer"], r"objective\.teacher"),
        (["objective.visible_weight=-1"], r"objective\.visible_weight"),
        (["objective.entries=3"], r"objective\.entries"),
        (["objective.kind=unit"], r"objective\.kind=unit .*contrastive, units"),
    ],
)
def test_a_wrong_key_is_named(keys: list[str], named: str) -> None:
    with pytest.raises(UserError, match=named):
        load_config(PretrainConfig, ["objective.kind=units", *keys], "")


def test_diagnoses() -> None:
    config = load_config(PretrainConfig, ["size=tiny", "objective.kind=units"], "")
    model = build(UnitsConfig(units=(7,)))
    healthy = {"update": 200_000, "masked_loss": 2.0, "unit_entropy": 4.4, "unit_perplexity": 80.0, "units": 100.0}
    assert diagnose(healthy, config, model) == {}
    assert list(diagnose(healthy | {"masked_loss": 4.39}, config, model)) == ["stuck-at-chance"]
    assert diagnose(healthy | {"masked_loss": 4.39, "update": 5}, config, model) == {}
    assert list(diagnose(healthy | {"unit_perplexity": 1.5}, config, model)) == ["collapsed-codebook"]


def test_degenerate_new_units_are_refused_with_a_line() -> None:
    """An encoder whose frames are all alike has nothing to offer; the old units stay."""
    config, lines = UnitsConfig(units=(7,), relabel=(0.4,), relabel_units=50), []
    model = build(UnitsConfig(units=(7,)))
    fresh = Units(model.encoder, config).train()
    with torch.no_grad():
        for layer in fresh.encoder.layers:
            layer.norm.weight.zero_()
            layer.norm.bias[:2] = 1.0
    fresh.encoder.norm.weight.data.zero_()

    def sample(seconds: float) -> Any:
        clips = waves(list(range(8)))
        yield loaded_of(clips, [], fresh.collate)

    fresh.fit(sample, 3, lines.append)
    with torch.no_grad():
        fresh.encoder.norm.weight.fill_(1e-3)
    fresh.fit(sample, 3, lines.append)
    assert not fresh.due(0.9) and not bool(fresh.relabelled) and "refused" in lines[-1]


@pytest.mark.slow
def test_resumed_equals_uninterrupted_with_a_relabelling_in_between(corpus: Path, tmp_path: Path) -> None:
    keys = ("run.updates=8", "run.save_every=3", "objective.relabel=[0.6]", "objective.relabel_units=10",
            "encoder.dropout=0.1", "encoder.layer_drop=0.2", "batch.max_s=10")  # fmt: skip
    assert units(corpus, tmp_path / "whole", *keys) == 0
    for last in (3, 6):
        stop_after(last, corpus, tmp_path / "parts", *keys, base=UNITS)
    assert units(corpus, tmp_path / "parts", *keys) == 0
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert identical(whole, parts) and int(whole["fits"]) == 2
    log = rows(tmp_path / "whole")
    assert log[-1]["masked_loss"] < 3 and math.isfinite(log[-1]["visible_accuracy"])


def units(corpus: Path, run: Path, *keys: str) -> int:
    """A pretraining on units; its exit code."""
    return pretrain(corpus, run, *keys, base=UNITS)


def test_a_teacher_and_what_does_not_fit(corpus: Path, tmp_path: Path) -> None:
    """A run's own folder as the teacher; more frames a second than it has, no such layer, or a change are refused."""
    assert units(corpus, tmp_path / "first", "run.updates=1") == 0
    teacher = shutil.copytree(tmp_path / "first/hub", tmp_path / "teacher")
    keys = ("objective.targets=layer", f"objective.teacher={teacher}", "run.save_every=1")
    assert units(corpus, tmp_path / "second", *keys, "run.updates=2") == 0
    with pytest.raises(UserError, match=r"objective\.layer=9"):
        units(corpus, tmp_path / "layer", *keys, "objective.layer=9", "run.updates=1")
    with pytest.raises(UserError, match=r"objective\.teacher=.* 25 frames a second, fewer than the encoder's 50"):
        units(corpus, tmp_path / "rate", *keys, "encoder.conv_strides=[2,1]", "run.updates=1")
    shutil.rmtree(tmp_path / "second/checkpoints/update_00000002")
    shutil.rmtree(teacher)
    shutil.copytree(tmp_path / "second/hub", teacher)
    with pytest.raises(UserError, match=r"objective\.teacher"):
        units(corpus, tmp_path / "second", *keys, "run.updates=2")


@pytest.mark.slow
def test_two_ranks_equal_one_with_a_relabelling(corpus: Path, tmp_path: Path) -> None:
    keys = ("run.updates=4", "objective.relabel=[0.5]", "objective.relabel_units=10", "encoder.dropout=0.1")
    assert units(corpus, tmp_path / "one", *keys) == 0
    data = [f"data.train={corpus}/unlabelled", f"run.dir={tmp_path / 'two'}"]
    done = command("pretrain", *UNITS, *data, *keys, ranks=2)
    assert done.returncode == 0, done.stderr
    assert "2 x cpu" in done.stdout
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert largest_difference(one, two) < 1e-4


def test_a_copy_of_the_objective_is_whole() -> None:
    model = build(UnitsConfig(units=(7,), relabel=(0.4,), relabel_units=6))
    other = Units(build_encoder(ENCODER), model.config)
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    other.train()
    batch = model.collate(waves([0, 1]))
    totals = totals_of(model, [batch])
    assert not other.due(0.9), "never fitted again"
    torch.testing.assert_close(step_of(other, batch, totals).loss, step_of(model, batch, totals).loss)
