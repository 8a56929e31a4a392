"""Pictures of what ``tools.inspect`` found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mixvec.atomic import whole_file
from mixvec.errors import UserError

BLUE, ORANGE = "#3465a4", "#ce5c00"


def check_plot(path: Path) -> None:
    """See, before any work, that the picture can be drawn.

    Raises:
        UserError: matplotlib is not installed, or the name is not a PNG's.
    """
    if path.suffix.lower() != ".png":
        raise UserError(f"--plot {path}: the picture is a PNG; give it a name that ends in .png")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UserError("--plot needs matplotlib: pip install matplotlib, or mixvec's extra [dev]") from error


def draw(facts: dict[str, Any], path: Path) -> None:
    """Hours by duration beside padding by update, written to ``path`` whole or not at all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    _durations(left, facts)
    _padding(right, facts["plan"])
    with whole_file(path) as new:
        figure.savefig(new, format="png", dpi=120)


def _durations(axes: Any, facts: dict[str, Any]) -> None:
    rows = facts["histogram"]
    used = [i for i, row in enumerate(rows) if row["utterances"]]
    first, last = used[0], used[-1]
    names = [f"{row['from_s']:g}" for row in rows]
    spans = [f"{names[i]}–{names[i + 1]}" if i + 1 < len(rows) else f"{names[i]}–" for i in range(first, last + 1)]
    shown = rows[first : last + 1]
    bars = axes.bar(spans, [row["utterances"] for row in shown], color=BLUE)
    axes.bar_label(bars, [f"{row['hours']:.2f} h" if row["utterances"] else "" for row in shown], fontsize=8)
    axes.tick_params(axis="x", rotation=45)
    axes.set(xlabel="duration, s", ylabel="utterances")
    axes.set_title(f"{facts['hours']:.2f} h in {facts['utterances']:,} utterances")


def _padding(axes: Any, plan: dict[str, Any]) -> None:
    shares = [100 * share for share in plan["padding_by_update"]]
    if not shares:
        axes.set_title("nothing is left to train on")
        return
    axes.plot(range(1, len(shares) + 1), shares, ".", color=BLUE, markersize=4 if len(shares) < 500 else 2)
    axes.axhline(100 * plan["padding_share"], color=ORANGE)
    axes.set(xlabel="update of the first epoch", ylabel="padding, % of what is computed", ylim=(0, None))
    share, updates = 100 * plan["padding_share"], plan["updates_an_epoch"]
    axes.set_title(f"padding: {share:.2f} % (line) over {updates:,} updates of {plan['update_s']:g} s")
