"""Bigram language models as ARPA files: written from text, and read back by the format's definition."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise
from pathlib import Path

Arpa = dict[tuple[str, ...], tuple[float, float]]


def write_bigrams(path: Path, texts: list[str]) -> Path:
    """An ARPA file of relative frequencies, with a constant backoff weight."""
    sentences = [["<s>", *text.split(), "</s>"] for text in texts]
    words = Counter(word for sentence in sentences for word in sentence)
    pairs = Counter(pair for sentence in sentences for pair in pairwise(sentence))
    unigrams = [f"{math.log10(n / words.total()):.6f}\t{word}\t-0.3" for word, n in sorted(words.items())]
    bigrams = [f"{math.log10(n / words[a]):.6f}\t{a} {b}" for (a, b), n in sorted(pairs.items())]
    lines = ["\\data\\", f"ngram 1={len(unigrams) + 1}", f"ngram 2={len(bigrams)}", "", "\\1-grams:", "-3.0\t<unk>"]
    path.write_text("\n".join([*lines, *unigrams, "", "\\2-grams:", *bigrams, "", "\\end\\", ""]))
    return path


def read(path: Path) -> Arpa:
    """log10 probabilities and backoff weights."""
    entries: Arpa = {}
    for line in path.read_text().splitlines():
        parts = line.split("\t")
        if len(parts) > 1:
            entries[tuple(parts[1].split())] = (float(parts[0]), float(parts[2]) if len(parts) > 2 else 0.0)
    return entries


def log10(arpa: Arpa, history: tuple[str, ...], word: str) -> float:
    """Katz backoff, as ARPA files are read."""
    if (*history, word) in arpa:
        return arpa[(*history, word)][0]
    return arpa.get(history, (0.0, 0.0))[1] + log10(arpa, history[1:], word) if history else arpa[("<unk>",)][0]
