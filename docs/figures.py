"""Draw docs/figure.svg (the encoder, SummaryMixing, and cost against length) and docs/layers.svg (which layers probes
read), and both for a dark page.

    python docs/figures.py            # from docs/data/*.json; performance.md and evaluation.md have their commands

Lines differ by dash and marker as well as colour, so that the figure can be read in black and white.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

DOCS = Path(__file__).resolve().parent
THEMES = {
    "figure": {"ink": "#1b1f24", "muted": "#57606a", "fill": "#f3f5f7", "ours": "#0b5fc0", "accent": "#dce9f9"},
    "figure-dark": {"ink": "#e6edf3", "muted": "#9aa4af", "fill": "#20262d", "ours": "#6cb2ff", "accent": "#1c3350"},
}
Point = tuple[float, float]
STYLE: Any = {"font.family": "sans-serif", "svg.fonttype": "none", "svg.hashsalt": "mixvec", "font.size": 9}
SYSTEMS = {"SummaryMixing": ("-", "o", "ours"), "self-attention": ("--", "s", "ink")}


def box(axis: Any, colours: dict[str, str], x: float, y: float, text: str, width: float, accent: bool = False) -> None:
    """A box centred at (x, y) with its text."""
    shape = FancyBboxPatch(
        (x - width / 2, y - 0.34), width, 0.68, boxstyle="round,pad=0,rounding_size=0.12", linewidth=1,
        edgecolor=colours["ours"] if accent else colours["muted"], facecolor=colours["accent" if accent else "fill"],
    )  # fmt: skip
    axis.add_patch(shape)
    axis.text(x, y, text, ha="center", va="center", color=colours["ink"])


def arrow(axis: Any, colours: dict[str, str], start: Point, end: Point) -> None:
    colour = colours["muted"]
    axis.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", shrinkA=0, shrinkB=0, mutation_scale=8, color=colour))


def draw_encoder(axis: Any, colours: dict[str, str]) -> None:
    """The encoder from bottom to top: front end, blocks, frames."""
    axis.set(xlim=(-2.6, 2.6), ylim=(0, 9.4), title="encoder (base)")
    column = ["waveform, 16 kHz", "log-mel, 10 ms", "2 convolutions, 20 ms", "linear, mask, positions"]
    heights = [0.6, 1.6, 2.6, 3.6]
    for y, text in zip(heights, column, strict=True):
        box(axis, colours, 0, y, text, 3.4)
    inner = ["½ feed-forward", "SummaryMixing", "convolution", "½ feed-forward"]
    frame = FancyBboxPatch((-1.95, 4.25), 3.9, 3.5, boxstyle="round,pad=0,rounding_size=0.15", linewidth=1,
                           edgecolor=colours["muted"], facecolor="none", linestyle=":")  # fmt: skip
    axis.add_patch(frame)
    axis.text(2.08, 6.0, "12 ×", color=colours["ink"], va="center")
    for y, text in zip((4.75, 5.58, 6.41, 7.24), inner, strict=True):
        box(axis, colours, 0, y, text, 3.0, accent=text == "SummaryMixing")
    box(axis, colours, 0, 8.7, "frames (T, 768)", 3.4)
    for low, high in zip([*heights, 7.75], [*heights[1:], 4.25, 8.7], strict=True):
        arrow(axis, colours, (0, low + (0.34 if low != 7.75 else 0)), (0, high - (0.34 if high != 4.25 else 0)))


def draw_mixer(axis: Any, colours: dict[str, str]) -> None:
    """SummaryMixing: what each frame keeps, and the one mean that all frames share."""
    axis.set(xlim=(-2.6, 2.6), ylim=(0, 9.4), title="SummaryMixing")
    box(axis, colours, 0, 1.1, "frames x (T, D)", 2.8)
    box(axis, colours, -1.25, 3.0, "f(xₜ)", 1.7)
    box(axis, colours, 1.25, 3.0, "s(xₜ)", 1.7)
    box(axis, colours, 1.25, 4.9, "mean over t", 2.1, accent=True)
    box(axis, colours, 0, 6.8, "hₜ = c( f(xₜ), mean )", 3.0)
    box(axis, colours, 0, 8.7, "frames h (T, D)", 2.8)
    ends = [((-0.6, 1.44), (-1.25, 2.66)), ((0.6, 1.44), (1.25, 2.66)), ((1.25, 3.34), (1.25, 4.56)),
            ((-1.25, 3.34), (-0.8, 6.46)), ((1.25, 5.24), (0.8, 6.46)), ((0, 7.14), (0, 8.36))]  # fmt: skip
    for start, end in ends:
        arrow(axis, colours, start, end)


def draw_cost(axis: Any, colours: dict[str, str], measured: dict[str, Any]) -> None:
    """Milliseconds of work for a second of audio against the clip's length, from the rows of ``tools.bench mixers``."""
    lengths = set()
    for system, (dash, marker, colour) in SYSTEMS.items():
        rows = [row for row in measured["rows"] if row["case"].startswith("mixer,") and row["system"] == system]
        points = sorted((float(row["case"].split()[-2]), 1000 / row["audio_s_per_s"]) for row in rows)
        axis.plot(*zip(*points, strict=True), dash, marker=marker, color=colours[colour], linewidth=1.8, markersize=5)
        axis.annotate(system, points[-1], (-10, 7), textcoords="offset points", ha="right", color=colours[colour])
        lengths |= {length for length, _ in points}
    axis.margins(0.06, 0.1)
    axis.set(xscale="log", yscale="log", xlabel="length of the audio, s", title="ms of work per second of audio")
    axis.set_xticks(sorted(lengths), [f"{length:g}" for length in sorted(lengths)])
    low, high = axis.get_ylim()
    ticks = [digit * 10.0**power for power in range(-2, 5) for digit in (1, 2, 5) if low < digit * 10.0**power < high]
    axis.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()
    style_axis(axis, colours)


def style_axis(axis: Any, colours: dict[str, str]) -> None:
    """Ticks, grid and spines in the colours of the page."""
    axis.tick_params(colors=colours["muted"], labelcolor=colours["ink"])
    axis.xaxis.label.set_color(colours["ink"])
    axis.grid(True, axis="y", color=colours["muted"], alpha=0.25)
    for side, spine in axis.spines.items():
        spine.set(visible=side in ("left", "bottom"), color=colours["muted"])


def draw_layers(axis: Any, colours: dict[str, str], probes: list[dict[str, Any]]) -> None:
    """The weight of each layer in frozen probes, from the ``probes.json`` of ``tools.probe``."""
    styles = (("-", "o", "ours"), ("--", "s", "ink"), (":", "^", "muted"))
    for (dash, marker, colour), probe in zip(styles, probes, strict=True):
        label = f"{probe['task']}, {probe['corpus']} corpus"
        axis.plot(probe["layer_weights"], dash, marker=marker, color=colours[colour], linewidth=1.8, label=label)
    axis.set(xlabel="layer (0: the input embedding)", title="weight in the probe", ylim=(0, 1))
    axis.set_xticks(range(len(probes[0]["layer_weights"])))
    axis.legend(frameon=False, labelcolor=colours["ink"])
    style_axis(axis, colours)


def main() -> None:
    probes = json.loads((DOCS / "data/layers.json").read_text(encoding="utf-8"))
    measured = json.loads((DOCS / "data/mixers.json").read_text(encoding="utf-8"))
    for name, colours in THEMES.items():
        with matplotlib.rc_context(STYLE):
            figure = Figure(figsize=(9.4, 4.1), layout="constrained")
            encoder, mixer, cost = figure.subplots(1, 3, width_ratios=(1, 1, 1.25))
            for axis, draw in ((encoder, draw_encoder), (mixer, draw_mixer)):
                draw(axis, colours)
                axis.set_axis_off()
            draw_cost(cost, colours, measured)
            for axis in (encoder, mixer, cost):
                axis.title.set(color=colours["ink"], fontsize=10)
                axis.patch.set_alpha(0)
            figure.savefig(DOCS / f"{name}.svg", transparent=True, metadata={"Date": None})
            figure = Figure(figsize=(5.2, 3.2), layout="constrained")
            draw_layers(axis := figure.subplots(), colours, probes)
            axis.title.set(color=colours["ink"], fontsize=10)
            figure.savefig(DOCS / f"{name.replace('figure', 'layers')}.svg", transparent=True, metadata={"Date": None})


if __name__ == "__main__":
    main()
