"""The log of a run: rows in JSON lines and trackers, lines on the screen, warnings that last, skipped audio."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..atomic import write_whole
from ..errors import redacted
from .trackers import Trackers

REPEAT_LINES = 20  # log lines after which a warning that persists is shown in full again
ONCE = {"schedule-too-long", "small-batch", "frozen-encoder", "overfitting"}  # warnings shown once in a session


def append(path: Path, *rows: dict[str, Any], fresh: bool = False) -> None:
    """Append rows to a file of JSON lines; ``fresh`` begins it again."""
    # a file name that is not UTF-8 becomes \\udcXX, which JSON reads back as the same name
    with path.open("w" if fresh else "a", encoding="utf-8", errors="backslashreplace") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


class Log:
    """Writes what the main rank logs; on the other ranks every method does nothing."""

    def __init__(self, folder: Path, trackers: Sequence[str] = (), *, main: bool) -> None:
        self._folder, self._names, self._main = folder, trackers, main
        self._trackers: Trackers | None = None
        self._update: int | None = None  # of the last row; None before the run starts or resumes
        self._early: list[tuple[str, str]] = []  # warnings from before that
        self._streaks: dict[str, int] = {}  # for how many log lines in a row each warning has held

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
        else:
            row = {"update": self._update, "name": name, "text": redacted(text)}
            append(self._folder / "warnings.jsonl", row)

    def warn(self, row: dict[str, Any], line: str, found: dict[str, str]) -> None:
        """Log a row (null where a number is not finite) with its line and the warnings ``found``, by name.

        A new warning is printed in full; one that persists is named at the end of the next lines, and printed in full
        again every ``REPEAT_LINES``. An evaluation, whose line is empty, knows nothing of other warnings.
        """
        if not self._main:
            return
        streaks = {name: self._streaks.get(name, 0) for name in found}
        persist = [name for name in found if streaks[name] % REPEAT_LINES and name not in ONCE]
        full = [name for name in found if streaks[name] % REPEAT_LINES == 0]
        kept = {name: count for name, count in self._streaks.items() if name in ONCE or not line}
        self._streaks = kept | {name: 1 if name in ONCE else count + 1 for name, count in streaks.items()}
        row = {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in row.items()}
        append(self._folder / "metrics.jsonl", row)
        self._update = row.get("update", self._update)
        still = f"  (still: {', '.join(persist)})" if persist else ""
        print("\n".join([line + still, *(found[name] for name in full)]), flush=True)
        if self._trackers is not None:
            self._trackers.row(row)
        for name in full:
            self._note(name, found[name].removeprefix(f"WARNING {name}: "))

    def close(self) -> None:
        if self._trackers is not None:
            self._trackers.close()


class SkipQuota:
    """Lists what this rank skips; ``most`` utterances of an epoch, over all ranks, may turn out to be undecodable."""

    def __init__(self, folder: Path, rank: int) -> None:
        self._path, self._rank = folder / ("skipped.jsonl" if rank == 0 else f"skipped-rank{rank}.jsonl"), rank
        self.most = math.inf
        self.undecoded = (0, 0)  # the latest epoch in which this rank met such audio, and how many utterances of it

    def note(self, skipped: list[dict[str, Any]], *, fresh: bool = False, counted: bool = False) -> None:
        """Append rows with ``source`` and ``reason`` to this rank's list; ``fresh`` begins the main rank's again.

        Those that are ``counted`` towards ``most`` have an ``epoch``.
        """
        if skipped and counted:
            latest = max(int(row.get("epoch", 0)) for row in skipped)
            before = self.undecoded[1] if self.undecoded[0] == latest else 0
            self.undecoded = latest, before + len(skipped)
        if skipped or (fresh and self._rank == 0):
            append(self._path, *skipped, fresh=fresh)
