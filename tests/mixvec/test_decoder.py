"""CTC and attention together: the search against every text there is, padded = alone, saved = reloaded."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from mixvec import EncoderOutput, HybridRecognizer, build_encoder
from tests.tiny_models import MEL, VOCABULARY, scattered, speech

TOY = replace(MEL, dim=16, heads=2, ffn_dim=16)


def hybrid(ctc_weight: float = 0.3, beam: int = 4, vocabulary: list[str] = VOCABULARY[:4]) -> HybridRecognizer:
    return scattered(HybridRecognizer(build_encoder(TOY), vocabulary, "weighted", 0.1, 2, ctc_weight, beam))


def heard(frames: int) -> EncoderOutput:
    layers = [3 * torch.randn(1, frames, TOY.dim) for _ in range(TOY.num_layers + 1)]
    return EncoderOutput(layers[-1], torch.tensor([frames]), layers)


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


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@torch.no_grad()
def test_a_wide_search_finds_the_best_text_of_all(share: float) -> None:
    for _ in range(5):
        model, encoded = hybrid(share, beam=500), heard(3)
        scores = text_scores(model, encoded)
        text, score = model.search(model._frames(encoded)[0], model.head(encoded)[0])
        assert score == pytest.approx(max(scores.values()), abs=1e-4)
        assert scores[tuple(text)] == pytest.approx(score, abs=1e-4)


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
