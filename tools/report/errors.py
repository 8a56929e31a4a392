"""Where the errors of fine-tuned models are: by length and speaker, in which words, between which labels."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import numpy as np

from finetune.scoring import by_length, clusters_of, count_words, rate_of

from .figures import Drawing, Palette, dots, matrix, plain, svg
from .runs import Group, RunFolder

MOST_SPEAKERS, MOST_LABELS, MOST_CONFUSIONS = 15, 40, 10
RESAMPLES = 1000


class Errors(NamedTuple):
    """A table of the commonest errors of a run."""

    title: str
    rows: list[tuple[str, str, int]]
    """Reference, prediction (one of them empty where a word was deleted or inserted) and how often."""


def label_of(value: Any) -> str | None:
    """A label, or the intent of a slots run, empty where there is none; None where it is neither."""
    value = value.get("intent") or "" if isinstance(value, dict) else value
    return value if isinstance(value, str) else None


def texts(run: RunFolder) -> list[dict[str, Any]]:
    """The rows whose reference and prediction are texts."""
    return [row for row in run.rows if isinstance(row["reference"], str) and isinstance(row["prediction"], str)]


def rates(groups: list[Group]) -> list[Drawing]:
    """Word error rates by length and by speaker, with 95 % intervals, of the first run of each group."""
    found = []
    tables = [(group.name, texts(group.first)) for group in groups if texts(group.first)]
    known = [(name, rows, [float(row.get("duration_s") or 0) for row in rows]) for name, rows in tables]
    speakers = Counter(str(row["speaker"]) for _, rows in tables for row in rows if row.get("speaker"))
    for by in ("length", "speaker"):
        if by == "length" and not all(min(lengths) > 0 for _, _, lengths in known):
            continue
        masks = [by_length(lengths) if by == "length" else
                 {name: np.array([str(row.get("speaker")) == name for row in rows])
                  for name, _ in speakers.most_common(MOST_SPEAKERS)} for _, rows, lengths in known]  # fmt: skip
        names = list(dict.fromkeys(name for own in masks for name in own))
        if len(names) < 2:
            continue
        points = [(label, [[_rate([row for row, kept in zip(rows, own[name], strict=True) if kept])]
                           if name in own and own[name].any() else [] for name in names])
                  for (label, rows, _), own in zip(known, masks, strict=True)]  # fmt: skip
        words = "; ".join(
            f"{label}: "
            + ", ".join(f"{plain(name)} {100 * p[0][0]:.0f} %" for name, p in zip(names, rows, strict=True) if p)
            for label, rows in points
        )
        drawn = dots([str(name) for name in names], points, "word error rate, %", Palette())
        found.append(Drawing(f"Word error rate by {by}", svg(drawn), words))
    return found


def _rate(rows: list[dict[str, Any]]) -> tuple[float, float, float]:
    counts = count_words([row["reference"] for row in rows], [row["prediction"] for row in rows]).counts
    rate = rate_of(counts, clusters_of([None] * len(rows)), RESAMPLES)
    return rate.value, rate.low, rate.high


def word_errors(group: Group) -> list[Errors]:
    """The commonest substitutions, deletions and insertions of the group's first run."""
    rows = texts(group.first)
    if not rows:
        return []
    confusions = count_words([row["reference"] for row in rows], [row["prediction"] for row in rows]).confusions
    kinds = {"substituted": (True, True), "deleted": (True, False), "inserted": (False, True)}
    found = []
    for kind, sides in kinds.items():
        own = [(*pair, n) for pair, n in confusions.most_common() if tuple(map(bool, pair)) == sides]
        if own:
            found.append(Errors(f"Words most often {kind}, {group.name}", own[:MOST_CONFUSIONS]))
    return found


def confusions(group: Group) -> tuple[Drawing, Errors] | None:
    """The confusion matrix of the group's first run, and its commonest confusions; None without labels."""
    if (found := label_shares(group.first)) is None:
        return None
    labels, shares, text, wrong = found
    drawing = Drawing(f"Confusions, {group.name}", svg(matrix(labels, shares, Palette())), text)
    rows = [(*pair, times) for pair, times in wrong.most_common(MOST_CONFUSIONS)]
    return drawing, Errors(f"Most frequent confusions, {group.name}", rows)


def label_shares(run: RunFolder) -> tuple[list[str], np.ndarray, str, Counter[tuple[str, str]]] | None:
    """Labels, the share (N, N) of each reference's predictions, a text, and all confusions; None without labels."""
    pairs = [(label_of(row["reference"]), label_of(row["prediction"])) for row in run.rows]
    known = [(wanted or "-", given or "-") for wanted, given in pairs if wanted is not None and given is not None]
    wrong, seen = (
        Counter(pair for pair in known if pair[0] != pair[1]),
        Counter(label for pair in known for label in pair),
    )
    by_errors = Counter[str]()
    for pair, times in wrong.items():
        by_errors.update(dict.fromkeys(pair, times))
    labels = sorted(sorted(seen, key=lambda label: (-by_errors[label], -seen[label], label))[:MOST_LABELS])
    if len(labels) < 2:
        return None
    counts, number = np.zeros((len(labels), len(labels))), {label: i for i, label in enumerate(labels)}
    for wanted, given in known:
        if wanted in number and given in number:
            counts[number[wanted], number[given]] += 1
    right, some = len(known) - wrong.total(), ""
    if len(seen) > len(labels):
        some = f" The {MOST_LABELS} of {len(seen)} labels with the most errors are shown."
    text = (
        f"{right:,} of {len(known):,} correct ({right / len(known):.1%}). Cells: per cent of the reference's row.{some}"
    )
    return labels, counts / counts.sum(1, keepdims=True).clip(min=1), text, wrong
