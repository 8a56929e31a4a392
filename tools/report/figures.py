"""Figures of a report: SVG whose colours are the page's own, or PNG for a model card; each with its text."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple

import matplotlib
import matplotlib.patches
import matplotlib.ticker
import numpy as np
from markupsafe import Markup

matplotlib.use("svg")
from matplotlib.figure import Figure

STYLES = ("-", "--", "-.", ":")
MARKERS = "osD^vPX*"
"""Lines and points differ by form as well as by colour, so that a page can be printed in black and white."""
COLOURS = 6
POINTS, MOST_MARKS = 240, 40
"""Points that a curve is thinned to, and warnings that are drawn on it."""
RC: Any = {
    "font.family": "sans-serif", "font.size": 9, "svg.fonttype": "none", "text.parse_math": False,
    "axes.spines.top": False, "axes.spines.right": False, "axes.xmargin": 0.02, "path.simplify_threshold": 0.5,
}  # fmt: skip
UNSHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_numbers = count()


class Drawing(NamedTuple):
    """A figure of the page."""

    title: str
    svg: Markup
    text: str
    """What the figure shows, in words and numbers."""


@dataclass
class Line:
    """A curve over updates."""

    label: str
    """Empty where another line of its group has it."""
    updates: np.ndarray
    values: np.ndarray
    colour: int = 0
    style: int = 0
    baseline: bool = False
    """Something to compare with, in the colour of text."""


class Palette:
    """Colours of a figure: the page's, which follow its theme, or fixed ones on white."""

    def __init__(self, page: bool = True) -> None:
        fixed = ("#0b62c4", "#b1480a", "#0f7a4d", "#7a3fd0", "#a3195b", "#5d6b00")
        self.ink, self.faint = ("#010101", "#010102") if page else ("#1b1f24", "#c4cad1")
        self.lines = [f"#01020{number}" for number in range(COLOURS)] if page else list(fixed)

    def line(self, number: int) -> str:
        return self.lines[number % COLOURS]


def new_figure(width: float, height: float, palette: Palette, heights: Sequence[float] = (1,)) -> Any:
    """A figure of that many inches and its axes, one above the other, of these relative heights."""
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axis in axes:
        axis.patch.set_alpha(0)
        axis.tick_params(colors=palette.faint, labelcolor=palette.ink, length=3)
        axis.spines[["left", "bottom"]].set_color(palette.faint)
        axis.set_axisbelow(True)
    return figure, axes


def svg(figure: Any) -> Markup:
    """The figure as an SVG element for a page: text as text, no ids that another figure has, hidden from readers.

    The page's caption has the text of each figure, so the element itself is an image without a name.
    """
    out = io.StringIO()
    with matplotlib.rc_context(RC | {"svg.hashsalt": "mixvec"}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the browser may have a glyph that matplotlib's font lacks
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    text = out.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\n?", "", text, flags=re.DOTALL)
    head = re.match(r'<svg [^>]*?width="([\d.]+)pt"', text)
    box = re.search(r'viewBox="[^"]*"', text)
    assert head and box
    text = (
        f'<svg {box[0]} style="width:{float(head[1]) * 4 / 3:.0f}px" aria-hidden="true">' + text[text.index(">") + 1 :]
    )
    own = f"f{next(_numbers)}-"
    used = set(re.findall(r'(?:url\(#|href="#)([\w-]+)', text))
    text = re.sub(r' id="([\w-]+)"', lambda found: f' id="{own}{found[1]}"' if found[1] in used else "", text)
    text = re.sub(r'(url\(#|href="#)([\w-]+)', rf"\1{own}\2", text)
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    names = {"#010101": "var(--ink)", "#010102": "var(--faint)"} | {
        f"#01020{n}": f"var(--c{n})" for n in range(COLOURS)
    }
    return Markup(re.sub("#01(?:0[12]0[0-9]|[0-9]{4})", lambda found: names.get(found[0], found[0]), text))


def png(figure: Any) -> bytes:
    """The figure on white, for where no style sheet applies."""
    out = io.BytesIO()
    with matplotlib.rc_context(RC):
        figure.savefig(out, format="png", dpi=150, facecolor="white", metadata={"Software": None})
    return out.getvalue()


def clean(text: Any) -> str:
    """Text without what cannot be shown: control characters, halves of surrogates, changes of direction."""
    return UNSHOWN.sub("\ufffd", str(text))


def plain(text: Any, most: int = 60) -> str:
    """Text for a figure: one line of at most so many characters."""
    line = " ".join(clean(str(text)[: 4 * most]).split())
    return line if len(line) <= most else line[: most - 1] + "…"


def thin(updates: np.ndarray, values: np.ndarray, most: int = POINTS) -> tuple[np.ndarray, ...]:
    """Updates, means, lowest and highest values (N,) of at most so many equal parts of a curve."""
    known = np.isfinite(values)
    updates, values = updates[known], values[known]
    if len(values) <= most:
        return updates, values, values, values
    starts = np.linspace(0, len(values), most, endpoint=False).astype(int)
    sizes = np.diff(np.append(starts, len(values)))
    means = np.add.reduceat(values, starts) / sizes
    return (np.append(updates[starts[1:] - 1], updates[-1]), means, np.minimum.reduceat(values, starts),
            np.maximum.reduceat(values, starts))  # fmt: skip


def curves(
    lines: list[Line], unit: str, palette: Palette, marks: dict[int, list[int]], log: bool = False,
    x_label: str = "update", size: tuple[float, float] = (4.0, 2.5),
) -> Any:  # fmt: skip
    """Curves over updates, with the numbers of warnings where they were given.

    Args:
        marks: the updates of each warning, by its number in the page's list.
    """
    figure, (axis,) = new_figure(*size, palette)
    for line in lines:
        updates, means, low, high = thin(line.updates, line.values)
        colour = palette.ink if line.baseline else palette.line(line.colour)
        style, width = (":", 1.1) if line.baseline else (STYLES[line.style % len(STYLES)], 1.6)
        dot = "o" if len(updates) == 1 else None
        axis.plot(updates, means, style, color=colour, linewidth=width, marker=dot, label=plain(line.label) or None)
        if len(updates) == POINTS:
            axis.fill_between(updates, low, high, color=colour, alpha=0.18, linewidth=0)
    low, high = axis.dataLim.intervaly
    if log and 0 < 10 * low < high:
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    elif low >= 0:
        axis.set_ylim(bottom=0)
    places = [(update, number) for number, updates in marks.items() for update in updates][:MOST_MARKS]
    for update, number in places:
        axis.axvline(update, color=palette.ink, linewidth=0.7, linestyle=(0, (1, 2)))
        axis.annotate(str(number), (update, 1), xycoords=("data", "axes fraction"), ha="center", color=palette.ink,
                      fontsize=8, fontweight="bold")  # fmt: skip
    axis.set_xlabel(x_label, color=palette.ink, fontsize=8)
    axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5, integer=True))
    axis.xaxis.set_major_formatter(matplotlib.ticker.EngFormatter(sep=""))
    if unit == "%":
        axis.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0, symbol=" %"))
    axis.grid(axis="y", color=palette.faint, alpha=0.5, linewidth=0.6)
    if any(line.label for line in lines):
        figure.legend(loc="outside upper left", ncols=2, frameon=False, labelcolor=palette.ink, fontsize=8,
                      handlelength=2.2)  # fmt: skip
    return figure


def dots(names: Sequence[str], groups: Sequence[tuple[str, list[Any]]], axis_label: str, palette: Palette) -> Any:
    """Rows of points in per cent, a point for each value or, with its interval, for each (value, low, high).

    Args:
        groups: label and values of each group: a list for each of ``names``.
    """
    figure, (axis,) = new_figure(4.6, 0.75 + 0.3 * len(names) * max(1, len(groups)), palette)
    for number, (label, rows) in enumerate(groups):
        shift = (number - (len(groups) - 1) / 2) * 0.5 / max(1, len(groups) - 1)
        for place, values in enumerate(rows):
            colour = palette.line(number if len(groups) > 1 else place)
            y, known = place + shift, [100 * np.atleast_1d(value) for value in values]
            for value in known:
                axis.plot(value[0], y, MARKERS[number % len(MARKERS)], color=colour, markersize=6, alpha=0.9,
                          label=plain(label) if label and not place and value is known[0] else None)  # fmt: skip
                if len(value) == 3:
                    axis.plot(value[1:], [y, y], "-", color=colour, linewidth=1.2)
    axis.set_yticks(range(len(names)), [plain(name, 28) for name in names])
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.margins(x=0.06)
    axis.set_xlim(left=0)
    axis.set_xlabel(plain(axis_label), color=palette.ink, fontsize=8)
    axis.grid(axis="x", color=palette.faint, alpha=0.5, linewidth=0.6)
    if len(groups) > 1:
        figure.legend(loc="outside upper left", ncols=2, frameon=False, labelcolor=palette.ink, fontsize=8)
    return figure


def matrix(labels: Sequence[str], shares: np.ndarray, palette: Palette) -> Any:
    """A confusion matrix (N, N) of shares of each row, a row for each reference."""
    side = 1.9 + 0.26 * len(labels)
    figure, (axis,) = new_figure(side + 0.8, side, palette)
    for row, column in np.argwhere(shares > 0):
        share, colour = shares[row, column], palette.line(0 if row == column else 1)
        square = matplotlib.patches.Rectangle((column - 0.5, row - 0.5), 1, 1, lw=0, alpha=0.1 + 0.4 * share, fc=colour)
        axis.add_patch(square)
        if len(labels) <= 25:
            axis.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=7, color=palette.ink)
    shown = [plain(label, 20) for label in labels]
    axis.set_xticks(range(len(labels)), shown, rotation=90)
    axis.set_yticks(range(len(labels)), shown)
    axis.set(xlim=(-0.5, len(labels) - 0.5), ylim=(len(labels) - 0.5, -0.5), aspect="equal")
    axis.set_xlabel("prediction", color=palette.ink)
    axis.set_ylabel("reference", color=palette.ink)
    return figure
