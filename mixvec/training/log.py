"""The log of a run: rows in metrics.jsonl and TensorBoard, lines on the screen, and warnings that last."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from ..atomic import write_whole

REPEAT_LINES = 20
"""Log lines after which a warning that persists is shown in full again."""
ONCE = {"schedule-too-long", "small-batch", "frozen-encoder", "overfitting"}
"""Warnings shown once in a session."""


class Log:
    """Writes what the main rank logs; on the other ranks every method does nothing."""

    def __init__(self, folder: Path, *, main: bool) -> None:
        self._folder, self._main = folder, main
        self._board: Any = None
        self._streaks: dict[str, int] = {}
        """For how many log lines in a row each warning has held."""

    def start(self, update: int) -> None:
        """Cut the logs back to what is true at ``update``, from which the run continues."""
        if not self._main:
            return
        for log in (self._folder / "metrics.jsonl", self._folder / "nonfinite.jsonl"):
            rows = log.read_text().splitlines() if log.exists() else []
            kept = [row for row in rows if row.endswith("}") and json.loads(row)["update"] <= update]
            if rows:
                write_whole(log, "".join(row + "\n" for row in kept))
        self._board = SummaryWriter(str(self._folder / "tensorboard"), purge_step=update + 1)  # type: ignore[no-untyped-call]

    def print(self, line: str) -> None:
        """Print a line at once."""
        if self._main:
            print(line, flush=True)

    def row(self, row: dict[str, Any], line: str) -> None:
        """Append a row to metrics.jsonl (null where a number is not finite) and TensorBoard, and print its line."""
        if not self._main:
            return
        row = {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in row.items()}
        with (self._folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        if self._board is not None:
            for name, value in row.items():
                if isinstance(value, int | float) and name != "update":
                    self._board.add_scalar(name, value, row["update"])
            self._board.flush()
        self.print(line)

    def warn(self, row: dict[str, Any], line: str, found: dict[str, str]) -> None:
        """Log a row with its line and warnings.

        A new warning is printed in full; one that persists is named at the end of the next lines, and printed in full
        again every ``REPEAT_LINES``.

        Args:
            line: for the screen; empty for an evaluation, which knows nothing of the other warnings' streaks.
            found: warnings by name.
        """
        streaks = {name: self._streaks.get(name, 0) for name in found}
        persist = [name for name in found if streaks[name] % REPEAT_LINES and name not in ONCE]
        full = [found[name] for name in found if streaks[name] % REPEAT_LINES == 0]
        kept = ONCE if line else self._streaks.keys()
        self._streaks = {name: count for name, count in self._streaks.items() if name in kept} | {
            name: 1 if name in ONCE else count + 1 for name, count in streaks.items()
        }
        self.row(row, "\n".join([line + f"  (still: {', '.join(persist)})" * bool(persist), *full]))

    def close(self) -> None:
        if self._board is not None:
            self._board.close()
