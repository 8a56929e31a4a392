"""Systems for the tests of the bench: each does one thing that a real one might."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch

from tools.bench.measure import Work

BLOCK_MB = 256


def log(name: str, path: str) -> Work:
    """Appends its name to a file at each step, and takes as long as a turn."""

    def step() -> None:
        with Path(path).open("a") as file:
            file.write(name)
        time.sleep(0.35)

    return Work(step, "a note")


def fill() -> Work:
    return Work(lambda: torch.ones(BLOCK_MB * 2**18))


def crash() -> Work:
    os._exit(7)


def fail(text: str) -> Work:
    raise ValueError(text)


def greedy() -> Work:
    return Work(lambda: torch.empty(2**50))
