"""The scores of all probes with bootstrap intervals, as Markdown and JSON.

An interval is that of 95 % of scores when the speakers of the test data are drawn again with replacement, since what
one speaker says is alike; or the utterances, for verification and where speakers are not known. It says nothing of
another seed or another training set.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from safetensors import safe_open

from finetune.scoring import clusters_of, count_words, resampled
from finetune.verification import Trials, all_pairs, cosines, equal_error_rate, placed, read_trials

from .runs import Job

SCORES = {"asr": "wer", "intent": "accuracy", "speaker": "eer", "emotion": "accuracy", "language": "accuracy"}
LOWER = ("wer", "eer")
DRAWS = {"wer": 1000, "accuracy": 1000, "eer": 200}


def entry(job: Job, error: str | None) -> dict[str, Any]:
    """A cell of the table, plain JSON values."""
    metric = SCORES[job.probe.task]
    found: dict[str, Any] = {"corpus": job.probe.corpus, "task": job.probe.task, "label": job.probe.field,
                             "model": job.model.name, "metric": metric, "lower_is_better": metric in LOWER,
                             "run": str(job.folder)}  # fmt: skip
    if error is not None:
        return found | {"error": error}
    results = json.loads((job.folder / "results.json").read_text(encoding="utf-8"))
    rows = [json.loads(line) for line in (job.folder / "test.jsonl").read_text(encoding="utf-8").splitlines()]
    low, high = interval(job.folder, metric, rows)
    return found | {
        "value": results["test"][metric], "low": low, "high": high, "utterances": len(rows), "scores": results["test"],
        "seconds": json.loads((job.folder / "probe.json").read_text(encoding="utf-8"))["seconds"],
        "layer_weights": layer_weights(job.folder),
    }  # fmt: skip


def interval(folder: Path, metric: str, rows: list[dict[str, Any]]) -> tuple[float, float]:
    """Where 95 % of the scores lie when the test data's speakers, or utterances, are drawn again."""
    if metric == "eer":
        draws = np.random.default_rng(0).multinomial(len(rows), np.full(len(rows), 1 / len(rows)), DRAWS[metric])
        scores = _eers(folder, rows, draws)
    else:
        clusters = clusters_of([row.get("speaker") for row in rows])
        sums = resampled(_parts(metric, rows), clusters, DRAWS[metric], seed=0)
        scores = sums[:, 0] / np.maximum(sums[:, 1], 1)
    low, high = np.nanquantile(scores, [0.025, 0.975])
    return float(low), float(high)


def _parts(metric: str, rows: list[dict[str, Any]]) -> np.ndarray:
    """What each utterance adds to the score's numerator and denominator (N, 2)."""
    references, predictions = [row["reference"] for row in rows], [row["prediction"] for row in rows]
    if metric == "accuracy":
        return np.array([[float(r == p), 1.0] for r, p in zip(references, predictions, strict=True)])
    counts = count_words(references, predictions).counts
    return np.stack([counts[:, 1:].sum(axis=1), counts[:, :3].sum(axis=1)], axis=1)


def _eers(folder: Path, rows: list[dict[str, Any]], draws: np.ndarray) -> np.ndarray:
    """A trial counts as often as its two utterances were drawn, multiplied."""
    settings = OmegaConf.load(folder / "config.yaml").speaker
    trials = Trials(*(np.zeros(0, dtype=np.int64),) * 3)
    if settings.trials is not None:
        trials, _ = placed(read_trials(settings.trials), [row["source"] for row in rows])
    if not len(trials.same):
        trials = all_pairs([row["reference"] for row in rows], settings.max_trials)
    scores = cosines([row["prediction"] for row in rows], trials)
    made = []
    for counts in draws:
        weights = counts[trials.first] * counts[trials.second]
        one, two = weights[trials.same].sum(), weights[~trials.same].sum()
        made.append(equal_error_rate(scores, trials.same, weights) if one and two else np.nan)
    return np.array(made)


def layer_weights(folder: Path) -> list[float] | None:
    """What the head takes of each layer, the input embedding first; None where it reads the last alone."""
    with safe_open(folder / "hub" / "model.safetensors", "numpy") as file:
        if "choice.weights" not in file.keys():  # noqa: SIM118  (no mapping)
            return None
        weights = np.exp(file.get_tensor("choice.weights").astype(np.float64))
    return [float(share) for share in weights / weights.sum()]


def markdown(entries: list[dict[str, Any]], left_out: list[str], command: str) -> str:
    """A row for each probe, a column for each model; what failed and what was left out below."""
    models = list(dict.fromkeys(entry["model"] for entry in entries))
    probes: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    for cell in entries:
        key = (cell["corpus"], cell["task"], cell["label"], cell["metric"], cell["lower_is_better"])
        probes.setdefault(key, {})[cell["model"]] = cell
    lines = [f"| corpus | task | score | utterances | {' | '.join(models)} |", "|---" * (4 + len(models)) + "|"]
    notes: list[str] = []
    for (corpus, task, label, metric, lower), cells in probes.items():
        count = next((str(cell["utterances"]) for cell in cells.values() if "utterances" in cell), "")
        shown = []
        for model in models:
            cell = cells.get(model, {"error": "not run yet"})
            if "error" in cell:
                notes.append(f"{model}, {corpus} {task}: {cell['error']}")
            shown.append(f"failed ({len(notes)})" if "error" in cell else
                         f"{cell['value']:.3f} [{cell['low']:.3f}, {cell['high']:.3f}]")  # fmt: skip
        what = f"{task} ({label})" if label else task
        lines.append(f"| {corpus} | {what} | {metric} {'↓' if lower else '↑'} | {count} | {' | '.join(shown)} |")
    lines += ["", "In brackets: 95 % of scores on test speakers, or utterances, drawn again (bootstrap)."]
    lines += [f"{number}. {note}" for number, note in enumerate(notes, start=1)]
    lines += [f"- left out: {line}" for line in left_out]
    return "\n".join([*lines, "", f"    {command}", ""])
