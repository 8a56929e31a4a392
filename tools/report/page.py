"""The page: what each family of runs shows, put into the template, in which everything is escaped."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from omegaconf import OmegaConf

from finetune.config import FinetuneConfig
from mixvec import __version__
from mixvec.errors import UserError
from mixvec.training.config import load_config
from mixvec.training.follow import flat
from pretrain.config import PretrainConfig

from .errors import Errors, confusions, rates, word_errors
from .figures import Drawing, Line, Palette, clean, curves, plain, svg
from .runs import OWN, Group, RunFolder, differing, families
from .speech import Example, examples
from .summary import MOST_TEXT, PANELS, Panel, derive, facts, glance, panel_lines, show


@dataclass
class Section:
    """What the page shows of a family of runs."""

    title: str
    groups: list[Group]
    sentences: list[str]
    """What is seen at a glance."""
    result: Drawing | None
    facts: list[tuple[str, list[str]]]
    """Rows of a table with a column for each group."""
    keys: list[tuple[str, list[str]]]
    """Keys that differ between the groups, or from the defaults."""
    warnings: list[tuple[int, str, str, str]] = field(default_factory=list)
    """Number, run, updates and text."""
    panels: list[Drawing] = field(default_factory=list)
    layers: list[Drawing] = field(default_factory=list)
    errors: list[Drawing] = field(default_factory=list)
    tables: list[Errors] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def render(title: str, runs: list[RunFolder], reload_s: float | None = None) -> str:
    """The page of these runs as HTML, which needs nothing from elsewhere.

    Args:
        reload_s: let the page reload itself so often, unless its reader switches that off.
    """
    sections = [section(title, groups) for title, groups in families(runs).items()]
    folder = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (folder / "reload.js").read_text(encoding="utf-8").replace("RELOAD_MS", str(int(1000 * (reload_s or 0))))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("page.html").render(
        title=plain(title, 100), sections=sections, reload=reload_s is not None, script=script, digest=digest,
        version=__version__, now=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    )  # fmt: skip


def shown(value: Any) -> Any:
    """What the template prints for a value; markup is made here alone, and stays as it is."""
    return value if isinstance(value, Markup) or not isinstance(value, str) else clean(value)


def section(title: str, groups: list[Group]) -> Section:
    """Everything about a family of runs, the best group first where they have scores."""
    for run in (run for group in groups for run in group.runs):
        derive(run)
    score = groups[0].first.score
    if score is not None:
        groups.sort(key=lambda own: (not own.values, (-1 if score[1] else 1) * float(np.mean(own.values or [0.0]))))
    keys = differing(groups) if len(groups) > 1 else _changed(groups[0].first)
    if any("pretrained" in key for key in keys):  # which has the encoder's configuration in its own folder
        keys = [key for key in keys if not key.startswith("encoder.")]
    found = Section(title, groups, *glance(groups), facts(groups),
                    [(key, [_cell(group.first.config.get(key)) for group in groups]) for key in keys[:60]])  # fmt: skip
    marks = _warnings(found)
    found.panels = [drawn for panel in PANELS if (drawn := _draw(panel, groups, marks))]
    found.layers = _layers(groups)
    found.problems = [f"{run.path}: {problem}" for group in groups for run in group.runs for problem in run.problems]
    if groups[0].first.task == "asr":
        found.examples = examples(groups, found.problems)
        found.errors, found.tables = rates(groups), word_errors(groups[0])
    elif groups[0].first.task:
        matrices = list(filter(None, map(confusions, groups[:2])))
        found.errors = [drawing for drawing, _ in matrices]
        found.tables = [table for _, table in matrices if table.rows]
    return found


def _draw(panel: Panel, groups: list[Group], marks: dict[int, list[int]]) -> Drawing | None:
    """A panel's curves; None where no run has its numbers."""
    lines, text = panel_lines(panel, groups)
    return Drawing(panel.title, svg(curves(lines, panel.unit, Palette(), marks, panel.log)), text) if lines else None


def _cell(value: Any) -> str:
    return "–" if value is None else str(value)[:MOST_TEXT]


def _layers(groups: list[Group]) -> list[Drawing]:
    """Weights over layers of the heads, and the probe's accuracy on each layer of a pretrained encoder."""
    found = []
    for title, unit, values in (
        ("Weights over layers", "", [group.first.layer_weights for group in groups]),
        ("Probe, by layer", "%", [group.first.last.get("probe_layers") for group in groups]),
    ):
        lines = [Line(group.name, np.arange(len(own)), np.array(own, dtype=float), number, number)
                 for number, (group, own) in enumerate(zip(groups, values, strict=True)) if own]  # fmt: skip
        if lines:
            words = "; ".join(
                f"{plain(line.label)}: " + ", ".join(show(v, unit) for v in line.values) for line in lines
            )
            drawn = curves(lines, unit, Palette(), {}, x_label="layer (0: the input embedding)")
            found.append(Drawing(title, svg(drawn), f"From the input embedding to the last layer. {words}"))
    return found


def _warnings(found: Section) -> dict[int, list[int]]:
    """Number the warnings, the same one of a run once; the updates of each, by number."""
    marks: dict[int, list[int]] = {}
    for run in (run for group in found.groups for run in group.runs):
        own: dict[str, tuple[list[int], str]] = {}
        for warning in run.warnings:
            text, name = str(warning.get("text", ""))[:MOST_TEXT], str(warning.get("name", ""))
            own.setdefault(name or text, ([], f"{name}: {text}" if name else text))[0].append(warning["update"])
        if run.skipped_updates:
            own["nonfinite"] = run.skipped_updates, "updates left out: a loss or gradient was not finite"
        for updates, text in own.values():
            number = len(found.warnings) + 1
            some = ", ".join(f"{update:,}" for update in updates[:8]) + (
                f" and {len(updates) - 8} more" if len(updates) > 8 else ""
            )
            found.warnings.append((number, run.name, some, text))
            marks[number] = [update for update in updates if update > 0]
    return marks


def _changed(run: RunFolder) -> list[str]:
    """The keys in which a run differs from the defaults of its size and kind."""
    chosen = [f"{key}={run.config[key]}" for key in ("task", "size", "objective.kind") if run.config.get(key)]
    try:
        default: Any = load_config(FinetuneConfig if run.task else PretrainConfig, chosen, "") if chosen else None
    except UserError:
        return []
    known = flat(yaml.safe_load(OmegaConf.to_yaml(OmegaConf.structured(default)))) if default else {}
    return [key for key, value in run.config.items()
            if key not in OWN and (key not in known or str(known[key]) != str(value))]  # fmt: skip
