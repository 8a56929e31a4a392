"""A family of runs in sentences and facts: what was trained on what, what it came to, what it cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .figures import Drawing, Line, Palette, dots, svg
from .runs import Group, RunFolder

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


def show(value: float, unit: str = "") -> str:
    """A number as people read it."""
    return f"{100 * value:.1f} %" if unit == "%" else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def derive(run: RunFolder) -> None:
    """Series that follow from others."""
    series = run.series
    if "chance_loss" in series:
        series["chance_accuracy"] = series["chance_loss"][0], np.exp(-series["chance_loss"][1])
    if "memory_mb" in series:
        series["memory_gb"] = series["memory_mb"][0], series["memory_mb"][1] / 1000
    if run.score and f"valid_{run.score[0]}" in series:
        series["valid_score"] = series[f"valid_{run.score[0]}"]


def panel_lines(panel: Panel, groups: list[Group]) -> tuple[list[Line], str]:
    """The curves of a panel, and what they show in words; nothing where no run has its numbers."""
    runs = [(number, group, run) for number, group in enumerate(groups) for run in group.runs]
    names = [name for name in panel.names if any(name in run.series for _, _, run in runs)]
    several, lines, words = len(runs) > 1, list[Line](), dict[str, list[float]]()
    for number, group, run in runs:
        own = [name for name in names if name in run.series]
        for place, name in enumerate(own[:1] if several else own):
            which = number if several else place
            label = group.name if several else panel.names[name]
            lines.append(Line(label if run is group.first else "", *run.series[name], which, which))
            words.setdefault(label, []).extend(run.series[name][1][[0, -1]])
    for name, label in panel.baselines.items() if lines else ():
        known = next((run for _, _, run in runs if name in run.series), None)
        if known is not None and not (several and panel.log):  # a running median is each run's own
            lines.append(Line(label, *known.series[name], baseline=True))
            words[label] = [known.series[name][1][-1]]
    if len(lines) == 1:
        lines[0].label = ""
    return lines, "; ".join(f"{label} {_course(values, panel.unit)}" for label, values in words.items())


def _course(values: list[float], unit: str) -> str:
    """First and last values of curves in words, the means of several runs."""
    ends = [show(float(np.mean(part)), unit) for part in (values[::2], values[1::2]) if part]
    return " → ".join(ends)


def glance(groups: list[Group]) -> tuple[list[str], Drawing | None]:
    """Sentences that answer what the runs came to, and a figure of their scores."""
    sentences, first = [], groups[0].first
    if first.score is None:
        for group in groups:
            sentences += [f"{run.name}: {run.state}{learnt(run)}." for run in group.runs]
        return sentences, None
    name, higher = first.score
    scored = [group for group in groups if group.values]
    if not scored:
        return [f"{run.name}: {run.state}; no score yet." for group in groups for run in group.runs], None
    what = SCORES.get(name, name.replace("_", " "))
    plainly = [group for group in scored if not group.first.config.get("baseline")]
    pretrained = next((group for group in plainly if group.first.config.get("pretrained")), None)
    scratch = next((group for group in plainly if not group.first.config.get("pretrained")), None)
    if pretrained and scratch:
        sentences.append(verdict(pretrained, scratch, what, higher))
    else:
        sentences += [f"{group.name}: {what} {spread(group.values)}." for group in scored]
    on = {"test": "the test data", "valid": "the validation data"}.get(first.split or "", "the validation data")
    title = f"{what} on {on}, {'higher' if higher else 'lower'} is better"
    words = "; ".join(f"{group.name}: {spread(group.values)}" for group in scored)
    drawn = dots([group.name for group in scored], [("", [list(group.values) for group in scored])], "%", Palette())
    unfinished = [f"{run.name}: {run.state}." for group in groups for run in group.runs if not run.is_complete]
    return sentences + unfinished, Drawing(title[0].upper() + title[1:], svg(drawn), words)


def verdict(pretrained: Group, scratch: Group, score: str, higher: bool) -> str:
    """Whether pretraining helped, by the scores of all runs."""
    ours, theirs = (np.array(group.values) * (1 if higher else -1) for group in (pretrained, scratch))
    means = f"{score} {spread(pretrained.values)} in {pretrained.name}, {spread(scratch.values)} in {scratch.name}"
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


def learnt(run: RunFolder) -> str:
    """What a pretraining has learnt, against what it had to beat."""
    parts = []
    for panel in (PANELS[1], PANELS[0], PANELS[3]):
        name = next((name for name in panel.names if name in run.series), None)
        to_beat = [f"{label} {show(run.series[key][1][-1], panel.unit)}"
                   for key, label in panel.baselines.items() if key in run.series]  # fmt: skip
        if name and to_beat:
            what = panel.title if panel is PANELS[3] else f"{panel.title.lower()} on {panel.names[name]}"
            parts.append(f"{what} {show(run.series[name][1][-1], panel.unit)} ({', '.join(to_beat)})")
    return "".join(f"; {part}" for part in parts)


def facts(groups: list[Group]) -> list[tuple[str, list[str]]]:
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
    table = [(label, [quietly(tell, group.first) for group in groups]) for label, tell in rows.items()]
    return [(label, cells) for label, cells in table if any(cells)]


def quietly(tell: Callable[[RunFolder], str], run: RunFolder) -> str:
    """A fact; nothing where a damaged file gives it a form that cannot be shown."""
    try:
        return tell(run)[:MOST_TEXT]
    except (TypeError, ValueError, AttributeError, KeyError):
        return ""
