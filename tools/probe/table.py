"""The scores of all probes with bootstrap intervals, as Markdown and JSON.

An interval holds 95 % of the scores when the speakers of the test data are resampled with replacement, since the
utterances of one speaker are alike; or the utterances, for verification and where speakers are not known. With several
seeds the value is their mean, and seeds are resampled too. It does not cover another training set. The difference of a
model from the first is resampled in pairs: the same speakers, and the same seed, for both.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from safetensors import safe_open

from finetune.scoring import clusters_of, count_characters, count_words, resampled
from finetune.slu_score import added, character_distance, count_near, pairs_of, word_distance
from finetune.tasks import task_class
from finetune.verification import Trials, all_pairs, cosines, equal_error_rate, placed, read_trials

from .jobs import Job

DRAWS = {"eer": 200}
"""Of each score; the others take 1,000."""


def entry(jobs: list[Job], errors: list[str], base: list[Job]) -> dict[str, Any]:
    """A cell of the table, plain JSON values: one probe of one model, with the seeds that are done.

    Args:
        jobs: one for each seed.
        errors: of those that are not done.
        base: the jobs of the first model, to compare with; none for that model itself.
    """
    first = jobs[0]
    done = [job for job in jobs if job.is_done]
    results = [_results(job) for job in done]
    metric = metric_of(first)
    found: dict[str, Any] = {
        "corpus": first.probe.corpus, "task": first.probe.task, "model": first.model.name, "metric": metric,
        "lower_is_better": not task_class(first.probe.task).higher_is_better, "run": str(first.folder),
    }  # fmt: skip
    if errors:
        found["error"] = errors[0]
    if not done:
        return found
    rows = [_rows(job.folder) for job in done]
    drawn = [resampled_scores(job.folder, metric, own) for job, own in zip(done, rows, strict=True)]
    low, high = interval(drawn)
    values = [result["test"][metric] for result in results]
    weights = [own for job in done if (own := layer_weights(job.folder)) is not None]
    return found | {
        "value": float(np.mean(values)), "low": low, "high": high, "values": values, "utterances": len(rows[0]),
        "scores": [result["test"] for result in results],
        "seconds": sum(json.loads((job.folder / "probe.json").read_text(encoding="utf-8"))["seconds"] for job in done),
        "layer_weights": np.mean(weights, axis=0).tolist() if weights else None,
        "difference": difference(done, rows, drawn, base, metric),
    }  # fmt: skip


def metric_of(job: Job) -> str:
    """The score of a task; of recognition the one that ``best_by`` names."""
    asked = [word.partition("=")[2] for word in job.words if word.startswith("best_by=")]
    return asked[-1] if asked and job.probe.task == "asr" else task_class(job.probe.task).score_name


def difference(
    done: list[Job], rows: list[list[dict[str, Any]]], drawn: list[np.ndarray], base: list[Job], metric: str
) -> dict[str, Any] | None:
    """How much higher the scores are than those of ``base``, over the seeds that both have done on the same test data.

    None where there is no such seed.
    """
    others = {job.seed: job for job in base if job.is_done}
    values, apart = [], []
    for job, own, scores in zip(done, rows, drawn, strict=True):
        if (other := others.get(job.seed)) is None:
            continue
        theirs, results = _rows(other.folder), [_results(which)["test"] for which in (job, other)]
        if [row.get("source") for row in own] == [row.get("source") for row in theirs] and metric in results[1]:
            values.append(results[0][metric] - results[1][metric])
            apart.append(scores - resampled_scores(other.folder, metric, theirs))
    if not values:
        return None
    low, high = interval(apart)
    return {"from": base[0].model.name, "value": float(np.mean(values)), "low": low, "high": high, "seeds": len(values)}


def _results(job: Job) -> dict[str, Any]:
    return json.loads((job.folder / "results.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def _rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "test.jsonl").read_text(encoding="utf-8").splitlines()]


def interval(drawn: list[np.ndarray]) -> tuple[float, float]:
    """The middle 95 % of the means of scores (R,), one array a seed, with seeds resampled too."""
    scores = np.stack(drawn)
    seeds = np.random.default_rng(0).multinomial(len(scores), np.full(len(scores), 1 / len(scores)), scores.shape[1])
    low, high = np.nanquantile((scores * seeds.T).sum(0) / len(scores), [0.025, 0.975])
    return float(low), float(high)


def resampled_scores(folder: Path, metric: str, rows: list[dict[str, Any]]) -> np.ndarray:
    """Scores (R,) with speakers, or utterances, of the test data resampled; the same draws for every model and seed."""
    draws = DRAWS.get(metric, 1000)
    if metric == "eer":
        counts = np.random.default_rng(0).multinomial(len(rows), np.full(len(rows), 1 / len(rows)), draws)
        return _eers(folder, rows, counts)
    sums = resampled(_parts(metric, rows), clusters_of([row.get("speaker") for row in rows]), draws, seed=0)
    scores: np.ndarray = sums[:, 0] / np.maximum(sums[:, 1], 1)
    return scores


def _parts(metric: str, rows: list[dict[str, Any]]) -> np.ndarray:
    """The share of each utterance in the score's numerator and denominator (N, 2)."""
    references, predictions = [row["reference"] for row in rows], [row.get("prediction") for row in rows]
    if metric == "accuracy":
        return np.array([[float(r == p), 1.0] for r, p in zip(references, predictions, strict=True)])
    if metric == "slu_f1":
        return np.array([_f1_parts(r, p or {"slots": []}) for r, p in zip(references, predictions, strict=True)])
    count = count_characters if metric == "cer" else count_words
    counts = count(references, [text or "" for text in predictions]).counts
    return np.stack([counts[:, 1:].sum(axis=1), counts[:, :3].sum(axis=1)], axis=1)


def _f1_parts(reference: dict[str, Any], prediction: dict[str, Any]) -> tuple[float, float]:
    """SLU-F1 is twice the hits over twice the hits and what is false and missed, each summed over utterances."""
    pairs = pairs_of([reference], [prediction])
    counts = added(count_near(pairs, word_distance), count_near(pairs, character_distance))
    hit, false, missed = (sum(row[column] for row in counts.values()) for column in range(3))
    return 2 * hit, 2 * hit + false + missed


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
    """The weight of each layer in the head, the input embedding first; None where it reads the last layer alone."""
    with safe_open(folder / "hub" / "model.safetensors", "numpy") as file:
        if "choice.weights" not in file.keys():  # noqa: SIM118  (no mapping)
            return None
        weights = np.exp(file.get_tensor("choice.weights").astype(np.float64))
    return [float(share) for share in weights / weights.sum()]


def markdown(entries: list[dict[str, Any]], left_out: list[str], command: str) -> str:
    """A row for each probe, a column for each model; failures and corpora that were left out below."""
    models = list(dict.fromkeys(entry["model"] for entry in entries))
    probes: dict[tuple[str, str, str], dict[str, dict[str, Any]]] = {}
    for cell in entries:
        probes.setdefault(_named(cell), {})[cell["model"]] = cell
    lines = [f"| corpus | task | score | utterances | {' | '.join(models)} |", "|---" * (4 + len(models)) + "|"]
    notes: list[str] = []
    for (corpus, task, score), cells in probes.items():
        count = next((str(cell["utterances"]) for cell in cells.values() if "utterances" in cell), "")
        shown = []
        for model in models:
            cell = cells.get(model, {"error": "not run yet"})
            if "error" in cell:
                notes.append(f"{model}, {corpus} {task}: {cell['error']}")
            shown.append(f"failed ({len(notes)})" if "error" in cell else
                         f"{cell['value']:.3f} [{cell['low']:.3f}, {cell['high']:.3f}]")  # fmt: skip
        lines.append(f"| {corpus} | {task} | {score} | {count} | {' | '.join(shown)} |")
    seeds = max((len(entry.get("values", ())) for entry in entries), default=1)
    mean = f"The mean of {seeds} seeds; in" if seeds > 1 else "In"
    again = ", and on seeds resampled" if seeds > 1 else ""
    lines += ["", f"{mean} brackets 95 % of scores on test speakers, or utterances, resampled{again} (bootstrap)."]
    lines += [f"{number}. {note}" for number, note in enumerate(notes, start=1)]
    lines += [f"- left out: {line}" for line in left_out]
    lines += _differences(entries, models)
    return "\n".join([*lines, "", f"    {command}", ""])


def _differences(entries: list[dict[str, Any]], models: list[str]) -> list[str]:
    found = [entry for entry in entries if entry.get("difference")]
    if not found:
        return []
    base = found[0]["difference"]["from"]
    others = [model for model in models if model != base]
    lines = ["", f"| corpus | task | higher than {base} by | {' | '.join(others)} |", "|---" * (3 + len(others)) + "|"]
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    for entry in found:
        by = entry["difference"]
        rows.setdefault(_named(entry), {})[entry["model"]] = f"{by['value']:+.3f} [{by['low']:+.3f}, {by['high']:+.3f}]"
    lines += [f"| {' | '.join(key)} | {' | '.join(own.get(other, '') for other in others)} |"
              for key, own in rows.items()]  # fmt: skip
    return [*lines, "", "Paired: the same test speakers and the same seed are drawn for both."]


def _named(cell: dict[str, Any]) -> tuple[str, str, str]:
    """Corpus, task and score, as a row begins."""
    return cell["corpus"], cell["task"], f"{cell['metric']} {'↓' if cell['lower_is_better'] else '↑'}"
