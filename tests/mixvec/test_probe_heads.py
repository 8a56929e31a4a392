"""Probing heads and speaker embeddings: padded = alone, published like any other, pooled as the papers have it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from mixvec import CtcRecognizer, ProbeClassifier, SlotTagger, SpeakerEmbedder, build_encoder
from mixvec.hub import load_model
from mixvec.model.pooling import AttentiveStatistics, MeanPooling
from mixvec.model.trunks import WIDTHS, TrunkChoice
from mixvec.model.vocabulary import MalformedError
from tests.tiny_models import LABELS, MEL, VOCABULARY, scattered, speech, write_wav

KINDS = ["own", *WIDTHS]


def heads(kind: str) -> list[nn.Module]:
    width = 64 if kind == "ecapa" else 16
    """ECAPA's norms are over an eighth of the channels: over two of them rounding grows a thousandfold."""
    made = [CtcRecognizer(build_encoder(MEL), VOCABULARY, "weighted", 0.1, kind, width),  # type: ignore[arg-type]
            SlotTagger(build_encoder(MEL), VOCABULARY, "last", 0.1, kind, width),  # type: ignore[arg-type]
            ProbeClassifier(build_encoder(MEL), LABELS, "last", 0.1, kind, width),  # type: ignore[arg-type]
            SpeakerEmbedder(build_encoder(MEL), LABELS, "weighted", 0.1, kind, width, 12)]  # type: ignore[arg-type]  # fmt: skip
    return [scattered(model) for model in made]


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_padded_equals_alone_and_a_hub_folder_holds_it_all(kind: str, tmp_path: Path) -> None:
    waveforms, lengths = speech(3)
    for number, model in enumerate(heads(kind)):
        model.save_pretrained(tmp_path / str(number))  # type: ignore[operator]
        again = load_model(tmp_path / str(number))
        made = model(waveforms, lengths)
        for row, samples in enumerate(lengths.tolist()):
            if isinstance(model, (CtcRecognizer, SlotTagger)):
                (whole, frames), (alone, _) = made, model(waveforms[row : row + 1, :samples])
                torch.testing.assert_close(whole[row, : frames[row]], alone[0], rtol=0, atol=1e-3)
            else:
                torch.testing.assert_close(made[row], model(waveforms[row : row + 1, :samples])[0], rtol=0, atol=1e-4)
        assert type(again) is type(model)
        first = made[0] if isinstance(model, (CtcRecognizer, SlotTagger)) else made
        other = again(waveforms, lengths)
        assert torch.equal(first, other[0] if isinstance(model, (CtcRecognizer, SlotTagger)) else other)


def test_the_papers_widths() -> None:
    count = {kind: sum(p.numel() for p in TrunkChoice(768, 12, "weighted", kind, None).parameters()) for kind in WIDTHS}  # type: ignore[arg-type]
    assert count["linear"] == 13 + 769 * 256
    each_way = 4 * 1024 * (1024 + 1024 + 2), 4 * 1024 * (2048 + 1024 + 2)
    assert count["lstm"] == 13 + 769 * 1024 + 2 * sum(each_way)
    assert (
        TrunkChoice(768, 12, "last", "xvector", None).width == TrunkChoice(768, 12, "last", "ecapa", None).width == 1536
    )


def test_a_linear_probe_is_a_projection_the_mean_and_a_linear_layer() -> None:
    model = ProbeClassifier(build_encoder(MEL), LABELS, "last", 0.0, "linear", 16).eval()
    encoded = model.encoder(*speech())
    frames = [encoded.frames[row, :count].mean(0) for row, count in enumerate(encoded.lengths.tolist())]
    trunk = model.choice.trunk
    expected = model.output(trunk.project(torch.stack(frames)))  # type: ignore[union-attr,operator]
    torch.testing.assert_close(model.head(encoded), expected)


def test_pooling() -> None:
    x, lengths = torch.randn(2, 6, 8), torch.tensor([6, 4])
    torch.testing.assert_close(MeanPooling(8)(x, lengths)[1], x[1, :4].mean(0))
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

    model = heads("own")[-1]
    assert isinstance(model, SpeakerEmbedder)
    torch.testing.assert_close(model.embed(*speech()).norm(dim=1), torch.ones(2))
    model.save_pretrained(tmp_path / "hub")
    mixvec = in_process(cli.main, monkeypatch, capsys)
    done = mixvec("embed", "--model", tmp_path / "hub", write_wav(tmp_path / "a.wav"))
    assert done.code == 0 and len(numbers := [float(x) for x in done.out.split()]) == 12
    assert sum(x * x for x in numbers) == pytest.approx(1.0, abs=1e-3)
    assert "a SpeakerEmbedder, and understand needs" in mixvec("understand", "--model", tmp_path / "hub", "a.wav").err


def test_what_no_head_is() -> None:
    with pytest.raises(ValueError, match=r"head\.kind=mlp is unknown"):
        ProbeClassifier(build_encoder(MEL), LABELS, kind="mlp")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"head\.width=12 must be a multiple of 8"):
        ProbeClassifier(build_encoder(MEL), LABELS, width=12)
    with pytest.raises(MalformedError, match="not a list of speakers"):
        SpeakerEmbedder.restored(build_encoder(MEL), {"a": 1}, {})
