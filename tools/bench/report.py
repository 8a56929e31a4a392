"""What was measured, for people and for programs: a Markdown table, JSON, and a plot of cost against length."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from mixvec.errors import UserError

from .measure import Row

TITLES = (
    "suite",
    "case",
    "system",
    "seconds (range)",
    "peak MB",
    "audio s/s",
    "time / ours",
    "of peak",
    "note",
)


def header(preset: str, device: str) -> dict[str, Any]:
    """Where and how it was measured."""
    name = torch.cuda.get_device_name() if device == "cuda" and torch.cuda.is_available() else _processor()
    return {"preset": preset, "device": name, "torch": torch.__version__, "threads": torch.get_num_threads(),
            "cores": os.cpu_count(), "python": platform.python_version()}  # fmt: skip


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def table_head() -> str:
    return "\n".join([_line(TITLES), _line(["---"] * len(TITLES))])


def table_row(row: Row) -> str:
    """A line of the table; a dash where nothing was measured."""
    spread = f"{row.seconds:.4g} ({row.seconds_min:.4g} to {row.seconds_max:.4g})" if row.seconds is not None else "-"
    return _line([
        row.suite, row.case, row.system, spread, _cell(row.peak_mb, ".0f"), _cell(row.audio_s_per_s, ",.4g"),
        _cell(row.ratio_to_ours, ".2f"), _cell(row.share_of_peak, ".1%"), row.note.replace("|", "/"),
    ])  # fmt: skip


def _line(cells: Any) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def write_json(path: Path, facts: dict[str, Any], rows: list[Row]) -> None:
    """The header's facts, and ``rows``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(facts | {"rows": [asdict(row) for row in rows]}, indent=1) + "\n", encoding="utf-8")
    part.replace(path)


def require_matplotlib() -> Any:
    """matplotlib's figure class, which needs no display.

    Raises:
        UserError: it is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError(f"--plot needs matplotlib: pip install 'mixvec[dev]' (now: {error})") from None
    return Figure


def write_plot(path: Path, facts: dict[str, Any], rows: list[Row]) -> None:
    """A panel per group of cases: seconds of work per second of audio against the clips' length, a line per system."""
    measured = [row for row in rows if row.audio_s_per_s is not None]
    if not measured:
        raise UserError(f"{path}: not drawn, since nothing was measured")
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(facts, measured).savefig(path, dpi=120, format="png")


def draw(facts: dict[str, Any], measured: list[Row]) -> Any:
    """The figure of ``write_plot``."""
    panels = list(dict.fromkeys((row.suite, row.group) for row in measured))
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure = require_matplotlib()(figsize=(5 * columns, 4 * lines), layout="constrained")
    figure.suptitle(f"{facts['device']}, threads {facts['threads']}, torch {facts['torch']}", fontsize="small")
    axes = figure.subplots(lines, columns, squeeze=False).flatten()
    for panel, axis in zip(panels, axes, strict=False):
        own = [row for row in measured if (row.suite, row.group) == panel]
        for system in dict.fromkeys(row.system for row in own):
            points = sorted((row.length_s, 1.0 / row.audio_s_per_s) for row in own if row.system == system)
            axis.plot(*zip(*points, strict=True), marker="o", label=system)
        axis.set(xscale="log", yscale="log", xlabel="length of a clip, s", ylabel="seconds per second of audio",
                 title=panel[0] if panel[0] == panel[1] else f"{panel[0]}: {panel[1]}")  # fmt: skip
        lengths = sorted({row.length_s for row in own})
        axis.set_xticks(lengths, [f"{length:g}" for length in lengths])
        axis.xaxis.minorticks_off()  # the y axis keeps its own: within one power of ten they carry its only numbers
        axis.legend(fontsize="small")
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    return figure
