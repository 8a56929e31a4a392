"""Systems for the tests of the bench, in a module of their own, which their processes import."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch

from tools.bench.measure import Work

BLOCK_MB = 256


def log(name: str, path: str) -> Work:
    """Appends its name to a file at each step, and takes longer than a turn."""

    def step() -> None:
        with Path(path).open("a") as file:
            file.write(name)
        time.sleep(0.02)

    return Work(step, "a note")


def fill() -> Work:
    return Work(lambda: torch.ones(BLOCK_MB * 2**18))


def crash() -> Work:
    os._exit(7)


def fail() -> Work:
    raise ValueError("a reason\nand more")


def greedy() -> Work:
    return Work(lambda: torch.empty(2**50))
