"""SLU-F1 and the other scores of slots, against the rules written out a second time and against known numbers."""

from __future__ import annotations

import random

import jiwer
import pytest
from rapidfuzz.distance import Levenshtein

from finetune.tasks.slots import Pair, count_near, f1, slot_scores, slu_counts, word_distance

WORDS = "six seven eight am pm the dance class of mona on friday o'clock".split()
TYPES = ["date", "time", "event_name", "person"]


def random_pairs(seed: int, utterances: int) -> list[Pair]:
    """Gold slots, and predictions that keep, drop, double, misspell, retype or invent them."""
    draw, pairs = random.Random(seed), []
    for _ in range(utterances):
        slots = [(draw.choice(TYPES), " ".join(draw.choices(WORDS, k=draw.randint(1, 4)))) for _ in range(6)]
        gold, predicted = slots[: draw.choice([0, 0, 1, 2, 3, 5])], slots[5 : draw.choice([5, 5, 6])]
        for kind, said in gold:
            place, other = draw.randrange(len(said)), draw.choice(TYPES)
            misspelt = " ".join((said[:place] + draw.choice(["", "x", " "]) + said[place + 1 :]).split())
            changed = [
                [(kind, said)],
                [],
                [(kind, said)] * 2,
                [(kind, misspelt)],
                [(other, said)],
                [(kind, said[3:].strip())],
            ]
            predicted += draw.choice(changed)
        draw.shuffle(predicted)
        pairs.append((gold, predicted))
    return pairs


def edits(a: list[str], b: list[str]) -> int:
    """Levenshtein's table, filled in full."""
    table = [[i + j if 0 in (i, j) else 0 for j in range(len(b) + 1)] for i in range(len(a) + 1)]
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            swap = table[i - 1][j - 1] + (a[i - 1] != b[j - 1])
            table[i][j] = min(table[i - 1][j] + 1, table[i][j - 1] + 1, swap)
    return table[-1][-1]


def plain_distance_counts(pairs: list[Pair], unit: str) -> list[float]:
    """The paper's rules in loops: overall TP, FP, FN."""
    hit = false = missed = 0.0
    for gold, predicted in pairs:
        left = list(gold)
        for kind, value in predicted:
            nearest, lowest = None, float("inf")
            for slot in left:
                cut, over = (str.split, slot[1].split()) if unit == "word" else (list, max(slot[1], value, key=len))
                distance = edits(cut(slot[1]), cut(value)) / len(over)
                if slot[0] == kind and distance < lowest:
                    nearest, lowest = slot, distance
            if nearest is None:
                false += 1
            else:
                hit, false, missed = hit + 1, false + lowest, missed + lowest
                left.remove(nearest)
        missed += len(left)
    return [hit, false, missed]


def harmonic(hit: float, false: float, missed: float) -> float:
    precision, recall = (hit / (hit + wrong) if hit else 0.0 for wrong in (false, missed))
    return 2 * precision * recall / (precision + recall) if hit else 0.0


@pytest.mark.parametrize("seed", range(12))
def test_slu_f1_equals_the_rules_on_thousands_of_random_utterances(seed: int) -> None:
    pairs = random_pairs(seed, utterances=1 + 10 * seed)
    words, characters = plain_distance_counts(pairs, "word"), plain_distance_counts(pairs, "char")
    both = [a + b for a, b in zip(words, characters, strict=True)]
    scores = slot_scores(pairs)
    assert scores["word_f1"] == pytest.approx(harmonic(*words))
    assert scores["char_f1"] == pytest.approx(harmonic(*characters))
    assert scores["slu_f1"] == pytest.approx(harmonic(*both))


@pytest.mark.parametrize("seed", range(6))
def test_the_other_scores_equal_their_definitions(seed: int) -> None:
    """Exact slots by crossing off; SUPERB's two by dictionaries of values, with jiwer for the CER."""
    pairs = random_pairs(100 + seed, utterances=40)
    hit = false = missed = 0
    by_utterance, said, heard = [], [], []
    for gold, predicted in pairs:
        left = list(gold)
        for slot in predicted:
            hit, false = (hit + 1, false) if slot in left else (hit, false + 1)
            left = [own for number, own in enumerate(left) if own != slot or own in left[:number]]
        missed += len(left)
        wanted, given = {kind for kind, _ in gold}, {kind for kind, _ in predicted}
        common = len(wanted & given)
        by_utterance.append(harmonic(common, len(given) - common, len(wanted) - common) if gold + predicted else 1.0)
        for kind, value in gold:
            values = [other for own, other in predicted if own == kind]
            said.append(value)
            heard.append(min(values or [""], key=lambda other: edits(list(value), list(other))))
    scores = slot_scores(pairs)
    assert scores["slot_f1"] == pytest.approx(harmonic(hit, false, missed))
    assert scores["slot_type_f1"] == pytest.approx(sum(by_utterance) / len(by_utterance))
    assert scores["value_cer"] == pytest.approx(jiwer.cer(said, heard))


OFFICIAL_WORDS = [2.0, 5.5, 5.5]
OFFICIAL_CHARACTERS = [2.0, 2.75, 2.75]
OFFICIAL_SLU_F1 = 0.32653061224489793


def test_numbers_of_the_official_scorer() -> None:
    """What the scorer printed for these (its ``--errors``): TP, FP and FN of words, then of characters."""
    pairs: list[Pair] = [
        ([("time", "ten am"), ("date", "tomorrow")], [("time", "ten pm"), ("time", "ten am")]),
        ([("person", "pawel")], [("person", "pa well done")]),
        ([], [("date", "friday")]),
        ([("time", "six")], []),
    ]
    words, characters = count_near(pairs, word_distance), count_near(pairs, Levenshtein.normalized_distance)
    assert [sum(column) for column in zip(*words.values(), strict=True)] == OFFICIAL_WORDS
    assert [sum(column) for column in zip(*characters.values(), strict=True)] == pytest.approx(OFFICIAL_CHARACTERS)
    assert f1(slu_counts(pairs)) == pytest.approx(OFFICIAL_SLU_F1)


def test_no_slots_at_all_is_zero_as_in_the_official_scorer() -> None:
    scores = slot_scores([([], [])])
    assert scores["slu_f1"] == scores["slot_f1"] == scores["value_cer"] == 0.0
    assert scores["slot_type_f1"] == 1.0 and f1({}) == 0.0
    assert slot_scores([([("date", "friday")], [])])["value_cer"] == 1.0
