"""The heads: layers weighed, characters decoded, frames pooled; padded = alone through all of it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
from mixvec.model import HEADS, LayerChoice, TaskModel

TOY = EncoderConfig(
    mel_bins=40, conv_channels=32, dim=32, num_layers=2, ffn_dim=48, conv_kernel=7, heads=4, layer_drop=0.0
)
VOCABULARY = ["[PAD]", "|", "a", "b", "ç"]
LABELS = ["on", "off", "up"]


def lively(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module.eval()


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


@pytest.mark.parametrize("layers", ["last", "weighted"])
@torch.no_grad()
def test_heads_padded_equal_alone(layers: str) -> None:
    recognizer = lively(CtcRecognizer(build_encoder(TOY), VOCABULARY, layers))  # type: ignore[arg-type]
    classifier = lively(Classifier(build_encoder(TOY), LABELS, layers))  # type: ignore[arg-type]
    waveforms, lengths = speech([6_401, 960, 5_003])
    log_probs, frames = recognizer(waveforms, lengths)
    logits = classifier(waveforms, lengths)
    assert log_probs.shape == (3, int(frames.max()), 5)
    assert logits.shape == (3, 3)
    for row, samples in enumerate(lengths.tolist()):
        alone, (count,) = recognizer(waveforms[row : row + 1, :samples])
        assert count == frames[row]
        torch.testing.assert_close(log_probs[row, :count], alone[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(logits[row], classifier(waveforms[row : row + 1, :samples])[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(log_probs.shape[:2]))
    assert recognizer.transcribe(waveforms, lengths) == recognizer.decode(log_probs, frames)


def frames_of(entries: str, frames: int = 12) -> Tensor:
    """Scores (T, V) whose best entries spell ``entries``: ``-`` is the blank; beyond them comes ``b``."""
    best = [{"-": 0, "|": 1, "a": 2, "b": 3, "ç": 4}[c] for c in entries.ljust(frames, "b")]
    return F.one_hot(torch.tensor(best), 5).float().log_softmax(-1)


@pytest.mark.parametrize(
    ("entries", "text"),
    [
        ("", ""),
        ("----", ""),
        ("aaa", "a"),
        ("aa-a", "aa"),
        ("-a--b-", "ab"),
        ("ab|ça", "ab ça"),
        ("||a||-|b||", "a b"),
        ("a|", "a"),
        ("abbba", "aba"),
    ],
)
def test_greedy_ctc(entries: str, text: str) -> None:
    recognizer = CtcRecognizer(build_encoder(TOY), VOCABULARY)
    scores = torch.stack([frames_of(entries), frames_of("ab")])
    assert recognizer.decode(scores, torch.tensor([len(entries), 2])) == [text, "ab"]


def test_ctc_head_is_layer_norm_linear_and_log_softmax_in_fp32() -> None:
    recognizer = lively(CtcRecognizer(build_encoder(TOY), VOCABULARY))
    output = encoded()
    normed = F.layer_norm(output.frames, (32,), recognizer.head_norm.weight, recognizer.head_norm.bias)
    expected = (normed @ recognizer.output.weight.T + recognizer.output.bias).log_softmax(-1)
    torch.testing.assert_close(recognizer.head(output), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert recognizer.head(output).dtype == torch.float32
    assert not torch.equal(recognizer.train().head(output), expected)


def test_ctc_head_learns_a_sentence() -> None:
    """The loss falls and the text comes out: the path from waveform to text has no gap in it."""
    recognizer = CtcRecognizer(build_encoder(replace(TOY, dropout=0.0)), VOCABULARY, dropout=0.0)
    waveforms, lengths = speech([4_001, 3_003])
    targets = [torch.tensor([2, 3, 1, 4]), torch.tensor([4, 2])]
    optimizer = torch.optim.AdamW(recognizer.parameters(), 2e-2)
    for _ in range(40):
        log_probs, frames = recognizer(waveforms, lengths)
        loss = F.ctc_loss(log_probs.transpose(0, 1), torch.cat(targets), frames, torch.tensor([4, 2]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert recognizer.eval().transcribe(waveforms, lengths) == ["ab ç", "ça"]


def test_classifier_pools_the_real_frames() -> None:
    """pooled = Σ_t softmax_t(w · tanh(W x_t)) x_t over each utterance's own frames, one by one."""
    classifier = lively(Classifier(build_encoder(TOY), LABELS))
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


def test_every_parameter_of_the_heads_learns() -> None:
    waveforms, lengths = speech([4_001, 3_003])
    for model in (
        CtcRecognizer(build_encoder(TOY), VOCABULARY, "weighted"),
        Classifier(build_encoder(TOY), LABELS, "weighted"),
    ):
        lively(model).train()
        out = model(waveforms, lengths)
        out = out[0] if isinstance(out, tuple) else out
        (out * torch.randn_like(out)).sum().backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
            if name not in ("encoder.mask_embedding", "score.2.bias"):
                assert parameter.grad.abs().sum() > 0, name


@torch.no_grad()
def test_labels_come_with_their_probabilities_likeliest_first() -> None:
    classifier = lively(Classifier(build_encoder(TOY), LABELS))
    (ranked, other) = classifier.rank(torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]]))
    assert list(ranked) == ["off", "up", "on"]
    assert ranked["off"] == pytest.approx(math.exp(2) / (1 + math.e + math.exp(2)))
    assert sum(ranked.values()) == pytest.approx(1.0)
    assert next(iter(other)) == "on"
    waveforms, lengths = speech([4_001])
    assert classifier.understand(waveforms, lengths) == classifier.rank(classifier(waveforms, lengths))


def every_head() -> list[TaskModel]:
    """One of each class in HEADS, and of each way of pooling."""
    encoder = build_encoder(TOY)
    return [
        CtcRecognizer(encoder, VOCABULARY), CtcRecognizer(encoder, VOCABULARY, kind="lstm", width=8),
        SlotTagger(encoder, VOCABULARY), HybridRecognizer(encoder, VOCABULARY, decoder_layers=1),
        HybridTagger(encoder, VOCABULARY, decoder_layers=1), Classifier(encoder, LABELS),
        *(ProbeClassifier(encoder, LABELS, kind=kind, width=64)
          for kind in ("own", "linear", "lstm", "contextnet", "xvector", "ecapa")),
        SpeakerEmbedder(encoder, LABELS), SpeakerEmbedder(encoder, LABELS, kind="ecapa", width=64),
    ]  # type: ignore[arg-type]  # fmt: skip


def test_an_utterance_shorter_than_a_frame_gives_finite_numbers_in_every_head() -> None:
    """In a padded batch, forwards and backwards; the other utterance keeps its own."""
    models = every_head()
    assert {type(model).__name__ for model in models} == set(HEADS)
    waveforms, lengths = speech([4_001, 100])
    for model in models:
        lively(model)
        out = model(waveforms, lengths)
        out = out[0] if isinstance(out, tuple) else out
        assert out.isfinite().all(), model.settings()
        alone = model(waveforms[:1])
        alone = alone[0] if isinstance(alone, tuple) else alone
        torch.testing.assert_close(out[:1], alone, rtol=0, atol=1e-4)
        model.zero_grad()
        out.square().sum().backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None), model.settings()
    (sure, none) = lively(Classifier(build_encoder(TOY), LABELS)).understand(waveforms, lengths)  # type: ignore[operator]
    assert sum(sure.values()) == pytest.approx(1.0) and sum(none.values()) == pytest.approx(1.0)
