"""Applications on top of the library, each a command: ``python -m tools.NAME``."""

from argparse import ArgumentParser, RawDescriptionHelpFormatter


def command_parser(name: str, description: str | None) -> ArgumentParser:
    """The parser of ``python -m tools.NAME``, which prints its module's docstring as it is."""
    return ArgumentParser(
        prog=f"python -m tools.{name}", description=description, formatter_class=RawDescriptionHelpFormatter
    )
