"""A family of runs in sentences and facts: what was trained on what, what it came to, what it cost."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .figures import Drawing, Line, dots, svg
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

FACTS = {
    "state": "{0.state}", "training data": "{0.training_data}", "started from": "{0.start}",
    "model": "{0.model[millions]:.1f} M parameters", "updates": "{0.update:,} of {0.config[run.updates]}",
    "batch": "{0.config[batch.update_s]} s of audio per update", "audio seen": "{0.last[hours_seen]:.3g} h",
    "time": "{0.training[wall_s]:.0f} s", "memory": "{0.last[memory_mb]:,.0f} MB",
    "energy": "{0.last[energy_kwh]:.3g} kWh", "machine": "{0.session[machine]}", "ranks": "{0.session[ranks]}",
    "commit": "{0.session[commit]}", "torch": "{0.session[torch]}", "sessions": "{0.session[sessions]}",
    "warnings": "{0.session[warnings]}",
}  # fmt: skip
"""Rows of the table of facts, as ``str.format`` takes them for a run."""


def show(value: float, unit: str = "") -> str:
    """A number as people read it."""
    return f"{100 * value:.1f} %" if unit == "%" else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def panel_lines(panel: Panel, groups: list[Group]) -> tuple[list[Line], str]:
    """The curves of a panel, and what they show in words; nothing where no run has its numbers."""
    runs = [(number, group, run) for number, group in enumerate(groups) for run in group.runs]
    several, lines, words = len(runs) > 1, list[Line](), dict[str, list[float]]()
    names = [name for name in panel.names if any(name in run.series for _, _, run in runs)]
    for number, group, run in runs:
        own = [name for name in names if name in run.series]
        for place, name in enumerate(own[:1] if several else own):
            label = group.name if several else panel.names[name]
            lines.append(Line(label if run is group.first else "", *run.series[name], number if several else place))
            words.setdefault(label, []).extend(run.series[name][1][[0, -1]])
    for name, label in panel.baselines.items() if lines else ():
        known = next((run for _, _, run in runs if name in run.series), None)
        if known is not None and not (several and panel.log):  # a running median is each run's own
            lines.append(Line(label, *known.series[name]))
            words[label] = [known.series[name][1][-1]]
    if len(lines) == 1:
        lines[0].label = ""
    ends = {label: [np.mean(part) for part in (values[::2], values[1::2]) if part] for label, values in words.items()}
    return lines, "; ".join(f"{k} " + " → ".join(show(float(v), panel.unit) for v in own) for k, own in ends.items())


def glance(groups: list[Group]) -> tuple[list[str], Drawing | None]:
    """Sentences that answer what the runs came to, and a figure of their scores."""
    runs, score = [run for group in groups for run in group.runs], groups[0].first.score
    scored = [group for group in groups if group.values]
    if score is None or not scored:
        more = "; no score yet" if score else ""
        return [f"{run.name}: {run.state}{more or learnt(run)}." for run in runs], None
    what, better = SCORES.get(score[0], score[0].replace("_", " ")), "higher" if score[1] else "lower"
    starts = {bool(group.first.config.get("pretrained")): group for group in reversed(scored)
              if not group.first.config.get("baseline")}  # fmt: skip
    if len(starts) == 2:
        sentences = [verdict(starts[True], starts[False], what, score[1])]
    else:
        sentences = [f"{group.name}: {what} {spread(group.values)}." for group in scored]
    title = f"{what} on the {'test' if groups[0].first.split == 'test' else 'validation'} data, {better} is better"
    drawn = svg(dots, {group.name: group.values for group in scored}, "%")
    words = "; ".join(f"{group.name}: {spread(group.values)}" for group in scored)
    unfinished = [f"{run.name}: {run.state}." for run in runs if not run.is_complete]
    return sentences + unfinished, Drawing(title[0].upper() + title[1:], drawn, words)


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
    among = f" ({len(values)} runs, {100 * min(values):.1f} to {100 * max(values):.1f})" if len(values) > 1 else ""
    return f"{100 * float(np.mean(values)):.1f} %{among}"


def learnt(run: RunFolder) -> str:
    """What a pretraining has learnt, against what it had to beat."""
    parts = []
    for panel in (PANELS[1], PANELS[0], PANELS[3]):
        name = next((name for name in panel.names if name in run.series), None)
        to_beat = [f"{label} {show(run.series[key][1][-1], panel.unit)}"
                   for key, label in panel.baselines.items() if key in run.series]  # fmt: skip
        if name and to_beat:
            what = panel.title if panel is PANELS[3] else f"{panel.title.lower()} on {panel.names[name]}"
            parts.append(f"; {what} {show(run.series[name][1][-1], panel.unit)} ({', '.join(to_beat)})")
    return "".join(parts)


def facts(groups: list[Group]) -> list[tuple[str, list[str]]]:
    """What was trained, on what, and what it cost: a row for each fact that any group knows."""
    table = [(label, [fact(form, group.first) for group in groups]) for label, form in FACTS.items()]
    table.append(("runs", [", ".join(run.name for run in group.runs) for group in groups]))
    return [(label, cells) for label, cells in table if any(cells)]


def fact(form: str, run: RunFolder) -> str:
    """A fact; nothing where it is not known, or a damaged file gives it a form that cannot be shown."""
    try:
        return form.format(run)[:MOST_TEXT]
    except (TypeError, ValueError, AttributeError, LookupError):
        return ""
