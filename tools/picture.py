"""Pictures: checked before any work, written as a PNG whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mixvec.atomic import whole_file
from mixvec.errors import UserError


def check_plot(path: Path) -> None:
    """Check, before any work, that a picture can be drawn.

    Raises:
        UserError: matplotlib is not installed, or the name is not a PNG's.
    """
    if path.suffix.lower() != ".png":
        raise UserError(f"--plot {path}: the picture is a PNG; give it a name that ends in .png")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UserError("--plot needs matplotlib: pip install matplotlib, or mixvec's extra [dev]") from error


def figure(width: float, height: float) -> Any:
    """An empty figure of that many inches, which needs no display."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def write(page: Any, path: Path) -> None:
    """The figure as a PNG at ``path``."""
    with whole_file(path) as new:
        page.savefig(new, format="png", dpi=120)
