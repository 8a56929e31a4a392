"""Running a command line's ``main`` in the test's own process, and looking at what it left."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml


@dataclass(frozen=True)
class Result:
    """What a command left: its exit code and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


Run = Callable[..., Result]


def in_process(main: Callable[[], object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """A function that calls ``main`` with the words it is given on the command line."""

    def call(*words: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["command", *map(str, words)])
        code: object = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code or 0
        assert isinstance(code, int)
        return Result(code, *capsys.readouterr())

    return call


def contents(folder: Path) -> dict[str, bytes]:
    """The files in a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def card_parts(card: bytes) -> tuple[dict[str, object], str]:
    """A model card's YAML, parsed, and the text below it."""
    _, front, body = card.decode().split("---\n", 2)
    return yaml.safe_load(front), body
