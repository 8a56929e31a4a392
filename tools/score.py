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
from collections import Counter
from collections.abc import Sequence
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


def read_rows(file: Path, text: TextStyle | None = None) -> list[dict[str, Any]]:
    """The lines of a file of predictions, normalised where ``text`` is given.

    Raises:
        UserError: a line is not JSON, or has no reference and prediction that are text; or all references are empty.
    """
    rows = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{file}:{number}: not JSON ({error})") from error
        if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("reference", "prediction")):
            raise UserError(f"{file}:{number}: no reference and prediction that are text")
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
    one, other = ([(*place(row), row["reference"]) for row in table] for table in ordered)
    if one != other:
        name = next(iter(sorted({*one} ^ {*other})), ("",))[0] or "a row without a source"
        raise UserError(f"{files[0]} and {files[1]}: {name} is in one alone, or with another reference: compare runs "
                        "with the same data.test and text.normalise")  # fmt: skip
    return ordered


def counted(rows: Sequence[dict[str, Any]]) -> tuple[Errors, Errors, np.ndarray]:
    """Errors in words, in characters, and each utterance's cluster (N,)."""
    texts = [row["reference"] for row in rows], [row["prediction"] for row in rows]
    return count_words(*texts), count_characters(*texts), clusters_of([row.get("speaker") for row in rows])


def groups_of(rows: Sequence[dict[str, Any]], counts: np.ndarray) -> dict[str, np.ndarray]:
    """Masks (N,) by name: of all rows, of each length, and of the speakers with the most errors per word (N, 4)."""
    durations_s = [float(row.get("duration_s") or 0) for row in rows]
    owners = np.array([str(row.get("speaker") or "") for row in rows])
    speakers = {f"speaker {speaker}": owners == speaker for speaker in sorted({*owners.tolist()} - {""})}
    sums = {name: counts[own].sum(0) for name, own in speakers.items() if len(speakers) > 1}
    worst = sorted(sums, key=lambda name: -sums[name][1:].sum() / max(sums[name][:3].sum(), 1))[:MOST_SPEAKERS]
    lengths = by_length(durations_s) if min(durations_s) > 0 else {}
    return {"all": np.ones(len(rows), dtype=bool)} | lengths | {name: speakers[name] for name in worst}


def frequent(confusions: Counter[tuple[str, str]], most: int) -> dict[str, list[tuple[str, str, int]]]:
    """The commonest errors of each kind: reference, prediction (one is empty but where words are confused), times."""
    found: dict[str, list[tuple[str, str, int]]] = {"confused": [], "deleted": [], "inserted": []}
    for (wanted, given), times in confusions.most_common():
        kind = "inserted" if not wanted else "confused" if given else "deleted"
        found[kind].append((wanted, given, times))
    return {kind: own[:most] for kind, own in found.items() if own}


def report(name: str, rows: list[dict[str, Any]]) -> list[str]:
    """The table of one run: all, by duration, and the speakers with the highest word error rates."""
    words, letters, clusters = counted(rows)
    speakers = len({row.get("speaker") for row in rows} - {None, ""})
    by = "speakers" if clusters.max() + 1 < len(rows) else "utterances"
    lines = [f"{name}: {len(rows)} utterances, {speakers} speakers; intervals resample {by}", HEAD]
    lines += [_line(group, words.counts[kept], letters.counts[kept], clusters[kept])
              for group, kept in groups_of(rows, words.counts).items()]  # fmt: skip
    if speakers > MOST_SPEAKERS:
        lines.append(f"({speakers - MOST_SPEAKERS} more speakers have lower word error rates)")
    for kind, errors in frequent(words.confusions, MOST_CONFUSIONS).items():
        lines.append(f"{kind}: " + ", ".join(f"{' → '.join(filter(None, pair))} x{times}" for *pair, times in errors))
    return lines + _empty(rows)


def comparison(files: list[Path], tables: list[list[dict[str, Any]]]) -> list[str]:
    """The rates of two runs, and the paired bootstrap."""
    tables = paired(files, tables)
    (words, letters, clusters), (words_2, letters_2, _) = counted(tables[0]), counted(tables[1])
    lines = [*(f"{n}: {file}" for n, file in enumerate(files, 1)), f"{len(tables[0])} utterances in both", HEAD]
    lines += [
        _line("1", words.counts, letters.counts, clusters),
        _line("2", words_2.counts, letters_2.counts, clusters),
    ]
    for unit, one, other in (("WER", words, words_2), ("CER", letters, letters_2)):
        found = compare(one.counts, other.counts, clusters)
        lines.append(
            f"{unit} of 2 minus that of 1: {100 * found.value:+.2f} points "
            f"[{100 * found.low:+.2f}, {100 * found.high:+.2f}]; 2 is better with probability {found.second_better:.3f}"
        )
    return lines + _empty(tables[0])


def _line(name: str, words: np.ndarray, letters: np.ndarray, clusters: np.ndarray) -> str:
    own = clusters_of(clusters.tolist())  # of one speaker, utterances are resampled
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
