"""The confusion matrix of a run that gave every utterance one label, as a picture and as its commonest confusions.

    python -m tools.confusion runs/intent
    python -m tools.confusion runs/intent --split valid --plot confusion.png

Reads ``RUN/test.jsonl`` (or ``valid.jsonl``), which every fine-tuning run leaves; slots runs are taken by their intent.
A row of the picture is a label that should have been given, a column one that was; colour is the share of the row.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

from mixvec.atomic import whole_file
from mixvec.data.readers.rows import json_lines
from mixvec.errors import UserError, run_cli

from .picture import check_plot

COUNTED, LONGEST_NAME, MOST_LABELS = 25, 32, 200
"""Labels up to which the cells show their counts; letters of a label; labels that a picture can hold."""


def main() -> None:
    """Run the command line: exit 0, 1 with one line where a run cannot be read."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.confusion", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="the directory of a fine-tuning run")
    parser.add_argument("--split", choices=("test", "valid"), help="test, or valid where the run has no test data")
    parser.add_argument("--plot", metavar="FILE.png", type=Path, help="the picture (RUN/confusion.png)")
    run_cli(lambda: _main(parser.parse_args()))


def _main(args: argparse.Namespace) -> None:
    path = args.plot or args.run / "confusion.png"
    check_plot(path)
    source = rows_file(args.run, args.split)
    pairs = label_pairs(source)
    draw(pairs, f"{args.run.name}, {source.stem}", path)
    right = sum(n for (said, heard), n in pairs.items() if said == heard)
    print(f"{source}: {right} of {pairs.total()} right ({right / pairs.total():.1%})")
    wrong = Counter({pair: n for pair, n in pairs.items() if pair[0] != pair[1]})
    for (said, heard), number in wrong.most_common(10):
        print(f"  {number:>5}  {said} taken for {heard}")
    print(f"the picture is in {path}")


def rows_file(run: Path, split: str | None) -> Path:
    """The rows of an evaluation.

    Raises:
        UserError: the run has none.
    """
    named = [run / f"{name}.jsonl" for name in ([split] if split else ["test", "valid"])]
    found = next((path for path in named if path.is_file()), None)
    if found is None:
        raise UserError(f"{run}: no {' or '.join(path.name for path in named)} in it; a fine-tuning run leaves one at "
                        "its end, for data.test and data.valid")  # fmt: skip
    return found


def label_pairs(path: Path) -> Counter[tuple[str, str]]:
    """How often each label was given for each.

    Raises:
        UserError: the rows hold no labels, or none at all.
    """
    pairs: Counter[tuple[str, str]] = Counter()
    for where, row in json_lines(path):
        said, heard = (_label(row.get(key)) for key in ("reference", "prediction"))
        if said is None or heard is None:
            raise UserError(f"{where}: no label in it, so there is nothing to confuse")
        pairs[said, heard] += 1
    if not pairs:
        raise UserError(f"{path}: empty")
    if len(labels := _labels(pairs)) > MOST_LABELS:
        raise UserError(f"{path}: {len(labels)} labels, and a picture holds {MOST_LABELS}; are they texts?")
    return pairs


def _label(said: Any) -> str | None:
    """A label, or the intent of a slots run; ``-`` where the model gave none, or the audio could not be decoded."""
    if isinstance(said, dict) and "intent" in said:
        said = said["intent"] or ""
    return (said or "-") if isinstance(said, str) else None


def _labels(pairs: Counter[tuple[str, str]]) -> list[str]:
    return sorted({label for pair in pairs for label in pair})


def draw(pairs: Counter[tuple[str, str]], title: str, path: Path) -> None:
    """The matrix as a PNG, written whole or not at all."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    labels = _labels(pairs)
    numbers = {label: number for number, label in enumerate(labels)}
    counts = np.zeros((len(labels), len(labels)))
    for (said, heard), number in pairs.items():
        counts[numbers[said], numbers[heard]] = number
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    side = 2.5 + 0.3 * max(6, len(labels))
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    names = [label if len(label) <= LONGEST_NAME else f"{label[: LONGEST_NAME - 1]}…" for label in labels]
    axes.set_xticks(range(len(labels)), names, rotation=90, fontsize=8)
    axes.set_yticks(range(len(labels)), names, fontsize=8)
    axes.set(xlabel="given", ylabel="meant")
    axes.set_title(f"{title}: {counts.trace() / counts.sum():.1%} of {int(counts.sum()):,} right")
    if len(labels) <= COUNTED:
        for row, column in zip(*counts.nonzero(), strict=True):
            colour = "white" if shares[row, column] > 0.6 else "black"
            axes.text(column, row, f"{counts[row, column]:.0f}", ha="center", va="center", fontsize=7, color=colour)
    figure.colorbar(image, ax=axes, shrink=0.6, label="share of the row")
    with whole_file(path) as new:
        figure.savefig(new, format="png", dpi=120)


if __name__ == "__main__":
    main()
