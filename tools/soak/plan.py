"""Which faults strike, and when: drawn from a seed before anything runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mixvec.errors import UserError

SAVE_EVERY = 3
"""Updates between checkpoints, in every run here."""

KINDS = {
    "kill-rank": "SIGKILL to one rank",
    "kill-all": "SIGKILL to all processes",
    "kill-launcher": "SIGKILL to torchrun alone",
    "kill-in-checkpoint": "SIGKILL to all while a checkpoint is written",
    "kill-in-model-folder": "SIGKILL to all while the model folder is written",
    "kill-at-end": "SIGKILL to all when the last checkpoint is there",
    "sigterm": "SIGTERM to torchrun",
    "sigint": "SIGINT to torchrun",
    "sigusr1": "SIGUSR1 to the ranks",
    "full-disk": "the disk fills",
    "full-disk-at-start": "started on a full disk (the start included)",
    "flipped-byte": "a byte of the newest checkpoint flipped",
    "cut-file": "a file of the newest checkpoint cut short",
    "lost-file": "a file of the newest checkpoint removed",
}
GRACEFUL = ("kill-launcher", "sigterm", "sigint", "sigusr1")
"""The run saves before it ends, so not one update is redone."""
FULL = ("full-disk", "full-disk-at-start")
HARMS = ("flipped-byte", "cut-file", "lost-file")
"""Done to a run that is not running."""
WHILE_STARTING = 0.2
"""The share of the faults without a moment of their own that strike before the first update."""


@dataclass(frozen=True)
class Fault:
    kind: str
    """Of ``KINDS``."""
    after: int
    """Updates into its session; 0: while it starts."""
    share: float
    """In [0, 1): how far into the start, which rank or file, how much room is left; whatever else is to be chosen."""


def draw(count: int, seed: int, *, disk: bool) -> list[Fault]:
    """Faults of every kind in turn, each turn in another order; those that need a disk of their own with ``disk``."""
    rng = np.random.default_rng(seed)
    kinds = [kind for kind in KINDS if disk or kind not in FULL]
    faults: list[Fault] = []
    while len(faults) < count:
        for kind in rng.permutation(kinds).tolist():
            starting = kind not in ("kill-in-checkpoint", "kill-in-model-folder", "kill-at-end", *FULL, *HARMS)
            after = 0 if starting and rng.random() < WHILE_STARTING else int(rng.integers(1, 2 * SAVE_EVERY))
            faults.append(Fault(kind, after, float(rng.random())))
    return faults[:count]


def split(faults: list[Fault]) -> tuple[list[Fault], list[Fault]]:
    """Three in five for the pretraining, the others for the fine-tuning; what strikes at the end comes last in each.

    A fine-tuning is sure to write its model folder only when all its updates are done.

    Raises:
        UserError: fewer than two.
    """
    if len(faults) < 2:
        raise UserError(f"--faults {len(faults)} must be at least 2, one for each run")
    cut = 3 * len(faults) // 5
    late = ["kill-at-end", "kill-in-model-folder"]
    first = sorted(faults[:cut], key=lambda fault: fault.kind == late[0])
    return first, sorted(faults[cut:], key=lambda fault: late.index(fault.kind) if fault.kind in late else -1)


def updates_for(faults: list[Fault]) -> int:
    """The length of a run that is not over before the last of ``faults``."""
    return sum(fault.after + SAVE_EVERY for fault in faults if fault.kind not in HARMS) + 2 * SAVE_EVERY
