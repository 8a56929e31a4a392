"""Which faults strike, and when: drawn from a seed before anything runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SAVE_EVERY = 3
"""Updates between checkpoints, in every run here."""

KINDS = {
    "kill-rank": "SIGKILL to one rank",
    "kill-all": "SIGKILL to all processes",
    "kill-launcher": "SIGKILL to torchrun alone",
    "kill-in-checkpoint": "SIGKILL to all while a checkpoint is written",
    "kill-in-model-folder": "SIGKILL to all while the model folder is written",
    "kill-at-end": "SIGKILL to all when the last checkpoint is written",
    "sigterm": "SIGTERM to torchrun",
    "sigint": "SIGINT to torchrun",
    "sigusr1": "SIGUSR1 to the ranks",
    "full-disk": "the disk fills",
    "full-disk-at-start": "started on a full disk",
    "flipped-byte": "a byte of the newest checkpoint flipped",
    "cut-file": "a file of the newest checkpoint cut short",
    "lost-file": "a file of the newest checkpoint removed",
}
GRACEFUL = ("kill-launcher", "sigterm", "sigint", "sigusr1")
"""The run saves before it ends, so no update is repeated."""
FULL = ("full-disk", "full-disk-at-start")
HARMS = ("flipped-byte", "cut-file", "lost-file")
"""Done to a checkpoint between two sessions."""
LATE = ("kill-at-end", "kill-in-model-folder")
"""Last in their run: a fine-tuning is sure to write its model folder only after its last update."""


@dataclass(frozen=True)
class Fault:
    kind: str
    after: int
    """Updates into its session; 0: during start-up."""
    share: float
    """In [0, 1): how far into start-up, which rank or file, how much room is left."""


def draw(count: int, seed: int, *, disk: bool) -> list[Fault]:
    """Faults of every kind in turn, each round in another order; the full disks only with ``disk``."""
    rng = np.random.default_rng(seed)
    kinds = [kind for kind in KINDS if disk or kind not in FULL]
    faults: list[Fault] = []
    while len(faults) < count:
        for kind in rng.permutation(kinds).tolist():
            anytime = kind not in ("kill-in-checkpoint", *LATE, *FULL, *HARMS)
            after = 0 if anytime and rng.random() < 0.2 else int(rng.integers(1, 2 * SAVE_EVERY))
            faults.append(Fault(kind, after, float(rng.random())))
    return faults[:count]


def split(faults: list[Fault]) -> tuple[list[Fault], list[Fault]]:
    """Three in five for the pretraining, the others for the fine-tuning; the late ones last in each."""
    cut = 3 * len(faults) // 5
    first = sorted(faults[:cut], key=lambda fault: fault.kind == "kill-at-end")
    return first, sorted(faults[cut:], key=lambda fault: LATE.index(fault.kind) if fault.kind in LATE else -1)


def updates_for(faults: list[Fault]) -> int:
    """The length of a run that is not complete before the last of ``faults``."""
    return sum(fault.after + SAVE_EVERY for fault in faults if fault.kind not in HARMS) + 2 * SAVE_EVERY
