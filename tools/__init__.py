"""Applications on top of the library, each a command: ``python -m tools.NAME``."""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path


def command_parser(name: str, description: str | None) -> ArgumentParser:
    """The parser of ``python -m tools.NAME``, which prints its module's docstring as it is."""
    return ArgumentParser(
        prog=f"python -m tools.{name}", description=description, formatter_class=RawDescriptionHelpFormatter
    )


def lock_holder(run: Path) -> str | None:
    """The process on this machine that holds a run directory's lock, which is looked up and not taken."""
    try:
        inode, locks = (run / ".lock").stat().st_ino, Path("/proc/locks").read_text(encoding="utf-8")
    except OSError:
        return None
    return next((line.split()[4] for line in locks.splitlines() if f":{inode} " in line), None)
