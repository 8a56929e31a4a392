"""N-grams against their definition and against KenLM; the beam over words against brute force."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from pathlib import Path

import pytest
import torch
from flashlight.lib.text.decoder.kenlm import KenLM
from flashlight.lib.text.dictionary import Dictionary

from finetune.lexicon import NgramBeam, spell_words, uncovered
from finetune.ngram import words_of, write_arpa
from finetune.units import Units
from mixvec import UserError
from mixvec.text import build_vocabulary

TEXTS = ["a cat sat", "a cat ran", "the cat sat", "the dog sat on the cat", "a a", "the dog"]
Arpa = dict[tuple[str, ...], tuple[float, float]]


def read(path: Path) -> Arpa:
    """An ARPA file as its definition has it: log10 probabilities and weights."""
    entries: Arpa = {}
    for line in path.read_text().splitlines():
        parts = line.split("\t")
        if len(parts) > 1:
            entries[tuple(parts[1].split())] = (float(parts[0]), float(parts[2]) if len(parts) > 2 else 0.0)
    return entries


def log10(arpa: Arpa, history: tuple[str, ...], word: str) -> float:
    """Katz's backing off, as ARPA files are read."""
    if (*history, word) in arpa:
        return arpa[(*history, word)][0]
    return arpa.get(history, (0.0, 0.0))[1] + log10(arpa, history[1:], word) if history else arpa[("<unk>",)][0]


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_probabilities_add_up_to_one_after_every_history(order: int, tmp_path: Path) -> None:
    draw = random.Random(order)
    for _ in range(10):
        texts = [" ".join(draw.choice("abcd") for _ in range(draw.randint(0, 6))) for _ in range(draw.randint(2, 30))]
        write_arpa(tmp_path / "x.arpa", [*texts, "a"], order)
        arpa = read(tmp_path / "x.arpa")
        words = [w for (w,) in (k for k in arpa if len(k) == 1) if w != "<s>"]
        for history in [(), *(k for k in arpa if len(k) < order and k[-1] != "</s>" and k != ("<unk>",))]:
            assert sum(10 ** log10(arpa, history, word) for word in words) == pytest.approx(1.0, abs=1e-5)


def test_a_bigram_by_hand(tmp_path: Path) -> None:
    """Kneser-Ney on two sentences: no order has n-grams that count once and twice, so that each discount is 0.5."""
    assert write_arpa(tmp_path / "x.arpa", ["a b", "a b"], 2) == 2
    arpa = read(tmp_path / "x.arpa")
    unigram = (1 - 0.5) / 3 + 0.5 * 3 / 3 / 4  # a, b and </s> were each seen behind one word; a quarter for <unk>
    assert 10 ** arpa[("a",)][0] == pytest.approx(unigram) and 10 ** arpa[("<unk>",)][0] == pytest.approx(0.125)
    assert 10 ** arpa[("<s>", "a")][0] == pytest.approx((2 - 0.5) / 2 + 0.5 / 2 * unigram)
    assert 10 ** arpa[("a",)][1] == pytest.approx(0.25)


def test_kenlm_reads_what_we_write(tmp_path: Path) -> None:
    write_arpa(tmp_path / "x.arpa", TEXTS, 3)
    arpa, words = read(tmp_path / "x.arpa"), words_of(tmp_path / "x.arpa")
    assert sorted(words) == sorted({word for text in TEXTS for word in text.split()})
    dictionary = Dictionary([*words, "<unk>"])
    model, draw = KenLM(str(tmp_path / "x.arpa"), dictionary), random.Random(0)
    for _ in range(300):
        sentence = [draw.choice(words) for _ in range(draw.randint(1, 6))]
        state, history, total, ours = model.start(False), ("<s>",), 0.0, 0.0
        for word in sentence:
            state, score = model.score(state, dictionary.get_index(word))
            total, ours = total + score, ours + log10(arpa, history[-2:], word)
            history = (*history, word)
        total += model.finish(state)[1]
        assert total == pytest.approx(ours + log10(arpa, history[-2:], "</s>"), abs=1e-4)


@pytest.mark.parametrize("seed", range(6))
def test_the_beam_finds_the_sentence_that_brute_force_finds(seed: int, tmp_path: Path) -> None:
    texts = ["a", "ab a", "b ab", "a a", "ab ab b"]
    write_arpa(tmp_path / "x.arpa", texts, 2)
    arpa, units = read(tmp_path / "x.arpa"), Units(build_vocabulary(texts))
    lexicon, _ = spell_words(words_of(tmp_path / "x.arpa"), units, "plain", "x")
    noise = torch.randn(5, 4, generator=torch.Generator().manual_seed(seed))
    log_probs, weight, bonus = (2 * noise).log_softmax(-1), 1.5, 0.4
    best: dict[str, float] = {}
    for path in itertools.product(range(4), repeat=5):
        text = "".join(units.vocabulary[entry] for entry, _ in itertools.groupby(path) if entry)
        words = text.replace("|", " ").split()
        if all(word in lexicon for word in words):
            history = ["<s>", *words]
            score = sum(log10(arpa, (a,), b) for a, b in itertools.pairwise([*history, "</s>"]))
            value = float(sum(log_probs[t, e] for t, e in enumerate(path))) + weight * score + bonus * len(words)
            best[" ".join(words)] = max(value, best.get(" ".join(words), -math.inf))
    ranked = sorted(best, key=best.__getitem__, reverse=True)
    assert best[ranked[0]] - best[ranked[1]] > 1e-3, "a tie says nothing"
    (found,) = NgramBeam(tmp_path / "x.arpa", lexicon, units.vocabulary).decode([log_probs], weight, bonus, 1000)
    assert " ".join("".join(units.vocabulary[e] for e in found).replace("|", " ").split()) == ranked[0]


def test_an_n_gram_in_another_case_is_spelled_and_one_in_another_alphabet_refused() -> None:
    units = Units(build_vocabulary(["the cat"]))
    lexicon, notes = spell_words(["CAT", "Привет", "the"], units, "plain", "lm.arpa")
    assert lexicon == {"CAT": units.encode("cat"), "the": units.encode("the")}
    assert notes[0].startswith("lm.arpa: 1 of 3 words are spelled as data.text=plain has it: CAT → cat")
    assert notes[1].startswith("WARNING lm.arpa: 1 of 3 words cannot be spelled and are left out, such as 'Привет'")
    with pytest.raises(UserError, match=r"lm\.arpa: none of its 1 words can be spelled .*'CAT' needs .*data\.text=raw"):
        spell_words(["CAT"], units, "raw", "lm.arpa")
    assert "1 of 3 words (33.3%) are not in it, such as dog" in uncovered(["the cat", "dog"], lexicon, units, "x")
    with pytest.raises(UserError, match=r"x: has none of the words of the texts \(hound\)"):
        uncovered(["hound"], lexicon, units, "x")


def test_files_that_are_no_n_gram(tmp_path: Path) -> None:
    (tmp_path / "bad.arpa").write_bytes(b"mmap lm http://kheafield.com/code format version 5\n\0\xff")
    with pytest.raises(UserError, match=r"bad\.arpa: "):
        words_of(tmp_path / "bad.arpa")
    (tmp_path / "words.arpa").write_text("\\data\\\n\\1-grams:\n-1\ta\nno number\tb\tc\n")
    with pytest.raises(UserError, match=r"words\.arpa: KenLM cannot read it"):
        NgramBeam(tmp_path / "words.arpa", {"a": [2]}, ["[PAD]", "|", "a"])
    with pytest.raises(UserError, match="no words in the text"):
        write_arpa(tmp_path / "x.arpa", ["", " "], 3)
    assert Counter(path.name for path in tmp_path.iterdir()) == Counter(["bad.arpa", "words.arpa"])
