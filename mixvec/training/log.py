"""The log of a run: rows in metrics.jsonl and trackers, lines on the screen, and warnings that last."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..atomic import write_whole
from ..errors import redacted
from .trackers import Trackers

REPEAT_LINES = 20
"""Log lines after which a warning that persists is shown in full again."""
ONCE = {"schedule-too-long", "small-batch", "frozen-encoder", "overfitting"}
"""Warnings shown once in a session."""


class Log:
    """Writes what the main rank logs; on the other ranks every method does nothing."""

    def __init__(self, folder: Path, trackers: Sequence[str] = (), *, main: bool) -> None:
        """
        Args:
            trackers: some of ``config.TRACKERS``.
        """
        self._folder, self._names, self._main = folder, trackers, main
        self._trackers: Trackers | None = None
        self._update: int | None = None
        """The update of the last row; None before the run starts or resumes."""
        self._early: list[tuple[str, str]] = []
        """Warnings from before that."""
        self._streaks: dict[str, int] = {}
        """For how many log lines in a row each warning has held."""

    def start(self, update: int) -> None:
        """Cut the logs back to what is true at ``update``, from which the run continues."""
        if not self._main:
            return
        for log in (self._folder / f"{name}.jsonl" for name in ("metrics", "nonfinite", "warnings")):
            rows = log.read_text().splitlines() if log.exists() else []
            kept = [row for row in rows if row.endswith("}") and json.loads(row)["update"] <= update]
            if rows:
                write_whole(log, "".join(row + "\n" for row in kept))
        self._update = update
        for name, text in self._early:
            self._note(name, text)
        self._trackers = Trackers(self._folder, self._names, update, self.print)

    def print(self, line: str) -> None:
        """Print a line, or several, at once; those that are warnings are kept in warnings.jsonl too."""
        if self._main:
            print(line, flush=True)
            for warning in (part.strip() for part in line.splitlines()):
                if warning.startswith("WARNING "):
                    self._note("", warning.removeprefix("WARNING "))

    def _note(self, name: str, text: str) -> None:
        """Append a warning to warnings.jsonl, at the update of the last row."""
        if self._update is None:
            self._early.append((name, text))
            return
        with (self._folder / "warnings.jsonl").open("a", encoding="utf-8") as file:
            warning = {"update": self._update, "name": name, "text": redacted(text)}
            file.write(json.dumps(warning, ensure_ascii=False) + "\n")

    def row(self, row: dict[str, Any], line: str) -> None:
        """Append a row to metrics.jsonl (null where a number is not finite) and trackers, and print its line."""
        if not self._main:
            return
        row = {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in row.items()}
        with (self._folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        self._update = row.get("update", self._update)
        print(line, flush=True)
        if self._trackers is not None:
            self._trackers.row(row)

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
        full = [name for name in found if streaks[name] % REPEAT_LINES == 0]
        kept = ONCE if line else self._streaks.keys()
        self._streaks = {name: count for name, count in self._streaks.items() if name in kept} | {
            name: 1 if name in ONCE else count + 1 for name, count in streaks.items()
        }
        self.row(
            row, "\n".join([line + f"  (still: {', '.join(persist)})" * bool(persist), *map(found.__getitem__, full)])
        )
        for name in full if self._main else ():
            self._note(name, found[name].removeprefix(f"WARNING {name}: "))

    def close(self) -> None:
        if self._trackers is not None:
            self._trackers.close()
