"""Characters, BPE and unigram pieces: there and back, the same after resuming, and no other tokenizer's."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from finetune.asr_config import AsrConfig
from finetune.units import load_units, open_units, train_tokenizer
from mixvec import CtcRecognizer, HybridRecognizer, UserError, build_encoder
from tests.runs import SMALLEST, finetune, identical, weights
from tests.tiny_models import MEL

TEXTS = ["the cat sat on the mat", "it's é a day", "the dog saw the other cat", "a mat is on the dog"]


@pytest.mark.parametrize("kind", ["characters", "bpe", "unigram"])
def test_text_to_entries_and_back_without_sentencepiece(kind: str, tmp_path: Path) -> None:
    units = open_units(AsrConfig(units=kind, vocabulary_size=24), TEXTS, tmp_path)  # type: ignore[arg-type]
    model = CtcRecognizer(build_encoder(MEL), units.vocabulary)
    assert units.vocabulary[0] == "[PAD]" and len(set(units.vocabulary)) == len(units.vocabulary)
    for text in [*TEXTS, "cat dog", "tea on day"]:
        entries = units.encode(text)
        assert 0 not in entries and model.spell(entries) == text
        path = torch.tensor([[0, *[e for entry in entries for e in (entry, entry, 0)]]])
        assert model.decode(torch.nn.functional.one_hot(path, len(units.vocabulary)).float(), torch.tensor([1000])) == [
            text
        ]
    assert kind == "characters" or len(units.encode(TEXTS[0])) < len(TEXTS[0])
    assert model.spell(units.encode("xcat|zz")).replace(" ", "") == "cat"
    assert units.unknown(["xcat zz"]) == {"z": 2, "x": 1}


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_the_same_texts_make_the_same_bytes_and_the_size_asked_for(kind: str) -> None:
    config = AsrConfig(units=kind, vocabulary_size=22)  # type: ignore[arg-type]
    assert train_tokenizer(config, TEXTS) == train_tokenizer(config, iter(TEXTS))
    for size, word in ((5000, "at most"), (4, "at least")):
        with pytest.raises(
            UserError, match=rf"asr\.vocabulary_size={size} with asr\.units={kind}: set it to {word}"
        ) as told:
            train_tokenizer(AsrConfig(units=kind, vocabulary_size=size), TEXTS)  # type: ignore[arg-type]
        bound = int(re.findall(r"\d+", str(told.value).split(word)[1])[0])
        assert train_tokenizer(AsrConfig(units=kind, vocabulary_size=bound), TEXTS)  # type: ignore[arg-type]


def test_a_run_that_goes_on_keeps_its_tokenizer_and_takes_no_other(tmp_path: Path) -> None:
    config = AsrConfig(units="bpe", vocabulary_size=24)
    first = open_units(config, TEXTS, tmp_path)
    (tmp_path / "checkpoints/update_1").mkdir(parents=True)
    again = open_units(config, ["other texts altogether"], tmp_path)
    assert again.vocabulary == first.vocabulary and again.encode("the cat") == first.encode("the cat")
    model = (tmp_path / "tokenizer.model").read_bytes()
    for content, message in (
        (train_tokenizer(AsrConfig(units="bpe", vocabulary_size=23), TEXTS), r"does not fit .* \(23 pieces, not 24\)"),
        (
            train_tokenizer(config, [*TEXTS, "on on on on"]),
            r"does not fit the checkpoint \('.*' stands where '.*' should",
        ),
        (b"garbage", "damaged, or no sentencepiece model"),
    ):
        (tmp_path / "tokenizer.model").write_bytes(content)
        with pytest.raises(UserError, match=rf"tokenizer\.model: .*{message}"):
            open_units(config, TEXTS, tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(model)
    with pytest.raises(UserError, match="does not fit the checkpoint"):
        load_units(tmp_path, ["[PAD]", "a"])
    (tmp_path / "tokenizer.model").unlink()
    with pytest.raises(UserError, match=r"tokenizer\.model: missing, and the checkpoint"):
        open_units(config, TEXTS, tmp_path)


def test_a_run_with_pieces_and_attention_resumes_to_the_same_bits(corpus: Path, tmp_path: Path) -> None:
    keys = ("size=tiny", *SMALLEST, "asr.units=bpe", "asr.vocabulary_size=40", "run.eval_every=2", "run.updates=4",
            "asr.decoder=attention", "asr.beam=2", "data.augment.speed=[0.9,1.1]")  # fmt: skip
    assert finetune("asr", corpus, tmp_path / "whole", *keys) == 0
    assert finetune("asr", corpus, tmp_path / "parts", *keys, "run.save_every=2", "run.max_hours=1e-9") == 75
    assert finetune("asr", corpus, tmp_path / "parts", *keys, "run.save_every=2") == 0
    assert identical(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    stored = [json.loads((tmp_path / name).read_text()) for name in ("parts/hub/vocab.json", "parts/vocab.json")]
    assert stored[0] == stored[1] and len(stored[0]) == 40
    assert isinstance(HybridRecognizer.from_pretrained(tmp_path / "whole"), HybridRecognizer)
    assert any(entry.startswith("▁") and len(entry) > 2 for entry in stored[0])
