"""Word and character error rates of a run's predictions, with 95 % intervals; two runs compared.

    python -m tools.score RUN                     # RUN/test.jsonl, or RUN/valid.jsonl where there is no test
    python -m tools.score RUN RUN2                # which is better, and how likely, by a paired bootstrap
    python -m tools.score A.jsonl B.jsonl --text plain

A line of a file has ``reference`` and ``prediction``, and where known ``source``, ``start_s``, ``duration_s``,
``speaker``, as fine-tuning writes them. Intervals are bootstrap percentiles: speakers are resampled where all are
known, else utterances. Texts are scored as they are, normalised by the run (``text.normalise``), unless --text
is given.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, get_args

import numpy as np

from finetune.scoring import Errors, by_length, clusters_of, compare, count_characters, count_words, rate_of
from mixvec.errors import UserError, run_cli
from mixvec.text import TextStyle, normalise_text
from tools import command_parser

MOST_SPEAKERS = 20
MOST_CONFUSIONS = 10
HEAD = f"{'':28} {'WER %':>6} {'95 %':>15} {'words':>7} {'sub':>6} {'del':>6} {'ins':>6} {'CER %':>6} {'95 %':>15}"


def main() -> None:
    parser = command_parser("score", __doc__)
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="one or two run directories or .jsonl files")
    parser.add_argument("--split", choices=("test", "valid"), help="of a run; test where it has one")
    parser.add_argument("--text", choices=get_args(TextStyle), help="normalise references and predictions first")
    args = parser.parse_args()
    if len(args.runs) > 2:
        raise UserError(f"{len(args.runs)} runs given; compare two at a time")
    files = [rows_file(path, args.split) for path in args.runs]
    tables = [read_rows(file, args.text) for file in files]
    print("\n".join(report(str(files[0]), tables[0]) if len(tables) == 1 else comparison(files, tables)))


def rows_file(path: Path, split: str | None) -> Path:
    """The file of references and predictions that a run directory has, or that ``path`` is.

    Raises:
        UserError: there is none.
    """
    if path.is_file():
        return path
    names = [f"{split}.jsonl"] if split else ["test.jsonl", "valid.jsonl"]
    found = next((path / name for name in names if (path / name).is_file()), None)
    if found is None:
        raise UserError(f"{path}: no {' or '.join(names)} in it; a complete fine-tuning run has one")
    return found


def json_rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each line of a JSON Lines file as ``file:number`` and an object.

    Raises:
        UserError: a line is no JSON object.
    """
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{file}:{number}: not JSON ({error})") from error
        if not isinstance(row, dict):
            raise UserError(f"{file}:{number}: not a JSON object")
        yield f"{file}:{number}", row


def read_rows(file: Path, text: TextStyle | None = None) -> list[dict[str, Any]]:
    """The lines of a file of predictions, normalised where ``text`` is given.

    Raises:
        UserError: a line has no reference and prediction that are text; or all references are empty.
    """
    rows = []
    for where, row in json_rows(file):
        if not all(isinstance(row.get(key), str) for key in ("reference", "prediction")):
            raise UserError(f"{where}: no reference and prediction that are text")
        rows.append(row | {k: normalise_text(row[k], text) for k in ("reference", "prediction")} if text else row)
    if not any(row["reference"].strip() for row in rows):
        raise UserError(f"{file}: every reference is empty")
    return rows


def paired(files: list[Path], tables: list[list[dict[str, Any]]]) -> list[list[dict[str, Any]]]:
    """Two tables with their rows in the same order; where rows have no source, they keep the order of their file.

    Raises:
        UserError: they are not of the same utterances with the same references.
    """

    def place(row: dict[str, Any]) -> tuple[str, float]:
        return str(row.get("source", "")), row.get("start_s") or 0.0

    ordered = [sorted(table, key=place) for table in tables]
    for one, other in zip_longest(*ordered, fillvalue={"reference": None}):
        if (place(one), one["reference"]) != (place(other), other["reference"]):
            name = place(one)[0] or place(other)[0] or "a row without a source"
            raise UserError(f"{files[0]} and {files[1]}: {name} is in one alone, or with another reference: compare "
                            "runs with the same data.test and text.normalise")  # fmt: skip
    return ordered


def counted(rows: Sequence[dict[str, Any]]) -> tuple[Errors, Errors, np.ndarray]:
    """Errors in words, in characters, and each utterance's cluster (N,)."""
    texts = [row["reference"] for row in rows], [row["prediction"] for row in rows]
    return count_words(*texts), count_characters(*texts), clusters_of([row.get("speaker") for row in rows])


def report(name: str, rows: list[dict[str, Any]]) -> list[str]:
    """The table of one run: all, by duration, and the speakers with the highest word error rates."""
    words, letters, clusters = counted(rows)
    owners = np.array([row.get("speaker") or "" for row in rows])
    speakers = sorted({*owners.tolist()} - {""})
    by = "speakers" if clusters.max() + 1 < len(rows) else "utterances"
    groups = {"all": np.ones(len(rows), dtype=bool)}
    if all("duration_s" in row for row in rows):
        groups |= by_length([row["duration_s"] for row in rows])
    masks = {f"speaker {speaker}": owners == speaker for speaker in speakers if len(speakers) > 1}
    rates = {key: -words.counts[own, 1:].sum() / max(words.counts[own, :3].sum(), 1) for key, own in masks.items()}
    groups |= {key: masks[key] for key in sorted(rates, key=rates.__getitem__)[:MOST_SPEAKERS]}
    lines = [f"{name}: {len(rows)} utterances, {len(speakers)} speakers; intervals resample {by}", HEAD]
    lines += [_line(group, words.counts[kept], letters.counts[kept], clusters[kept]) for group, kept in groups.items()]
    if len(speakers) > MOST_SPEAKERS:
        lines.append(f"({len(speakers) - MOST_SPEAKERS} more speakers have lower word error rates)")
    for kind, sides in (("confused", (True, True)), ("deleted", (True, False)), ("inserted", (False, True))):
        own = [item for item in words.confusions.most_common() if tuple(map(bool, item[0])) == sides][:MOST_CONFUSIONS]
        if own:
            lines.append(f"{kind}: " + ", ".join(f"{' → '.join(filter(None, pair))} x{count}" for pair, count in own))
    return lines + _empty(rows)


def comparison(files: list[Path], tables: list[list[dict[str, Any]]]) -> list[str]:
    """The rates of two runs, and the paired bootstrap."""
    tables = paired(files, tables)
    (words, letters, clusters), (words_2, letters_2, _) = counted(tables[0]), counted(tables[1])
    lines = [*(f"{n}: {file}" for n, file in enumerate(files, 1)), f"{len(tables[0])} utterances in both", HEAD]
    lines.append(_line("1", words.counts, letters.counts, clusters))
    lines.append(_line("2", words_2.counts, letters_2.counts, clusters))
    for unit, one, other in (("WER", words, words_2), ("CER", letters, letters_2)):
        found = compare(one.counts, other.counts, clusters)
        lines.append(
            f"{unit} of 2 minus that of 1: {100 * found.value:+.2f} points "
            f"[{100 * found.low:+.2f}, {100 * found.high:+.2f}]; 2 is better with probability {found.second_better:.3f}"
        )
    return lines + _empty(tables[0])


def _line(name: str, words: np.ndarray, letters: np.ndarray, clusters: np.ndarray) -> str:
    own = np.unique(clusters, return_inverse=True)[1]
    if own.max() == 0:  # one speaker: resample that speaker's utterances
        own = np.arange(len(words))
    w, c = rate_of(words, own), rate_of(letters, own)
    spans = [f"[{100 * rate.low:.2f}, {100 * rate.high:.2f}]" for rate in (w, c)]
    return (f"{name[:28]:28} {100 * w.value:6.2f} {spans[0]:>15} {w.length:7} {w.substitutions:6} {w.deletions:6} "
            f"{w.insertions:6} {100 * c.value:6.2f} {spans[1]:>15}")  # fmt: skip


def _empty(rows: list[dict[str, Any]]) -> list[str]:
    """A line on empty references, if there are any."""
    empty = [row for row in rows if not row["reference"].strip()]
    if not empty:
        return []
    some = ", ".join(str(row.get("source", "?")) for row in empty[:3])
    return [f"{len(empty)} of {len(rows)} references are empty ({some}); every word predicted for them is an insertion"]


if __name__ == "__main__":
    run_cli(main)
