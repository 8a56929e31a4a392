"""The confusion matrix of a run that predicts one label per utterance, as a picture and as its commonest confusions.

    python -m tools.confusion runs/intent
    python -m tools.confusion runs/intent --split valid --plot confusion.png

Reads ``RUN/test.jsonl`` (or ``valid.jsonl``), which every fine-tuning run leaves; of a slots run, the intents. A row
of the picture is a reference label, a column a predicted one; the colour is the share of the row.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from sklearn.metrics import ConfusionMatrixDisplay

from mixvec.errors import UserError, run_cli
from tools import command_parser

from .picture import check_plot, figure, write
from .score import json_rows, rows_file

COUNTED, MOST_LABELS = 25, 200
"""Labels up to which the cells show their shares; labels that a picture can hold."""


def main() -> None:
    parser = command_parser("confusion", __doc__)
    parser.add_argument("run", metavar="RUN", type=Path, help="the directory of a fine-tuning run")
    parser.add_argument("--split", choices=("test", "valid"), help="test, or valid where the run has no test data")
    parser.add_argument("--plot", metavar="FILE.png", type=Path, help="the picture (RUN/confusion.png)")
    args = parser.parse_args()
    plot = args.plot or args.run / "confusion.png"
    check_plot(plot)
    file = rows_file(args.run, args.split)
    references, predictions = ([label(row.get(key), where) for where, row in json_rows(file)]
                               for key in ("reference", "prediction"))  # fmt: skip
    labels = sorted({*references, *predictions})
    if not 0 < len(labels) <= MOST_LABELS:
        raise UserError(f"{file}: {len(labels)} labels, and a picture holds 1 to {MOST_LABELS}; are they texts?")
    confused = Counter(pair for pair in zip(references, predictions, strict=True) if pair[0] != pair[1])
    count, correct = len(references), len(references) - confused.total()
    print(f"{file}: {correct} of {count} correct ({correct / count:.1%})")
    for (reference, prediction), times in confused.most_common(10):
        print(f"  {times:>5}  {reference} predicted as {prediction}")
    side = 2.5 + 0.3 * max(6, len(labels))
    page = figure(side + 1, side)
    axes = page.subplots()
    ConfusionMatrixDisplay.from_predictions(
        references, predictions, labels=labels, display_labels=[label[:32] for label in labels], normalize="true",
        include_values=len(labels) <= COUNTED, values_format=".0%", xticks_rotation="vertical", cmap="Blues", ax=axes,
        text_kw={"fontsize": 7},
    )  # fmt: skip
    title = f"{args.run.name}, {file.stem}: {correct / count:.1%} of {count:,} correct"
    axes.set(xlabel="prediction", ylabel="reference", title=title)
    write(page, plot)
    print(f"the picture is in {plot}")


def label(value: Any, where: str) -> str:
    """A label, or the intent of a slots run; ``-`` for no prediction.

    Raises:
        UserError: the value at ``where`` in the file is neither.
    """
    if isinstance(value, dict) and "intent" in value:
        value = value["intent"] or ""
    if not isinstance(value, str):
        raise UserError(f"{where}: no labels in its reference and prediction")
    return value or "-"


if __name__ == "__main__":
    run_cli(main)
