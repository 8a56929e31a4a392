"""The ``mixvec`` command: published models on audio, and training, in any folder; ``parser.py`` has its options."""

from __future__ import annotations

import sys

from ..errors import run_cli


def main() -> None:
    """Run the command line: exit 0, 1 where a file or the model failed, 2 for wrong usage, 130 after Ctrl-C, 141 where
    the reader of the output, such as ``head``, has closed it."""
    run_cli(_main)


def _main() -> None:
    from .checkout import MODULES, run_module

    if sys.argv[1:2] and sys.argv[1] in MODULES:
        run_module(sys.argv[1], sys.argv[2:])
        return
    from .commands import run_command, run_export, run_serve
    from .listen import run_listen
    from .parser import parser

    args = parser().parse_args()
    {"export": run_export, "listen": run_listen, "serve": run_serve}.get(args.command, run_command)(args)
