"""Systems for the tests of the bench: each does one thing that a real one might."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from tools.bench.cases import Case, Work

BLOCK_MB = 64


def mixer(case: Case, variant: str) -> Work:
    """``variant`` is what it does, a colon, and what that needs."""
    kind, _, given = variant.partition(":")
    return {"log": _log, "fill": _fill, "greedy": _greedy, "crash": _crash, "raise": _raise}[kind](given)


def _log(given: str) -> Work:
    """Writes its name into a file at each unit of work: ``name@path``."""
    name, _, path = given.partition("@")

    def step() -> None:
        with Path(path).open("a") as file:
            file.write(name)

    return Work(step, "a note")


def _fill(given: str) -> Work:
    return Work(lambda: torch.ones(BLOCK_MB * 2**18))


def _greedy(given: str) -> Work:
    """Fits at first."""
    sizes = iter([10, 10])
    return Work(lambda: torch.empty(next(sizes, 2**50)))


def _crash(given: str) -> Work:
    os._exit(7)


def _raise(given: str) -> Work:
    raise ValueError(given)
