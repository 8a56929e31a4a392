"""Word n-grams as ARPA files: estimated from text, and their words read back. KenLM scores with them.

Interpolated Kneser-Ney with one absolute discount per order (Kneser and Ney 1995; Chen and Goodman 1999, section 2.7):

    P_n(w | h) = max(c(hw) − D_n, 0) / c(h) + γ(h) P_{n−1}(w | h'),   γ(h) = D_n · |{w: c(hw) > 0}| / c(h)

c counts n-grams in the highest order, and those that begin a sentence; below, the words seen before the n-gram. P_0 is
uniform over the words, </s> and <unk>. D_n = n1 / (n1 + 2 n2), of n-grams that count once and twice.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from mixvec import UserError
from mixvec.atomic import write_whole

BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
Ngram = tuple[str, ...]
NEVER = -99.0
"""ARPA's log10 of a probability of zero."""


def write_arpa(path: Path, texts: Iterable[str], order: int) -> int:
    """Estimate n-grams of up to ``order`` words from texts of words with spaces between; how many words there are.

    KenLM reads no unigrams by themselves: for it the order is 2 or more.

    Raises:
        UserError: there is no word in the texts, or the order is below 1.
    """
    if order < 1:
        raise UserError(f"an n-gram of order {order}: choose 1 or more")
    counts = _count(texts, order)
    if len(counts[0]) < 2:  # </s> alone
        raise UserError(f"{path}: no words in the text to estimate an n-gram from")
    lines = ["\\data\\"]
    entries = list(_estimate(counts))
    lines += [f"ngram {n}={len(own)}" for n, own in enumerate(entries, 1)]
    for n, own in enumerate(entries, 1):
        lines += ["", f"\\{n}-grams:"]
        for ngram, (probability, weight) in sorted(own.items()):
            tail = "" if weight is None else f"\t{math.log10(weight):.7f}"
            value = math.log10(probability) if probability else NEVER
            lines.append(f"{value:.7f}\t{' '.join(ngram)}{tail}")
    write_whole(path, "\n".join([*lines, "", "\\end\\", ""]))
    return len(counts[0]) - 1


def words_of(path: Path) -> list[str]:
    """The words of an ARPA file, in its order, but for <s>, </s> and <unk>.

    Raises:
        UserError: it is not one.
    """
    words, inside = [], False
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                if line.startswith("\\"):
                    if inside:
                        break
                    inside = line.strip() == "\\1-grams:"
                elif inside and line.strip():
                    words.append(line.rstrip("\n").split("\t")[1])
    except (OSError, UnicodeDecodeError, IndexError) as error:
        raise UserError(f"{path}: not readable as an ARPA file ({error})") from error
    found = [word for word in words if word.lower() not in (BEGIN, END, UNKNOWN)]
    if not found:
        raise UserError(
            f"{path}: no words of an n-gram in it; give the ARPA file, not compressed and not KenLM's binary"
        )
    return found


def _count(texts: Iterable[str], order: int) -> list[Counter[Ngram]]:
    """What each order's estimate rests on, from 1 up; without what ends in <s>."""
    whole: Counter[Ngram] = Counter()
    seen: list[set[Ngram]] = [set() for _ in range(order)]
    first: Counter[Ngram] = Counter()
    for text in texts:
        words = [BEGIN, *text.split(), END]
        if len(words) == 2:
            continue
        for end in range(2, len(words) + 1):
            for n in range(1, min(order, end) + 1):
                ngram = tuple(words[end - n : end])
                if n == order:
                    whole[ngram] += 1
                elif n == end:
                    first[ngram] += 1
                if n > 1:
                    seen[n - 1].add(ngram)
    counts = []
    for n in range(1, order):
        lower: Counter[Ngram] = Counter(ngram[1:] for ngram in seen[n])
        counts.append(lower + Counter({ngram: c for ngram, c in first.items() if len(ngram) == n}))
    return [*counts, whole]


def _estimate(counts: list[Counter[Ngram]]) -> Iterator[dict[Ngram, tuple[float, float | None]]]:
    """Each order's n-grams with their probability and the weight of the order below where they are the history."""
    discounts = [_discount(own) for own in counts]
    histories = [_histories(own) for own in counts]
    below: dict[Ngram, float] = {}
    for n, own in enumerate(counts, 1):
        discount, totals = discounts[n - 1], histories[n - 1]
        probabilities: dict[Ngram, float] = {}
        if n == 1:
            total, kinds = totals[()]
            uniform = discount * kinds / total / (kinds + 1)
            probabilities = {(UNKNOWN,): uniform, (BEGIN,): 0.0}
        for ngram, count in own.items():
            total, kinds = totals[ngram[:-1]]
            lower = uniform if n == 1 else discount * kinds / total * below[ngram[1:]]
            probabilities[ngram] = (count - discount) / total + lower
        above = histories[n] if n < len(counts) else {}
        yield {
            ngram: (p, discounts[n] * above[ngram][1] / above[ngram][0] if ngram in above else None)
            for ngram, p in probabilities.items()
        }
        below = probabilities


def _discount(counts: Counter[Ngram]) -> float:
    of = Counter(counts.values())
    return of[1] / (of[1] + 2 * of[2]) if of[1] and of[2] else 0.5


def _histories(counts: Counter[Ngram]) -> dict[Ngram, tuple[int, int]]:
    """Of each history, the sum of its n-grams' counts, and how many n-grams it has."""
    totals: dict[Ngram, tuple[int, int]] = {}
    for ngram, count in counts.items():
        total, kinds = totals.get(ngram[:-1], (0, 0))
        totals[ngram[:-1]] = total + count, kinds + 1
    return totals
