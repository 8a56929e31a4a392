"""Skipped audio: a list of it in the run's directory, and a limit on how much of an epoch may be skipped."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any


class SkipQuota:
    """Notes what this rank skips; ``most`` utterances of an epoch may turn out to be undecodable."""

    def __init__(self, folder: Path, rank: int) -> None:
        self._folder, self._rank = folder, rank
        self.most = math.inf
        """Utterances of an epoch, over all ranks, that may be undecodable before the run stops."""
        self.undecoded = (0, 0)
        """The latest epoch in which this rank met undecodable audio, and how many utterances of it."""

    def note(self, skipped: list[dict[str, Any]], *, fresh: bool = False, counted: bool = False) -> None:
        """Append rows with ``source`` and ``reason`` to this rank's list.

        Args:
            fresh: begin the main rank's list again.
            counted: count them towards ``most``; they have an ``epoch`` then.
        """
        if skipped and counted:
            latest = max(int(row.get("epoch", 0)) for row in skipped)
            before = self.undecoded[1] if self.undecoded[0] == latest else 0
            self.undecoded = latest, before + len(skipped)
        if skipped or (fresh and self._rank == 0):
            name = "skipped.jsonl" if self._rank == 0 else f"skipped-rank{self._rank}.jsonl"
            # a file name that is not UTF-8 becomes \udcXX, which JSON reads back as the same name
            with (self._folder / name).open("w" if fresh else "a", encoding="utf-8", errors="backslashreplace") as file:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in skipped)
