"""The beam search over words against brute force, and what words an n-gram must have."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch

from finetune.tokenizer import Tokenizer
from mixvec import UserError
from mixvec.text import build_vocabulary
from tests.arpa import log10, read, write_bigrams
from tools.lexicon import NgramBeam, tokenize_words, words_of


@pytest.mark.parametrize("seed", range(6))
def test_the_beam_finds_the_sentence_that_brute_force_finds(seed: int, tmp_path: Path) -> None:
    texts = ["a", "ab a", "b ab", "a a", "ab ab b"]
    file, tokenizer = write_bigrams(tmp_path / "x.arpa", texts), Tokenizer(build_vocabulary(texts))
    assert sorted(words_of(file)) == ["a", "ab", "b"]
    arpa, (lexicon, _) = read(file), tokenize_words(words_of(file), tokenizer, "basic", "x")
    noise = torch.randn(5, 4, generator=torch.Generator().manual_seed(seed))
    log_probs, weight, bonus = (2 * noise).log_softmax(-1), 1.5, 0.4
    best: dict[str, float] = {}
    for path in itertools.product(range(4), repeat=5):
        text = "".join(tokenizer.vocabulary[token] for token, _ in itertools.groupby(path) if token)
        words = text.replace("|", " ").split()
        if all(word in lexicon for word in words):
            score = sum(log10(arpa, (a,), b) for a, b in itertools.pairwise(["<s>", *words, "</s>"]))
            value = float(sum(log_probs[t, e] for t, e in enumerate(path))) + weight * score + bonus * len(words)
            best[" ".join(words)] = max(value, best.get(" ".join(words), -math.inf))
    ranked = sorted(best, key=best.__getitem__, reverse=True)
    assert best[ranked[0]] - best[ranked[1]] > 1e-3, "a tie would test nothing"
    (found,) = NgramBeam(file, lexicon, tokenizer.vocabulary).decode([log_probs], weight, bonus, 1000)
    assert " ".join("".join(tokenizer.vocabulary[e] for e in found).replace("|", " ").split()) == ranked[0]


def test_words_in_another_case_are_normalised_and_in_another_alphabet_refused() -> None:
    tokenizer = Tokenizer(build_vocabulary(["the cat"]))
    lexicon, notes = tokenize_words(["CAT", "Привет", "the"], tokenizer, "basic", "lm.arpa")
    assert lexicon == {"CAT": tokenizer.encode("cat"), "the": tokenizer.encode("the")}
    assert (
        len(notes) == 1 and notes[0].startswith("WARNING lm.arpa") and "1 of 3" in notes[0] and "'Привет'" in notes[0]
    )
    with pytest.raises(UserError, match=r"lm\.arpa: .*'CAT'.*text\.normalise=none"):
        tokenize_words(["CAT"], tokenizer, "none", "lm.arpa")


def test_files_that_are_no_n_gram(tmp_path: Path) -> None:
    (tmp_path / "bad.arpa").write_bytes(b"mmap lm http://kheafield.com/code format version 5\n\0\xff")
    (tmp_path / "empty.arpa").write_text("\\data\\\n")
    for name in ("bad", "empty", "missing"):
        with pytest.raises(UserError, match=rf"{name}\.arpa: "):
            words_of(tmp_path / f"{name}.arpa")
    (tmp_path / "words.arpa").write_text("\\data\\\n\\1-grams:\n-1\ta\nno number\tb\tc\n")
    with pytest.raises(UserError, match=r"words\.arpa: .*KenLM"):
        NgramBeam(tmp_path / "words.arpa", {"a": [2]}, ["[PAD]", "|", "a"])
