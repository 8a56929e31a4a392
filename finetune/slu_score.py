"""Scores of slots: SLURP's SLU-F1 (arXiv 2011.13205, section 4.2) and SUPERB's slot type F1 and value CER (2105.01051).

A slot is a type and a value. SLURP's scores count true positives, false positives and false negatives over all
utterances. For the distance scores, a predicted slot takes the nearest gold slot of its type that is still free: that
is one true positive, and the distance between the two values is added to the false positives *and* to the false
negatives. A predicted slot without such a gold slot is one false positive, a gold slot that is left one false negative.
SLU-F1 is the F1 of the word counts and the character counts added up.

Edge cases, as in the official scorer:

- The predicted slots choose in their order, each the best for itself; of two gold slots as near, the first.
- The distance in words is a word error rate, so it may exceed 1; that in characters is divided by the longer value.
- Values are compared unchanged, including case; the official gold values are in lower case.
- An utterance without slots on either side has no counts, and without any counts F1 is 0.
- Unlike it, an utterance without a prediction is scored too, as one without slots.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from rapidfuzz.distance import Levenshtein

from .scoring import error_rates

Slot = tuple[str, str]
"""Type, value."""
Pair = tuple[list[Slot], list[Slot]]
"""Gold slots and predicted slots of an utterance."""
Counts = dict[str, np.ndarray]
"""True positives, false positives and false negatives (3,) by type of slot."""


def slot_scores(pairs: list[Pair]) -> dict[str, float]:
    """``slu_f1``, its parts ``word_f1`` and ``char_f1``, ``slot_f1`` (type and value equal), ``slot_type_f1`` and
    ``value_cer``."""
    return {
        "slu_f1": f1(slu_counts(pairs)),
        "word_f1": f1(count_near(pairs, word_distance)),
        "char_f1": f1(count_near(pairs, character_distance)),
        "slot_f1": f1(count_exact(pairs)),
        "slot_type_f1": type_f1(pairs),
        "value_cer": value_cer(pairs),
    }


def f1(counts: Counts) -> float:
    """F1 over all types together (SLURP's micro average)."""
    hit, false, missed = np.sum([*counts.values(), np.zeros(3)], axis=0).tolist()
    return 2 * hit / (2 * hit + false + missed) if hit else 0.0


def slu_counts(pairs: list[Pair]) -> Counts:
    """The counts of words and of characters added up, of which SLU-F1 is the F1."""
    words, characters = count_near(pairs, word_distance), count_near(pairs, character_distance)
    return {kind: row + characters[kind] for kind, row in words.items()}


def count_near(pairs: Iterable[Pair], distance: Callable[[str, str], float]) -> Counts:
    """Counts in which a slot of the right type is a hit that costs the distance of its value."""
    counts: Counts = defaultdict(lambda: np.zeros(3))
    for gold, predicted in pairs:
        free = list(gold)
        for kind, value in predicted:
            near = [(distance(slot[1], value), i) for i, slot in enumerate(free) if slot[0] == kind]
            cost, nearest = min(near, default=(None, 0))
            if cost is None:
                counts[kind] += (0, 1, 0)
            else:
                counts[kind] += (1, cost, cost)
                del free[nearest]
        for kind, _ in free:
            counts[kind] += (0, 0, 1)
    return counts


def count_exact(pairs: Iterable[Pair]) -> Counts:
    """Counts in which a slot is a hit where both type and value are right."""
    counts: Counts = defaultdict(lambda: np.zeros(3))
    for gold, predicted in pairs:
        wanted, given = Counter(gold), Counter(predicted)
        for column, slots in enumerate((wanted & given, given - wanted, wanted - given)):
            for (kind, _), number in slots.items():
                counts[kind][column] += number
    return counts


def word_distance(gold: str, predicted: str) -> float:
    """The word error rate of one value, in [0, ∞). A gold value without words, which SLURP never has, counts as one."""
    words = gold.split()
    return Levenshtein.distance(words, predicted.split()) / max(1, len(words))


def character_distance(gold: str, predicted: str) -> float:
    """Levenshtein's distance over the longer length, in [0, 1]."""
    return Levenshtein.normalized_distance(gold, predicted)


def type_f1(pairs: list[Pair]) -> float:
    """SUPERB's slot type F1: the mean over utterances of F1 over the set of types, 1 where both sets are empty."""
    total = 0.0
    for gold, predicted in pairs:
        wanted, given = {kind for kind, _ in gold}, {kind for kind, _ in predicted}
        total += 2 * len(wanted & given) / (len(wanted) + len(given)) if wanted or given else 1.0
    return total / max(1, len(pairs))


def value_cer(pairs: Iterable[Pair]) -> float:
    """SUPERB's value CER: each gold value against the nearest predicted one of its type, or against an empty text.

    Errors over the characters of all gold values; a predicted slot beyond the gold ones costs nothing here, and one
    may serve several gold slots.
    """
    errors, length = 0, 0
    for gold, predicted in pairs:
        for kind, value in gold:
            given = [other for name, other in predicted if name == kind] or [""]
            errors += min(Levenshtein.distance(value, other) for other in given)
            length += len(value)
    return errors / max(1, length)


def pairs_of(references: list[dict[str, Any]], predictions: list[dict[str, Any]]) -> list[Pair]:
    """The slots of references and predictions, which have the form of ``mixvec.model.vocabulary.read_tags``."""
    listed = [[[(slot["type"], slot["value"]) for slot in row["slots"]] for row in side]
              for side in (references, predictions)]  # fmt: skip
    return list(zip(*listed, strict=True))


def understanding_scores(references: list[dict[str, Any]], predictions: list[dict[str, Any]]) -> dict[str, float]:
    """``slot_scores``; ``exact_match``, the share of utterances with the intent and the set of slots right; where
    references have an intent ``intent_accuracy``, where they have a text ``wer`` and ``cer``."""
    pairs = pairs_of(references, predictions)
    both = list(zip(references, predictions, strict=True))
    exact = [reference["intent"] == prediction["intent"] and sorted(gold) == sorted(predicted)
             for (reference, prediction), (gold, predicted) in zip(both, pairs, strict=True)]  # fmt: skip
    scores = slot_scores(pairs) | {"exact_match": sum(exact) / len(exact)}
    if intents := [wanted["intent"] == given["intent"] for wanted, given in both if wanted["intent"] is not None]:
        scores["intent_accuracy"] = sum(intents) / len(intents)
    if texts := [(wanted["text"], given["text"]) for wanted, given in both if wanted["text"]]:
        scores |= error_rates([spoken for spoken, _ in texts], [written for _, written in texts])
    return scores
