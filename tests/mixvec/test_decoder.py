"""CTC and attention together: the search against every text there is, padded = alone, saved = reloaded."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from mixvec import EncoderOutput, HybridRecognizer, SpeechEncoder, UserError, build_encoder
from mixvec.hub import load_model
from mixvec.model.decoder import Hypotheses
from mixvec.model.output import EncoderOutput as Output
from tests.tiny_models import MEL, VOCABULARY, scattered, speech

TOY = replace(MEL, dim=16, heads=2, ffn_dim=16)


def hybrid(ctc_weight: float = 0.3, beam: int = 4, vocabulary: list[str] = VOCABULARY[:4]) -> HybridRecognizer:
    return scattered(HybridRecognizer(build_encoder(TOY), vocabulary, "weighted", 0.1, 2, ctc_weight, beam))


def heard(frames: int) -> EncoderOutput:
    layers = [3 * torch.randn(1, frames, TOY.dim) for _ in range(TOY.num_layers + 1)]
    return Output(layers[-1], torch.tensor([frames]), layers)


def text_scores(model: HybridRecognizer, encoded: EncoderOutput) -> dict[tuple[int, ...], float]:
    """λ log p_ctc + (1 − λ) log p_att of every text that has an alignment and may end, as they are defined."""
    frames, share = int(encoded.lengths), model.ctc_weight
    log_probs, entries = model.head(encoded).transpose(0, 1), range(1, len(model.vocabulary))
    texts = [text for length in range(frames + 2) for text in itertools.product(entries, repeat=length)]
    ctc, begun, whole = {}, {}, {}
    for text in texts:
        target, length = torch.tensor([list(text)], dtype=torch.int64).reshape(1, len(text)), torch.tensor([len(text)])
        ctc[text] = math.exp(-float(F.ctc_loss(log_probs, target, encoded.lengths, length, reduction="sum")))
        follow = model.attend(encoded, target)[0].log_softmax(-1)
        begun[text] = sum(float(follow[u, entry]) for u, entry in enumerate(text))
        whole[text] = begun[text] + float(follow[len(text), 0])
    prefix = {text: sum(ctc[other] for other in texts if other[: len(text)] == text) for text in texts}

    def joint(attention: float, probability: float) -> float:
        if share and not probability:
            return -math.inf
        return (share * math.log(probability) if share else 0.0) + (1 - share) * attention

    found = {text: joint(whole[text], ctc[text]) for text in texts if len(text) <= frames and (not share or ctc[text])}
    ending = set()
    for text in found:
        here, longer = joint(begun[text], prefix[text]), [(*text, entry) for entry in entries]
        follows = max(joint(begun[other], prefix[other]) - here for other in longer)
        if share == 1 or found[text] - here >= 1.5 * follows:
            ending.add(text)
    return {text: score for text, score in found.items() if text in ending} or found


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@torch.no_grad()
def test_a_wide_search_finds_the_best_text_of_all(share: float) -> None:
    for _ in range(12):
        model, encoded = hybrid(share, beam=500), heard(3)
        scores = text_scores(model, encoded)
        text, score = model.search(model._frames(encoded)[0], model.head(encoded)[0])
        assert score == pytest.approx(max(scores.values()), abs=1e-4)
        assert scores[tuple(text)] == pytest.approx(score, abs=1e-4)


@torch.no_grad()
def test_a_greedy_search_says_what_it_scores() -> None:
    model, encoded = hybrid(beam=1), heard(4)
    text, score = model.search(model._frames(encoded)[0], model.head(encoded)[0])
    assert text_scores(model, encoded)[tuple(text)] == pytest.approx(score, abs=1e-4)


@pytest.mark.parametrize("share", [0.0, 0.3])
@torch.no_grad()
def test_a_text_does_not_end_before_it_is_likely_to(share: float) -> None:
    """Twelve entries, each of a third and followed by an end of e^-5, lose against a text that ends at once; CTC's
    frames are blanks."""
    model, frames = hybrid(share, beam=2), 40
    places = []

    def step(open_: Hypotheses, keys: object) -> tuple[torch.Tensor, list[object]]:
        places.append(len(open_.entries[0]))
        logits = torch.tensor([0.0, 5, 5, 5]) if places[-1] < 12 else torch.tensor([9.0, 0, 0, 0])
        return logits.log_softmax(-1).expand(len(open_.entries), -1), []

    model._step = step  # type: ignore[method-assign, assignment]
    blanks = torch.tensor([2.0, 1, 1, 1]).log_softmax(-1).expand(frames, -1)
    text, score = model.search(torch.zeros(frames, TOY.dim), blanks)
    assert len(text) == 12 and score > -math.inf and max(places) < frames


@torch.no_grad()
def test_padded_equals_alone() -> None:
    model = hybrid(vocabulary=VOCABULARY)
    waveforms, lengths = speech(3)
    encoded = model.encoder(waveforms, lengths)
    texts = torch.tensor([[2, 3, 1, 4], [3, 2, 0, 0], [5, 0, 0, 0]])
    logits = model.attend(encoded, texts)
    assert logits.shape == (3, 5, len(VOCABULARY)) and logits.dtype == torch.float32
    for row, samples in enumerate(lengths.tolist()):
        alone = waveforms[row : row + 1, :samples]
        count = int((texts[row] > 0).sum())
        own = model.attend(model.encoder(alone), texts[row : row + 1, :count])[0]
        torch.testing.assert_close(logits[row, : count + 1], own, rtol=0, atol=1e-5)
        assert model.transcribe(waveforms, lengths)[row] == model.transcribe(alone)[0]


def test_saved_equals_reloaded(tmp_path: Path) -> None:
    model = hybrid(0.4, 2, VOCABULARY)
    model.save_pretrained(tmp_path / "hub")
    again = load_model(tmp_path / "hub")
    assert isinstance(again, HybridRecognizer) and again.settings() == model.settings()
    assert again.settings() == {"layers": "weighted", "dropout": 0.1, "decoder_layers": 2, "ctc_weight": 0.4, "beam": 2}
    waveforms, lengths = speech()
    assert again.transcribe(waveforms, lengths) == model.transcribe(waveforms, lengths)
    texts = torch.tensor([[2, 3], [4, 0]])
    assert torch.equal(*(m.attend(m.encoder(waveforms, lengths), texts) for m in (model, again)))
    card = (tmp_path / "hub/README.md").read_text()
    assert "HybridRecognizer.from_pretrained" in card and "mixvec transcribe" in card
    assert SpeechEncoder.from_pretrained(tmp_path / "hub").config == TOY
    with pytest.raises(UserError, match="a HybridRecognizer, not a"):
        from mixvec import CtcRecognizer

        CtcRecognizer.from_pretrained(tmp_path / "hub")


def test_it_learns_a_sentence_in_both_ways() -> None:
    """Attention by itself reads the texts back, and every parameter of the decoder learns."""
    model = HybridRecognizer(build_encoder(replace(TOY, dropout=0.0)), VOCABULARY, "last", 0.0, 2, 0.3)
    waveforms, lengths = speech()
    texts, ends = torch.tensor([[3, 4, 1, 3], [5, 3, 0, 0]]), torch.tensor([4, 2])
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(45):
        encoded = model.encoder(waveforms, lengths)
        ctc = F.ctc_loss(model.head(encoded).transpose(0, 1), texts, encoded.lengths, ends, reduction="mean")
        wanted = torch.tensor([[3, 4, 1, 3, 0], [5, 3, 0, -100, -100]])
        loss = ctc + F.cross_entropy(model.attend(encoded, texts).transpose(1, 2), wanted)
        optimizer.zero_grad()
        loss.backward()
        if not optimizer.state:
            assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.decoder.parameters() if p.dim() > 1)
        optimizer.step()
    model.eval()
    for model.ctc_weight in (0.0, 0.3, 1.0):
        assert model.transcribe(waveforms, lengths) == ["ab a", "éa"]
