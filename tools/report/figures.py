"""Figures of a report: SVG whose colours are the page's own, or PNG for a model card; each with its text."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from cycler import cycler
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullLocator, PercentFormatter

STYLES = ("-", "--", "-.", ":")
"""Lines differ by form as well as by colour, so that a page can be printed in black and white."""
POINTS, MOST_MARKS = 240, 40
"""Points that a curve is thinned to, and warnings that are drawn on it."""
UNSHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_numbers = count()


def theme(ink: str, faint: str, colours: Sequence[str]) -> dict[Any, Any]:
    """matplotlib's settings, with these colours for text, for axes, and for lines."""
    inks = ("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor")
    faints = ("xtick.color", "ytick.color", "axes.edgecolor", "grid.color")
    return dict.fromkeys(inks, ink) | dict.fromkeys(faints, faint) | {
        "axes.prop_cycle": cycler(color=colours), "font.sans-serif": ["DejaVu Sans"], "font.size": 9,
        "svg.fonttype": "none", "text.parse_math": False, "figure.constrained_layout.use": True,
        "axes.facecolor": "none", "axes.labelsize": 8, "axes.spines.top": False, "axes.spines.right": False,
        "axes.xmargin": 0.02, "axes.axisbelow": True, "grid.alpha": 0.5, "grid.linewidth": 0.6, "xtick.major.size": 3,
        "ytick.major.size": 3, "legend.fontsize": 8, "legend.frameon": False, "legend.handlelength": 2.2,
        "lines.linewidth": 1.6, "path.simplify_threshold": 0.5,
    }  # fmt: skip


PAGE = theme("#010206", "#010207", [f"#01020{number}" for number in range(6)])
"""Each colour is a placeholder: its last digit is the number of a custom property of the page's style sheet."""
PAPER = theme("#1b1f24", "#c4cad1", ("#0b62c4", "#b1480a", "#0f7a4d", "#7a3fd0", "#a3195b", "#5d6b00"))


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
    number: int | None = None
    """Of its colour and style; None for something to compare with, in the colour of text."""


def svg(draw: Callable[..., Figure], *arguments: Any) -> Markup:
    """A figure as an SVG element for a page: text as text, no ids that another figure has, hidden from readers.

    The page's caption has the text of each figure, so the element itself is an image without a name.
    """
    out = io.StringIO()
    with matplotlib.rc_context(PAGE | {"svg.hashsalt": f"mixvec{next(_numbers)}"}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the browser may have a glyph that matplotlib's font lacks
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        draw(*arguments).savefig(out, format="svg", transparent=True, metadata=nothing)
    text = out.getvalue()
    text = re.sub(r' id="[\w.]+_\d+"', "", text[text.index("<svg") :])  # hashed ids, which are referred to, stay
    return Markup(re.sub(r"#01020(\d)", r"var(--c\1)", text).replace("<svg", '<svg aria-hidden="true"', 1))


def png(draw: Callable[..., Figure], *arguments: Any) -> bytes:
    """A figure on white, for where no style sheet applies."""
    out = io.BytesIO()
    with matplotlib.rc_context(PAPER):
        draw(*arguments).savefig(out, format="png", dpi=150, facecolor="white", metadata={"Software": None})
    return out.getvalue()


def clean(text: Any) -> str:
    """Text without what cannot be shown: control characters, halves of surrogates, changes of direction."""
    return UNSHOWN.sub("\ufffd", str(text))


def plain(text: Any, most: int = 60) -> str:
    """Text for a figure: one line of at most so many characters."""
    line = " ".join(clean(str(text)[: 4 * most]).split())
    return line if len(line) <= most else line[: most - 1] + "…"


def thin(updates: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, ...]:
    """Updates, means, lowest and highest values (N,) of at most ``POINTS`` equal parts of a curve."""
    known = np.isfinite(values)
    updates, values = updates[known], values[known]
    if len(values) <= POINTS:
        return updates, values, values, values
    starts = np.linspace(0, len(values), POINTS, endpoint=False).astype(int)
    ends = np.append(starts[1:], len(values))
    means = np.add.reduceat(values, starts) / (ends - starts)
    return updates[ends - 1], means, np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)


def curves(
    lines: list[Line], unit: str = "", marks: dict[int, list[int]] | None = None, log: bool = False,
    x_label: str = "update",
) -> Figure:  # fmt: skip
    """Curves over updates, with the numbers of warnings where they were given.

    Args:
        marks: the updates of each warning, by its number in the page's list.
    """
    figure = Figure(figsize=(4.0, 2.5))
    axis = figure.subplots()
    ink = matplotlib.rcParams["text.color"]
    for line in lines:
        updates, means, low, high = thin(line.updates, line.values)
        style = {"color": ink, "linestyle": ":", "linewidth": 1.1} if line.number is None else {
            "color": f"C{line.number}", "linestyle": STYLES[line.number % len(STYLES)]}  # fmt: skip
        dot = "o" if len(updates) < 6 else None
        axis.plot(updates, means, marker=dot, markersize=4, label=plain(line.label) or None, **style)
        if len(updates) == POINTS:
            axis.fill_between(updates, low, high, color=style["color"], alpha=0.18, linewidth=0)
    low, high = axis.dataLim.intervaly
    if log and 0 < 10 * low < high:
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_locator(NullLocator())
    elif low >= 0:
        axis.set_ylim(bottom=0)
    for update, number in [(update, n) for n, own in (marks or {}).items() for update in own][:MOST_MARKS]:
        axis.axvline(update, color=ink, linewidth=0.7, linestyle=(0, (1, 2)))
        axis.annotate(str(number), (update, 1), xycoords=("data", "axes fraction"), ha="center", fontsize=8,
                      fontweight="bold")  # fmt: skip
    axis.set_xlabel(x_label)
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    if unit == "%":
        axis.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    axis.grid(axis="y")
    if any(line.label for line in lines):
        figure.legend(loc="outside upper left", ncols=2)
    return figure


def dots(rows: dict[str, list[float]], axis_label: str) -> Figure:
    """A row of points, in per cent, for each name."""
    figure = Figure(figsize=(4.6, 0.75 + 0.3 * len(rows)))
    axis = figure.subplots()
    for place, values in enumerate(rows.values()):
        axis.plot([100 * value for value in values], [place] * len(values), "o", alpha=0.9, color=f"C{place}")
    axis.set_yticks(range(len(rows)), [plain(name, 28) for name in rows])
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.margins(x=0.06)
    axis.set_xlim(left=0)
    axis.set_xlabel(axis_label)
    axis.grid(axis="x")
    return figure


def matrix(labels: Sequence[str], shares: np.ndarray) -> Figure:
    """A confusion matrix (N, N) of shares of each row, a row for each reference."""
    side = 1.9 + 0.26 * len(labels)
    figure = Figure(figsize=(side + 0.8, side))
    axis = figure.subplots()
    for row, column in np.argwhere(shares > 0):
        share, colour = shares[row, column], "C0" if row == column else "C1"
        axis.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, lw=0, alpha=0.1 + 0.4 * share, fc=colour))
        if len(labels) <= 25:
            axis.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=7)
    shown = [plain(label, 20) for label in labels]
    axis.set_xticks(range(len(labels)), shown, rotation=90)
    axis.set_yticks(range(len(labels)), shown)
    axis.set(xlim=(-0.5, len(labels) - 0.5), ylim=(len(labels) - 0.5, -0.5), aspect="equal", xlabel="prediction",
             ylabel="reference")  # fmt: skip
    return figure


def spectrogram(mel: np.ndarray, seconds: float, emitted: list[tuple[str, list[tuple[float, str]]]]) -> Figure:
    """A log-mel spectrogram (M, T), and under it a row for each model: the tokens in the middle of their time in s."""
    figure = Figure(figsize=(min(20.0, max(3.4, 2.2 * seconds)), 1.5 + 0.42 * len(emitted)))
    top, *rows = figure.subplots(1 + len(emitted), sharex=True, squeeze=False,
                                 height_ratios=[4] + [1] * len(emitted))[:, 0]  # fmt: skip
    top.imshow(mel, origin="lower", aspect="auto", cmap="Greys", interpolation="none", extent=(0, seconds, 0, len(mel)))
    for axis, (name, tokens) in zip(rows, emitted, strict=True):
        for time_s, token in tokens:
            axis.text(time_s, 0.42, plain(token, 12), ha="center", va="center", fontsize=8)
        axis.set_title(plain(name, 40), loc="left", fontsize=7, pad=1)
    for axis in (top, *rows):
        axis.set_yticks([])
    axis.set_xlabel("s")
    return figure
