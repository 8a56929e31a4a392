"""The heads: layers weighed, characters decoded, frames pooled; padded = alone through all of it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mixvec import (
    Classifier,
    CtcRecognizer,
    EncoderConfig,
    EncoderOutput,
    HybridRecognizer,
    HybridTagger,
    ProbeClassifier,
    SlotTagger,
    SpeakerEmbedder,
    build_encoder,
)
from mixvec.hub import load_model
from mixvec.model import HEADS, LayerChoice, TaskModel
from mixvec.model.ctc import CtcModel
from mixvec.model.trunks import TRUNKS, AttentiveStatistics, build_trunk, mean_of
from tests.tiny_models import scattered, write_wav

TOY = EncoderConfig(
    mel_bins=40, conv_channels=32, dim=32, num_layers=2, ffn_dim=48, conv_kernel=7, heads=4, layer_drop=0.0
)
VOCABULARY = ["[PAD]", "|", "a", "b", "ç"]
LABELS = ["on", "off", "up"]


def encoded(lengths: tuple[int, ...] = (5, 2)) -> EncoderOutput:
    layers = [torch.randn(len(lengths), max(lengths), 32) for _ in range(3)]
    for row, length in enumerate(lengths):
        for layer in layers:
            layer[row, length:] = 0
    return EncoderOutput(layers[-1], torch.tensor(lengths), layers)


def speech(lengths: list[int]) -> tuple[Tensor, Tensor]:
    waveforms = torch.full((len(lengths), max(lengths)), math.nan)
    for row, length in enumerate(lengths):
        waveforms[row, :length] = torch.randn(length)
    return waveforms, torch.tensor(lengths)


def test_layer_choice() -> None:
    output = encoded()
    assert LayerChoice(2, "last")(output) is output.frames
    assert list(LayerChoice(2, "last").parameters()) == []
    choice = LayerChoice(2, "weighted")
    torch.testing.assert_close(choice(output), sum(output.layers) / 3)
    assert choice.weights is not None
    with torch.no_grad():
        choice.weights.copy_(torch.tensor([0.0, 1.0, -2.0]))
    shares = [math.exp(w) / (1 + math.e + math.exp(-2)) for w in (0.0, 1.0, -2.0)]
    torch.testing.assert_close(choice(output), sum(w * x for w, x in zip(shares, output.layers, strict=True)))
    choice(output).square().sum().backward()
    assert choice.weights.grad is not None and choice.weights.grad.abs().min() > 0


def frames_of(tokens: str) -> Tensor:
    """Scores (12, V) whose best tokens are ``tokens``: ``-`` is the blank; beyond them comes ``b``."""
    best = ["-|abç".index(c) for c in tokens.ljust(12, "b")]
    return F.one_hot(torch.tensor(best), 5).float().log_softmax(-1)


def test_greedy_ctc() -> None:
    texts = {"": "", "----": "", "aaa": "a", "aa-a": "aa", "-a--b-": "ab", "ab|ça": "ab ça", "||a||-|b||": "a b",
             "a|": "a", "abbba": "aba"}  # fmt: skip
    recognizer = CtcRecognizer(build_encoder(TOY), VOCABULARY)
    scores = torch.stack([frames_of(tokens) for tokens in texts])
    assert recognizer.decode(scores, torch.tensor([len(tokens) for tokens in texts])) == [*texts.values()]


def test_ctc_head_is_layer_norm_linear_and_log_softmax_in_fp32() -> None:
    recognizer = scattered(CtcRecognizer(build_encoder(TOY), VOCABULARY))
    output = encoded()
    normed = F.layer_norm(output.frames, (32,), recognizer.head_norm.weight, recognizer.head_norm.bias)
    expected = (normed @ recognizer.output.weight.T + recognizer.output.bias).log_softmax(-1)
    torch.testing.assert_close(recognizer.head(output), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert recognizer.head(output).dtype == torch.float32
    assert not torch.equal(recognizer.train().head(output), expected)


def test_classifier_pools_the_real_frames() -> None:
    """pooled = Σ_t softmax_t(w · tanh(W x_t)) x_t over each utterance's own frames, one by one."""
    classifier = scattered(Classifier(build_encoder(TOY), LABELS))
    output = encoded((5, 2, 1))
    inner, outer = classifier.score[0], classifier.score[2]
    for row, length in enumerate(output.lengths.tolist()):
        scores = [
            outer.weight @ torch.tanh(inner.weight @ x + inner.bias) + outer.bias for x in output.frames[row, :length]
        ]
        total = sum(score.exp() for score in scores)
        pooled = sum(score.exp() / total * x for score, x in zip(scores, output.frames[row], strict=False))
        normed = F.layer_norm(pooled, (32,), classifier.head_norm.weight, classifier.head_norm.bias)
        expected = classifier.output.weight @ normed + classifier.output.bias
        torch.testing.assert_close(classifier.head(output)[row], expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_labels_come_with_their_probabilities_likeliest_first() -> None:
    classifier = scattered(Classifier(build_encoder(TOY), LABELS))
    (ranked, other) = classifier.rank(torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]]))
    assert list(ranked) == ["off", "up", "on"]
    assert ranked["off"] == pytest.approx(math.exp(2) / (1 + math.e + math.exp(2)))
    assert sum(ranked.values()) == pytest.approx(1.0)
    assert next(iter(other)) == "on"
    waveforms, lengths = speech([4_001])
    assert classifier.understand(waveforms, lengths) == classifier.rank(classifier(waveforms, lengths))


def every_head(kind: str) -> list[TaskModel]:
    """One of each class in HEADS that takes this kind of trunk. ECAPA's norms are over an eighth of the channels: over
    two of them rounding grows a thousandfold."""
    encoder, width, rest = build_encoder(TOY), 64 if kind == "ecapa" else 16, ("weighted", 0.1)
    made: list[Any] = [
        CtcRecognizer(encoder, VOCABULARY, *rest, kind, width), SlotTagger(encoder, VOCABULARY, *rest, kind, width),
        ProbeClassifier(encoder, LABELS, *rest, kind, width), SpeakerEmbedder(encoder, LABELS, *rest, kind, width, 12),
    ]  # type: ignore[arg-type]  # fmt: skip
    if kind == "own":
        made += [HybridRecognizer(encoder, VOCABULARY, decoder_layers=1), Classifier(encoder, LABELS),
                 HybridTagger(encoder, VOCABULARY, decoder_layers=1)]  # fmt: skip
        assert {type(model).__name__ for model in made} == set(HEADS)
    return [scattered(model) for model in made]


def outputs(model: TaskModel, waveforms: Tensor, lengths: Tensor | None = None) -> list[Tensor]:
    """The output of each utterance, without its padding."""
    encoded = model.encoder.encode(*model.encoder.features(waveforms, lengths), every_layer=model.every_layer)
    made = model.head(encoded)
    made = (made, encoded.lengths) if isinstance(model, CtcModel) else made
    return [row[:count] for row, count in zip(*made, strict=True)] if isinstance(made, tuple) else list(made)


@pytest.mark.parametrize("kind", ["own", *TRUNKS])
def test_every_head_padded_equals_alone_saved_equals_reloaded_and_short_audio_is_finite(
    kind: str, tmp_path: Path
) -> None:
    """One utterance is shorter than a frame."""
    waveforms, lengths = speech([6_401, 100, 5_003])
    for model in every_head(kind):
        together = outputs(model, waveforms, lengths)
        for row in (0, 2):
            (alone,) = outputs(model, waveforms[row : row + 1, : int(lengths[row])])
            torch.testing.assert_close(together[row], alone, rtol=0, atol=1e-3)
        model.zero_grad()
        torch.stack([row.square().sum() for row in together]).sum().backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None), model.settings()
        assert all(row.isfinite().all() for row in together)
        model.save_pretrained(tmp_path / type(model).__name__)
        again = load_model(tmp_path / type(model).__name__)
        assert type(again) is type(model) and again.settings() == model.settings()
        assert all(map(torch.equal, outputs(again, waveforms, lengths), together))


def test_the_papers_widths() -> None:
    made = {kind: build_trunk(kind, 768, None) for kind in TRUNKS}  # type: ignore[arg-type]
    count = {kind: sum(p.numel() for p in trunk.parameters()) for kind, (trunk, _) in made.items() if trunk}
    assert count["linear"] == 769 * 256
    each_way = 4 * 1024 * (1024 + 1024 + 2), 4 * 1024 * (2048 + 1024 + 2)
    assert count["lstm"] == 769 * 1024 + 2 * sum(each_way)
    assert made["xvector"][1] == made["ecapa"][1] == 1536


def test_a_linear_probe_is_a_projection_the_mean_and_a_linear_layer() -> None:
    model = ProbeClassifier(build_encoder(TOY), LABELS, "last", 0.0, "linear", 16).eval()
    encoded = model.encoder(*speech([4_001, 3_003]))
    frames = [encoded.frames[row, :count].mean(0) for row, count in enumerate(encoded.lengths.tolist())]
    trunk = model.choice.trunk
    expected = model.output(trunk.project(torch.stack(frames)))  # type: ignore[union-attr,operator]
    torch.testing.assert_close(model.head(encoded), expected)


def test_pooling() -> None:
    x, lengths = torch.randn(2, 6, 8), torch.tensor([6, 4])
    torch.testing.assert_close(mean_of(x, lengths)[1], x[1, :4].mean(0))
    pooling = AttentiveStatistics(8)
    made = pooling(x, lengths)
    scores = pooling.score(x[1, :4]).flatten().softmax(0)
    mean = sum(a * frame for a, frame in zip(scores, x[1, :4], strict=True))
    square = sum(a * frame.square() for a, frame in zip(scores, x[1, :4], strict=True))
    torch.testing.assert_close(made[1], torch.cat([mean, (square - mean**2).sqrt()]))  # type: ignore[operator]
    made.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in pooling.parameters())
    with torch.no_grad():
        constant = AttentiveStatistics(8)(torch.ones(1, 3, 8, requires_grad=True), torch.tensor([3]))
    assert constant[0, 8:].max() < 1e-3


def test_embeddings_lie_on_the_sphere_and_the_command_line_prints_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mixvec import cli
    from tests.commands import in_process

    model = scattered(SpeakerEmbedder(build_encoder(TOY), LABELS, "weighted", 0.1, embedding=12))
    torch.testing.assert_close(model.embed(*speech([4_001, 3_003])).norm(dim=1), torch.ones(2))
    model.save_pretrained(tmp_path / "hub")
    mixvec = in_process(cli.main, monkeypatch, capsys)
    done = mixvec("embed", "--model", tmp_path / "hub", write_wav(tmp_path / "a.wav"))
    assert done.code == 0 and len(numbers := [float(x) for x in done.out.split()]) == 12
    assert sum(x * x for x in numbers) == pytest.approx(1.0, abs=1e-3)
    assert "a SpeakerEmbedder, and understand needs" in mixvec("understand", "--model", tmp_path / "hub", "a.wav").err
