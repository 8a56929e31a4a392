"""Characters, BPE and unigram pieces: text to tokens and back, the same after resuming, and no other tokenizer."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from finetune.tokenizer import TokenizerKind, build_tokenizer, train_tokenizer
from mixvec import CtcRecognizer, UserError, build_encoder
from mixvec.text import load_tokenizer
from tests.tiny_models import MEL

TEXTS = ["the cat sat on the mat", "it's é a day", "the dog saw the other cat", "a mat is on the dog"]


@pytest.mark.parametrize("kind", ["characters", "bpe", "unigram"])
def test_text_to_tokens_and_back_without_sentencepiece(kind: TokenizerKind, tmp_path: Path) -> None:
    tokenizer = build_tokenizer(kind, 24, TEXTS, tmp_path)
    vocabulary, model = tokenizer.vocabulary, CtcRecognizer(build_encoder(MEL), tokenizer.vocabulary)
    assert vocabulary[0] == "[PAD]" and len(set(vocabulary)) == len(vocabulary)
    for text in [*TEXTS, "cat dog", "tea on day"]:
        tokens = tokenizer.encode(text)
        assert 0 not in tokens and model.spell(tokens) == text
        path = torch.tensor([[0, *[t for token in tokens for t in (token, token, 0)]]])
        one_hot = torch.nn.functional.one_hot(path, len(vocabulary)).float()
        assert model.decode(one_hot, torch.tensor([1000])) == [text]
    assert kind == "characters" or len(tokenizer.encode(TEXTS[0])) < len(TEXTS[0])
    assert model.spell(tokenizer.encode("xcat|zz")).replace(" ", "") == "cat"
    assert tokenizer.unknown(["xcat zz"]) == {"z": 2, "x": 1}


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_training_is_deterministic_and_names_the_possible_sizes(kind: TokenizerKind) -> None:
    assert train_tokenizer(kind, 22, TEXTS) == train_tokenizer(kind, 22, iter(TEXTS))
    for size, word in ((5000, "at most"), (4, "at least")):
        with pytest.raises(UserError, match=rf"asr\.vocabulary_size={size} .*{kind}.*{word} \d+") as raised:
            train_tokenizer(kind, size, TEXTS)
        bound = int(re.findall(r"\d+", str(raised.value).split(word)[1])[0])
        assert train_tokenizer(kind, bound, TEXTS)


def test_a_resumed_run_keeps_its_tokenizer_and_refuses_another(tmp_path: Path) -> None:
    first = build_tokenizer("bpe", 24, TEXTS, tmp_path)
    (tmp_path / "checkpoints/update_1").mkdir(parents=True)
    again = build_tokenizer("bpe", 24, ["other texts altogether"], tmp_path)
    assert again.vocabulary == first.vocabulary and again.encode("the cat") == first.encode("the cat")
    file = tmp_path / "tokenizer.model"
    for content, message in (
        (train_tokenizer("bpe", 23, TEXTS), "23 tokens.* 24"),
        (train_tokenizer("bpe", 24, [*TEXTS, "on on on on"]), "not the model's"),
        (b"garbage", "damaged"),
    ):
        file.write_bytes(content)
        with pytest.raises(UserError, match=rf"tokenizer\.model: .*{message}"):
            load_tokenizer(tmp_path, first.vocabulary)
    file.unlink()
    with pytest.raises(UserError, match=r"tokenizer\.model: missing"):
        build_tokenizer("bpe", 24, TEXTS, tmp_path)
