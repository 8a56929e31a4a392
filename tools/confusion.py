"""The confusion matrix of a run that predicts one label per utterance, as a picture and as its commonest confusions.

    python -m tools.confusion runs/intent
    python -m tools.confusion runs/intent --split valid --plot confusion.png

Reads ``RUN/test.jsonl`` (or ``valid.jsonl``), which every fine-tuning run leaves; of a slots run, the intents. A row
of the picture is a reference label, a column a predicted one; the colour is the share of the row.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

from sklearn.metrics import ConfusionMatrixDisplay

from mixvec.errors import UserError, run_cli

from .picture import check_plot, figure, write
from .score import json_rows, rows_file

COUNTED, MOST_LABELS = 25, 200
"""Labels up to which the cells show their shares; labels that a picture can hold."""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.confusion", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="the directory of a fine-tuning run")
    parser.add_argument("--split", choices=("test", "valid"), help="test, or valid where the run has no test data")
    parser.add_argument("--plot", metavar="FILE.png", type=Path, help="the picture (RUN/confusion.png)")
    args = parser.parse_args()
    plot = args.plot or args.run / "confusion.png"
    check_plot(plot)
    file = rows_file(args.run, args.split)
    pairs = label_pairs(file)
    correct = sum(reference == prediction for reference, prediction in pairs)
    title = f"{args.run.name}, {file.stem}: {correct / len(pairs):.1%} of {len(pairs):,} correct"
    draw(pairs, title, plot)
    print(f"{file}: {correct} of {len(pairs)} correct ({correct / len(pairs):.1%})")
    confused = Counter(pair for pair in pairs if pair[0] != pair[1])
    for (reference, prediction), count in confused.most_common(10):
        print(f"  {count:>5}  {reference} predicted as {prediction}")
    print(f"the picture is in {plot}")


def label_pairs(file: Path) -> list[tuple[str, str]]:
    """The reference and the predicted label of each utterance.

    Raises:
        UserError: the rows hold no labels, or too many for a picture.
    """
    pairs = []
    for where, row in json_rows(file):
        reference, prediction = (_label(row.get(key)) for key in ("reference", "prediction"))
        if reference is None or prediction is None:
            raise UserError(f"{where}: no labels in its reference and prediction")
        pairs.append((reference, prediction))
    if not pairs:
        raise UserError(f"{file}: empty")
    if (count := len({label for pair in pairs for label in pair})) > MOST_LABELS:
        raise UserError(f"{file}: {count} labels, and a picture holds {MOST_LABELS}; are they texts?")
    return pairs


def _label(value: Any) -> str | None:
    """A label, or the intent of a slots run; ``-`` for no prediction; None where there is no label."""
    if isinstance(value, dict) and "intent" in value:
        value = value["intent"] or ""
    return (value or "-") if isinstance(value, str) else None


def draw(pairs: list[tuple[str, str]], title: str, path: Path) -> None:
    """The matrix as a PNG, written whole or not at all."""
    labels = sorted({label for pair in pairs for label in pair})
    side = 2.5 + 0.3 * max(6, len(labels))
    page = figure(side + 1, side)
    axes = page.subplots()
    ConfusionMatrixDisplay.from_predictions(
        *zip(*pairs, strict=True), labels=labels, display_labels=[label[:32] for label in labels], normalize="true",
        include_values=len(labels) <= COUNTED, values_format=".0%", xticks_rotation="vertical", cmap="Blues", ax=axes,
        text_kw={"fontsize": 7},
    )  # fmt: skip
    axes.set(xlabel="prediction", ylabel="reference", title=title)
    write(page, path)


if __name__ == "__main__":
    run_cli(main)
