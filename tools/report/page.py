"""The page: what each family of runs shows, put into the template, in which everything is escaped."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from omegaconf import OmegaConf

from finetune.config import FinetuneConfig
from mixvec import __version__
from mixvec.errors import UserError
from mixvec.training.config import load_config
from mixvec.training.follow import flat
from pretrain.config import PretrainConfig

from .figures import Drawing, Line, Palette, curves, dots, plain, svg
from .runs import OWN, Group, RunFolder, differing, families
from .speech import Errors, Example, confusions, examples, rates, word_errors

SCORES = {"wer": "word error rate", "cer": "character error rate", "eer": "equal error rate", "slu_f1": "SLU-F1"}
MOST_TEXT = 2000


class Panel(NamedTuple):
    """A figure of curves."""

    title: str
    names: dict[str, str]
    """Labels of the series of metrics.jsonl; where several runs are compared, only the first that there is."""
    baselines: dict[str, str]
    unit: str = ""
    log: bool = False


PANELS = (
    Panel("Loss", {"masked_loss": "masked frames", "contrastive_loss": "masked frames", "loss": "training",
                   "visible_loss": "visible frames"}, {"unit_entropy": "units' entropy", "chance_loss": "chance"}),
    Panel("Accuracy", {"masked_accuracy": "masked frames", "accuracy": "masked frames",
                       "visible_accuracy": "visible frames"},
          {"majority_share": "commonest unit", "chance_accuracy": "chance"}, "%"),
    Panel("Score on data.valid", {"valid_score": "data.valid"}, {}, "%"),
    Panel("Probe of the frozen encoder", {"probe_accuracy": "best layer"},
          {"probe_untrained": "untrained", "probe_log_mel": "log-mel", "probe_chance": "guessing"}, "%"),
    Panel("Targets in use, perplexity", {"unit_perplexity": "units", "code_perplexity": "codes"},
          {"units": "all units", "max_perplexity": "all codes"}),
    Panel("Effective rank of the frames", {"effective_rank": "effective rank"}, {"width": "width"}),
    Panel("Gradient norm", {"gradient_norm": "norm"}, {"gradient_norm_median": "running median"}, log=True),
    Panel("Learning rate", {"lr": "learning rate"}, {}),
    Panel("Throughput, s of audio per s", {"audio_s_per_s": "throughput"}, {}),
    Panel("Waiting for audio", {"wait_share": "share of the time"}, {}, "%"),
    Panel("Memory, GB", {"memory_gb": "highest so far"}, {}),
    Panel("Energy, kWh", {"energy_kwh": "so far"}, {}),
)  # fmt: skip


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
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (folder / "reload.js").read_text(encoding="utf-8").replace("RELOAD_MS", str(int(1000 * (reload_s or 0))))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("page.html").render(
        title=plain(title, 100), sections=sections, reload=reload_s is not None, script=script, digest=digest,
        version=__version__, now=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    )  # fmt: skip


def section(title: str, groups: list[Group]) -> Section:
    """Everything about a family of runs, the best group first where they have scores."""
    for run in (run for group in groups for run in group.runs):
        _derive(run)
    score = groups[0].first.score
    if score is not None:
        groups.sort(key=lambda group: (-1 if score[1] else 1) * float(np.mean(group.values or [np.inf])))
    keys = differing(groups) if len(groups) > 1 else _changed(groups[0].first)
    if any("pretrained" in key for key in keys):  # which has the encoder's configuration in its own folder
        keys = [key for key in keys if not key.startswith("encoder.")]
    found = Section(title, groups, *_glance(groups), _facts(groups),
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


def _derive(run: RunFolder) -> None:
    """Series that follow from others."""
    series = run.series
    if "chance_loss" in series:
        series["chance_accuracy"] = series["chance_loss"][0], np.exp(-series["chance_loss"][1])
    if "memory_mb" in series:
        series["memory_gb"] = series["memory_mb"][0], series["memory_mb"][1] / 1000
    if run.score and f"valid_{run.score[0]}" in series:
        series["valid_score"] = series[f"valid_{run.score[0]}"]


def _draw(panel: Panel, groups: list[Group], marks: dict[int, list[int]]) -> Drawing | None:
    """A panel's curves; None where no run has its numbers."""
    runs = [(number, group, run) for number, group in enumerate(groups) for run in group.runs]
    names = [name for name in panel.names if any(name in run.series for _, _, run in runs)]
    if not names:
        return None
    several, lines, words = len(runs) > 1, list[Line](), dict[str, list[float]]()
    for number, group, run in runs:
        own = [name for name in names if name in run.series]
        for place, name in enumerate(own[:1] if several else own):
            which = number if several else place
            label = group.name if several else panel.names[name]
            lines.append(Line(label if run is group.first else "", *run.series[name], which, which))
            words.setdefault(label, []).extend(run.series[name][1][[0, -1]])
    for name, label in panel.baselines.items():
        run = next((run for _, _, run in runs if name in run.series), None)
        if run is not None and not (several and panel.title == "Gradient norm"):
            lines.append(Line(label, *run.series[name], baseline=True))
            words[label] = [run.series[name][1][-1]]
    if len(lines) == 1:
        lines[0].label = ""
    text = "; ".join(f"{label} {_course(values, panel.unit)}" for label, values in words.items())
    return Drawing(panel.title, svg(curves(lines, panel.unit, Palette(), marks, panel.log)), text)


def _course(values: list[float], unit: str) -> str:
    """First and last values of curves in words, the means of several runs."""
    ends = [_show(float(np.mean(part)), unit) for part in (values[::2], values[1::2]) if part]
    return " → ".join(ends)


def _show(value: float, unit: str = "") -> str:
    return f"{100 * value:.1f} %" if unit == "%" else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


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
                f"{plain(line.label)}: " + ", ".join(_show(v, unit) for v in line.values) for line in lines
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


def _glance(groups: list[Group]) -> tuple[list[str], Drawing | None]:
    """Sentences that answer what the runs came to, and a figure of their scores."""
    sentences, first = [], groups[0].first
    if first.score is None:
        for group in groups:
            sentences += [f"{run.name}: {run.state}{_learnt(run)}." for run in group.runs]
        return sentences, None
    name, higher = first.score
    scored = [group for group in groups if group.values]
    if not scored:
        return [f"{run.name}: {run.state}; no score yet." for group in groups for run in group.runs], None
    starts = [next((g for g in scored if bool(g.first.config.get("pretrained")) is wanted
                    and not g.first.config.get("baseline")), None) for wanted in (True, False)]  # fmt: skip
    if starts[0] and starts[1]:
        sentences.append(verdict(starts[0], starts[1], SCORES.get(name, name.replace("_", " ")), higher))
    on = {"test": "the test data", "valid": "the validation data"}.get(first.split or "", "the validation data")
    title = f"{SCORES.get(name, name.replace('_', ' '))} on {on}, {'higher' if higher else 'lower'} is better"
    words = "; ".join(f"{group.name}: {spread(group.values)}" for group in scored)
    drawn = dots([group.name for group in scored], [("", [list(group.values) for group in scored])], "%", Palette())
    unfinished = [f"{run.name}: {run.state}." for group in groups for run in group.runs if not run.is_complete]
    return sentences + unfinished, Drawing(title[0].upper() + title[1:], svg(drawn), words)


def verdict(pretrained: Group, scratch: Group, score: str, higher: bool) -> str:
    """Whether pretraining helped, by the scores of all runs."""
    ours, theirs = (np.array(group.values) * (1 if higher else -1) for group in (pretrained, scratch))
    means = f"{score} {spread(pretrained.values)} with it, {spread(scratch.values)} without"
    few = "" if min(len(ours), len(theirs)) > 2 else " With fewer than three runs of each, it may be chance."
    if ours.min() > theirs.max():
        return f"Pretraining helped: {means}.{few}"
    if ours.max() < theirs.min():
        return f"Pretraining did harm: {means}.{few}"
    return f"No clear effect of pretraining: {means}; the runs overlap."


def spread(values: list[float]) -> str:
    """Mean and range in per cent."""
    mean = f"{100 * float(np.mean(values)):.1f} %"
    return (
        mean if len(values) == 1 else f"{mean} ({len(values)} runs, {100 * min(values):.1f} to {100 * max(values):.1f})"
    )


def _learnt(run: RunFolder) -> str:
    """What a pretraining has learnt, against what it had to beat."""
    parts = []
    for panel in (PANELS[1], PANELS[0], PANELS[3]):
        name = next((name for name in panel.names if name in run.series), None)
        to_beat = [f"{label} {_show(run.series[key][1][-1], panel.unit)}"
                   for key, label in panel.baselines.items() if key in run.series]  # fmt: skip
        if name and to_beat:
            what = panel.title if panel is PANELS[3] else f"{panel.title.lower()} on {panel.names[name]}"
            parts.append(f"{what} {_show(run.series[name][1][-1], panel.unit)} ({', '.join(to_beat)})")
    return "".join(f"; {part}" for part in parts)


def _facts(groups: list[Group]) -> list[tuple[str, list[str]]]:
    """What was trained, on what, and what it cost: a row for each that any group knows."""

    def data(run: RunFolder) -> str:
        counted = run.sessions[-1].get("data", {}).get("data.train", {}) if run.sessions else {}
        name = run.training.get("data") or run.config.get("data.train") or ""
        hours = (
            f", {counted['seconds'] / 3600:.2f} h in {counted['utterances']:,} utterances"
            if counted.get("seconds")
            else ""
        )
        return f"{name}{hours}"

    def session(key: str) -> Callable[[RunFolder], str]:
        return lambda run: ", ".join(dict.fromkeys(str(row[key]) for row in run.sessions if row.get(key)))

    def last(key: str, unit: str, scale: float = 1.0) -> Callable[[RunFolder], str]:
        return lambda run: f"{run.last[key] * scale:.3g} {unit}" if isinstance(run.last.get(key), int | float) else ""

    rows: dict[str, Callable[[RunFolder], str]] = {
        "state": lambda run: run.state,
        "training data": data,
        "started from": lambda run: str(run.config.get("baseline") or run.config.get("pretrained") or "random weights"),
        "model": lambda run: f"{run.parameters / 1e6:.1f} M parameters" if run.parameters else "",
        "updates": lambda run: f"{run.update:,} of {run.config.get('run.updates', '?')}",
        "batch": lambda run: f"{run.config['batch.update_s']} s of audio per update",
        "audio seen": last("hours_seen", "h"),
        "time": lambda run: f"{float(run.training['wall_s']) / 60:.1f} min" if run.training.get("wall_s") else "",
        "memory": last("memory_mb", "GB", 1e-3),
        "energy": last("energy_kwh", "kWh"),
        "machine": session("machine"),
        "ranks": session("ranks"),
        "commit": session("commit"),
        "torch": session("torch"),
        "sessions": lambda run: str(len(run.sessions) or ""),
        "warnings": lambda run: str(len(run.warnings)),
        "runs": lambda run: next(", ".join(own.name for own in group.runs) for group in groups if run is group.first),
    }  # fmt: skip
    table = [(label, [_quietly(tell, group.first) for group in groups]) for label, tell in rows.items()]
    return [(label, cells) for label, cells in table if any(cells)]


def _quietly(tell: Callable[[RunFolder], str], run: RunFolder) -> str:
    """A fact; nothing where a damaged file gives it a form that cannot be shown."""
    try:
        return tell(run)[:MOST_TEXT]
    except (TypeError, ValueError, AttributeError, KeyError):
        return ""


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
