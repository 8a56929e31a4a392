"""The page: what each family of runs shows, put into the template, in which everything is escaped."""

from __future__ import annotations

import base64
import hashlib
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
from mixvec.training.config import flat, load_config
from pretrain.config import PretrainConfig

from .errors import confusions, rates, recognised, word_errors
from .figures import Drawing, Line, clean, curves, plain, svg
from .runs import OWN, Group, RunFolder, families
from .speech import examples
from .summary import MOST_TEXT, PANELS, facts, glance, panel_lines, show


def render(title: str, runs: list[RunFolder], reload_s: float | None = None) -> str:
    """The page of these runs as HTML, which needs nothing from elsewhere.

    Args:
        reload_s: let the page reload itself so often, unless its reader switches that off.
    """
    sections = [section(title, groups) for title, groups in families(runs).items()]
    folder = Path(__file__).parent
    environment = Environment(loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined,
                              finalize=shown, trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    script = (folder / "reload.js").read_text(encoding="utf-8").replace("RELOAD_MS", str(int(1000 * (reload_s or 0))))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("page.html").render(
        title=plain(title, 100), sections=sections, reload=reload_s is not None, script=script, digest=digest,
        version=__version__, now=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    )  # fmt: skip


def shown(value: Any) -> Any:
    """What the template prints for a value; markup is made here alone, and stays as it is."""
    return value if isinstance(value, Markup) or not isinstance(value, str) else clean(value)


def section(title: str, groups: list[Group]) -> dict[str, Any]:
    """What the template takes of a family of runs, the best group first where they have scores."""
    first = groups[0].first
    if first.score is not None:
        sign = -1 if first.score[1] else 1
        groups.sort(key=lambda own: (not own.values, sign * float(np.mean(own.values or [0.0]))))
        first = groups[0].first
    runs = [run for group in groups for run in group.runs]
    warnings, marks = numbered_warnings(runs)
    lines = [(panel, *panel_lines(panel, groups)) for panel in PANELS]
    problems: list[str] = []
    found: dict[str, Any] = {"examples": [], "rates": [], "rated": [], "matrices": [], "tables": []}
    if first.task == "asr":
        texts = recognised(groups)
        found |= {"examples": examples(texts, problems), "tables": word_errors(texts[0]) if texts else [],
                  "rates": rates(texts), "rated": [own.group.name for own in texts]}  # fmt: skip
    elif first.task:
        matrices = list(filter(None, map(confusions, groups[:2])))
        found["matrices"] = [drawing for drawing, _ in matrices]
        found["tables"] = [(title, rows) for _, (title, rows) in matrices if rows]
    sentences, result = glance(groups)
    return found | {
        "title": title, "names": [group.name for group in groups], "sentences": sentences, "result": result,
        "facts": facts(groups), "settings": keys(groups), "warnings": warnings, "layers": layers(groups),
        "panels": [Drawing(panel.title, svg(curves, own, panel.unit, marks, panel.log), text)
                   for panel, own, text in lines if own],
        "problems": [f"{run.path}: {problem}" for run in runs for problem in run.problems] + [*dict.fromkeys(problems)],
    }  # fmt: skip


def keys(groups: list[Group]) -> list[tuple[str, list[str]]]:
    """The keys in which groups differ, or one alone from the defaults of its size and kind, with the values of each."""
    configs = [group.first.config for group in groups]
    known = defaults(groups[0].first) if len(groups) == 1 else configs[0]
    names = [key for key in dict.fromkeys(key for config in configs for key in config) if key not in OWN]
    if known is not None:
        names = [key for key in names if any(str(config.get(key)) != str(known.get(key)) for config in configs)]
    if known is None or any("pretrained" in key for key in names):  # which has the encoder's in its own folder
        names = [key for key in names if known is not None and not key.startswith("encoder.")]
    cells = [[config.get(key) for config in configs] for key in names[:60]]
    return [(key, ["–" if value is None else str(value)[:MOST_TEXT] for value in own])
            for key, own in zip(names, cells, strict=False)]  # fmt: skip


def defaults(run: RunFolder) -> dict[str, Any] | None:
    """The configuration by dotted keys that a run of this size and kind has; None where there is no such."""
    chosen = [f"{key}={run.config[key]}" for key in ("task", "size", "objective.kind") if run.config.get(key)]
    if not chosen:
        return {}
    try:
        default: Any = load_config(FinetuneConfig if run.task else PretrainConfig, chosen, "")
    except UserError:
        return None
    return flat(yaml.safe_load(OmegaConf.to_yaml(OmegaConf.structured(default))))


def layers(groups: list[Group]) -> list[Drawing]:
    """Weights over layers of the heads, and the probe's accuracy on each layer of a pretrained encoder."""
    found = []
    for title, unit, values in (
        ("Weights over layers", "", [group.first.model.get("weights") for group in groups]),
        ("Probe, by layer", "%", [group.first.last.get("probe_layers") for group in groups]),
    ):
        lines = [Line(group.name, np.arange(len(own)), np.array(own, dtype=float), number)
                 for number, (group, own) in enumerate(zip(groups, values, strict=True)) if own]  # fmt: skip
        if lines:
            words = [f"{plain(line.label)}: " + ", ".join(show(v, unit) for v in line.values) for line in lines]
            drawn = svg(curves, lines, unit, None, False, "layer (0: the input embedding)")
            text = f"From the input embedding to the last layer. {'; '.join(words)}"
            found.append(Drawing(title, drawn, text))
    return found


def numbered_warnings(runs: list[RunFolder]) -> tuple[list[tuple[int, str, str, str]], dict[int, list[int]]]:
    """Number, run, updates and text of each warning, the same one of a run once; and the updates by number."""
    found, marks = list[tuple[int, str, str, str]](), dict[int, list[int]]()
    for run in runs:
        own: dict[str, tuple[list[int], str]] = {}
        for warning in run.warnings:
            text, name = str(warning.get("text", ""))[:MOST_TEXT], str(warning.get("name", ""))
            own.setdefault(name or text, ([], f"{name}: {text}" if name else text))[0].append(warning["update"])
        if run.skipped_updates:
            own["nonfinite"] = run.skipped_updates, "updates left out: a loss or gradient was not finite"
        for updates, text in own.values():
            more = f" and {len(updates) - 8} more" if len(updates) > 8 else ""
            found.append((len(found) + 1, run.name, ", ".join(f"{update:,}" for update in updates[:8]) + more, text))
            marks[len(found)] = [update for update in updates if update > 0]
    return found, marks
