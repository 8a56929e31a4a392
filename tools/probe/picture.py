"""What each task takes of each layer, as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mixvec.atomic import whole_file
from mixvec.errors import UserError


def draw(entries: list[dict[str, Any]], path: Path) -> None:
    """A panel for each model, a line for each probe: the weight of each layer, written to ``path`` whole or not at all.

    Raises:
        UserError: no probe has weights over more than one layer.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [entry for entry in entries if len(entry.get("layer_weights") or ()) > 1]
    models = list(dict.fromkeys(entry["model"] for entry in shown))
    if not models:
        raise UserError(f"--plot {path}: no probe has weights over several layers; head.layers=weighted gives them")
    figure = Figure(figsize=(1.5 + 4.0 * len(models), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(models), sharey=True, squeeze=False)[0]
    probes = list(dict.fromkeys(_probe(entry) for entry in shown))
    for axes, model in zip(panels, models, strict=True):
        own = [entry for entry in shown if entry["model"] == model]
        for entry in own:
            number, weights = probes.index(_probe(entry)), entry["layer_weights"]
            axes.plot(range(len(weights)), weights, marker="osD^v<>"[number // 10 % 7], markersize=4,
                      color=f"C{number % 10}", label=_probe(entry))  # fmt: skip
        layers = max(len(entry["layer_weights"]) for entry in own)
        axes.axhline(1 / layers, color="0.7", linewidth=0.8, linestyle="--", zorder=0)
        axes.set(title=model, xlabel="layer (0: the input embedding)", xticks=range(0, layers, max(1, layers // 8)))
    most = max(weight for entry in shown for weight in entry["layer_weights"])
    panels[0].set(ylabel="weight (dashed: all alike)", ylim=(0, 1.1 * most))
    figure.legend(*_legend(panels), loc="outside right upper", fontsize=8)
    with whole_file(path) as new:
        figure.savefig(new, format="png", dpi=120)


def _probe(entry: dict[str, Any]) -> str:
    return f"{entry['corpus']} {entry['label'] or entry['task']}"


def _legend(panels: Any) -> tuple[list[Any], list[str]]:
    """Each probe once, whichever panels have it."""
    found = {name: line for axes in panels for line, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    return list(found.values()), list(found)
