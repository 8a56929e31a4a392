"""``mixvec pretrain``, ``finetune`` and the tools of a checkout, in whichever folder they are typed."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from ..errors import UserError

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("bench", "corpus", "decode", "demo", "doctor", "fit", "inspect", "probe", "publish", "score")
MODULES = {"pretrain": "pretrain", "finetune": "finetune", **{name: f"tools.{name}" for name in TOOLS}}
"""The module that each command runs, as ``python -m`` does in the checkout."""


def run_module(name: str, arguments: list[str]) -> None:
    """Run a command of the checkout that mixvec is installed from; ``configs/…`` is found there too."""
    if not (ROOT / "pretrain" / "__main__.py").is_file():
        raise UserError(f"mixvec {name}: not in the package, which has published models alone; clone mixvec's "
                        "repository and run `make install` in it")  # fmt: skip
    sys.path.insert(0, str(ROOT))
    shipped = [str(ROOT / word) if word.endswith(".yaml") and not Path(word).exists() and (ROOT / word).is_file()
               else word for word in arguments]  # fmt: skip
    sys.argv = [f"mixvec {name}", *shipped]
    runpy.run_module(MODULES[name], run_name="__main__", alter_sys=True)
