"""Where the errors of fine-tuned models are: by length and speaker, in which words, between which labels."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import numpy as np

from finetune.scoring import Errors, count_words, rate_of
from tools.score import frequent, groups_of

from .figures import Drawing, matrix, svg
from .runs import Group, RunFolder

MOST_LABELS, MOST_CONFUSIONS, RESAMPLES = 40, 10, 1000

Table = tuple[str, list[tuple[str, str, int]]]
"""A title, and the reference, the prediction and the number of the commonest errors."""


class Recognised(NamedTuple):
    """The texts of a group's first run, and their errors in words."""

    group: Group
    rows: list[dict[str, Any]]
    words: Errors


def recognised(groups: list[Group]) -> list[Recognised]:
    """The groups whose first run has texts for reference and prediction."""
    found = []
    for group in groups:
        rows = [row for row in group.first.rows if isinstance(row["reference"], str)
                and isinstance(row["prediction"], str)]  # fmt: skip
        if rows:
            words = count_words([row["reference"] for row in rows], [row["prediction"] for row in rows])
            found.append(Recognised(group, rows, words))
    return found


def rates(found: list[Recognised]) -> list[tuple[str, list[str]]]:
    """Word error rates with 95 % intervals: of all utterances, by length, and of the worst speakers."""
    groups = [groups_of(own.rows, own.words.counts) for own in found]
    table = []
    for name in dict.fromkeys(name for own in groups for name in own):
        cells = []
        for own, masks in zip(found, groups, strict=True):
            counts = own.words.counts[masks.get(name, np.zeros(len(own.rows), dtype=bool))]
            rate = rate_of(counts, np.arange(len(counts)), RESAMPLES) if len(counts) else None
            cells.append(f"{100 * rate.value:.1f} % [{100 * rate.low:.1f}, {100 * rate.high:.1f}]" if rate else "–")
        table.append((name, cells))
    return table


def word_errors(own: Recognised) -> list[Table]:
    """The commonest substitutions, deletions and insertions."""
    found = frequent(own.words.confusions, MOST_CONFUSIONS)
    return [(f"Words most often {kind}, {own.group.name}", rows) for kind, rows in found.items()]


def confusions(group: Group) -> tuple[Drawing, Table] | None:
    """The confusion matrix of the group's first run, and its commonest confusions; None without labels."""
    if (found := label_shares(group.first)) is None:
        return None
    labels, shares, text, wrong = found
    rows = [(*pair, times) for pair, times in wrong.most_common(MOST_CONFUSIONS)]
    return (Drawing(f"Confusions, {group.name}", svg(matrix, labels, shares), text),
            (f"Most frequent confusions, {group.name}", rows))  # fmt: skip


def label_shares(run: RunFolder) -> tuple[list[str], np.ndarray, str, Counter[tuple[str, str]]] | None:
    """Labels, the share (N, N) of each reference's predictions, a text, and all confusions; None without labels.

    Of a slots run, the labels are its intents.
    """
    sides = [[row[side].get("intent") or "" if isinstance(row[side], dict) else row[side]
              for side in ("reference", "prediction")] for row in run.rows]  # fmt: skip
    pairs = Counter((wanted or "-", given or "-") for wanted, given in sides
                    if isinstance(wanted, str) and isinstance(given, str))  # fmt: skip
    wrong = Counter({pair: times for pair, times in pairs.items() if pair[0] != pair[1]})
    seen, errors = Counter[str](), Counter[str]()
    for pair, times in pairs.items():
        for label in pair:
            seen[label] += times
            errors[label] += times * (pair in wrong)
    labels = sorted(sorted(seen, key=lambda label: (-errors[label], -seen[label], label))[:MOST_LABELS])
    if len(labels) < 2:
        return None
    counts = np.array([[pairs[wanted, given] for given in labels] for wanted in labels], dtype=float)
    total, some = pairs.total(), ""
    if len(seen) > len(labels):
        some = f" The {MOST_LABELS} of {len(seen)} labels with the most errors are shown."
    text = (f"{total - wrong.total():,} of {total:,} correct ({1 - wrong.total() / total:.1%}). Cells: per cent of the "
            f"reference's row.{some}")  # fmt: skip
    return labels, counts / counts.sum(1, keepdims=True).clip(min=1), text, wrong
