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

from finetune.scoring import clusters_of, count_characters, count_words, resampled
from finetune.tasks import task_class
from finetune.tasks.slots import pairs_of, slu_counts
from finetune.tasks.speaker import cosines, equal_error_rate, read_trials, trials_of
from mixvec.hub import read_tensors

from .jobs import Job

DRAWS, EER_DRAWS = 1000, 200
"""Of each score; an equal error rate takes much longer."""


def entry(jobs: list[Job], errors: list[str], base: list[Job]) -> dict[str, Any]:
    """A cell of the table, plain JSON values: one probe of one model, with the seeds that are done.

    Args:
        jobs: one for each seed.
        errors: of those that are not done.
        base: the jobs of the first model, to compare with; none for that model itself.
    """
    first, done, metric = jobs[0], [job for job in jobs if job.is_done], metric_of(jobs[0])
    found: dict[str, Any] = {
        "corpus": first.probe.corpus, "task": first.probe.task, "model": first.model, "metric": metric,
        "lower_is_better": not task_class(first.probe.task).higher_is_better, "run": str(first.folder),
    }  # fmt: skip
    if errors:
        found["error"] = errors[0]
    if not done:
        return found
    scored, others = ({job.seed: Scores(job.folder, metric) for job in some if job.is_done} for some in (jobs, base))
    weights = [own for job in done if (own := layer_weights(job.folder)) is not None]
    pairs = [(own, others[seed]) for seed, own in scored.items() if seed in others]
    pairs = [(own, other) for own, other in pairs if own.sources == other.sources]  # the same test data
    difference = summary([own.value - other.value for own, other in pairs],
                         [own.resampled - other.resampled for own, other in pairs])  # fmt: skip
    return found | {
        "values": [own.value for own in scored.values()], "utterances": len(scored[done[0].seed].sources),
        **summary([own.value for own in scored.values()], [own.resampled for own in scored.values()]),
        "layer_weights": np.mean(weights, axis=0).tolist() if weights else None,
        "difference": difference | {"from": base[0].model, "seeds": len(pairs)} if pairs else None,
    }  # fmt: skip


def metric_of(job: Job) -> str:
    """The score of a task; of recognition the one that ``best_by`` names."""
    asked = [word.partition("=")[2] for word in job.words if word.startswith("best_by=")]
    return asked[-1] if asked and job.probe.task == "asr" else task_class(job.probe.task).score_name


class Scores:
    """The test score of a complete run, and the scores (R,) of resampled test data: the same draws for every run."""

    def __init__(self, folder: Path, metric: str) -> None:
        rows = [json.loads(line) for line in (folder / "test.jsonl").read_text(encoding="utf-8").splitlines()]
        self.value: float = json.loads((folder / "results.json").read_text(encoding="utf-8"))["test"][metric]
        self.sources = [row.get("source") for row in rows]
        self.resampled = _eers(folder, rows) if metric == "eer" else resampled_scores(metric, rows)


def resampled_scores(metric: str, rows: list[dict[str, Any]]) -> np.ndarray:
    """Scores (R,) with the speakers, or utterances, of the test data resampled."""
    sums = resampled(_parts(metric, rows), clusters_of([row.get("speaker") for row in rows]), DRAWS, seed=0)
    scores: np.ndarray = sums[:, 0] / np.maximum(sums[:, 1], 1)
    return scores


def summary(values: list[float], drawn: list[np.ndarray]) -> dict[str, float]:
    """The mean over seeds, and the middle 95 % of the means of scores (R,) of each seed, with seeds resampled too."""
    if not values:
        return {}
    scores = np.stack(drawn)
    seeds = np.random.default_rng(0).multinomial(len(scores), np.full(len(scores), 1 / len(scores)), scores.shape[1])
    low, high = np.nanquantile((scores * seeds.T).sum(0) / len(scores), [0.025, 0.975])
    return {"value": float(np.mean(values)), "low": float(low), "high": float(high)}


def _parts(metric: str, rows: list[dict[str, Any]]) -> np.ndarray:
    """The share of each utterance in the score's numerator and denominator (N, 2)."""
    references, predictions = [row["reference"] for row in rows], [row.get("prediction") for row in rows]
    if metric == "accuracy":
        return np.array([[float(r == p), 1.0] for r, p in zip(references, predictions, strict=True)])
    if metric == "slu_f1":  # twice the hits over twice the hits and what is false and missed
        sides = [r["slots"] for r in references], [(p or {"slots": []})["slots"] for p in predictions]
        tables = [slu_counts(pairs_of([{"slots": r}], [{"slots": p}])) for r, p in zip(*sides, strict=True)]
        hits = np.array(
            [np.sum([*table.values(), np.zeros(3)], axis=0) for table in tables]
        )  # (N, 3), false and missed
        return np.stack([2 * hits[:, 0], 2 * hits[:, 0] + hits[:, 1] + hits[:, 2]], axis=1)
    count = count_characters if metric == "cer" else count_words
    counts = count(references, [text or "" for text in predictions]).counts
    return np.stack([counts[:, 1:].sum(axis=1), counts[:, :3].sum(axis=1)], axis=1)


def _eers(folder: Path, rows: list[dict[str, Any]]) -> np.ndarray:
    """A trial counts as often as its two utterances were drawn, multiplied."""
    settings = OmegaConf.load(folder / "config.yaml").speaker
    listed = read_trials(settings.trials) if settings.trials is not None else []
    sources, speakers = [row["source"] for row in rows], [row["reference"] for row in rows]
    trials = trials_of(listed, sources, speakers, settings.max_trials)
    scores = cosines([row["prediction"] for row in rows], trials)
    made = []
    for counts in np.random.default_rng(0).multinomial(len(rows), np.full(len(rows), 1 / len(rows)), EER_DRAWS):
        weights = counts[trials.first] * counts[trials.second]
        both = weights[trials.same].any() and weights[~trials.same].any()
        made.append(equal_error_rate(scores, trials.same, weights) if both else np.nan)
    return np.array(made)


def layer_weights(folder: Path) -> list[float] | None:
    """The weight of each layer in the head, the input embedding first; None where it reads the last layer alone."""
    weights = read_tensors(folder / "hub").get("choice.weights")
    return None if weights is None else weights.double().softmax(0).tolist()


def markdown(entries: list[dict[str, Any]], left_out: list[str], command: str) -> str:
    """A row for each probe, a column for each model; failures and corpora that were left out below."""
    failed = [cell for cell in entries if "error" in cell]
    counts = {(cell["corpus"], cell["task"]): str(cell["utterances"]) for cell in entries if "utterances" in cell}
    shown = [f"failed ({failed.index(cell) + 1})" if cell in failed else
             "{value:.3f} [{low:.3f}, {high:.3f}]".format(**cell) for cell in entries]  # fmt: skip
    lines = _table("score | utterances", [
        ((*_named(cell), counts.get((cell["corpus"], cell["task"]), "")), cell["model"], text)
        for cell, text in zip(entries, shown, strict=True)
    ])  # fmt: skip
    seeds = max((len(entry.get("values", ())) for entry in entries), default=1)
    start, end = (f"The mean of {seeds} seeds; in", " and on seeds") if seeds > 1 else ("In", "")
    lines += ["", f"{start} brackets 95 % of scores on test speakers, or utterances,{end} resampled (bootstrap)."]
    lines += [f"{n}. {cell['model']}, {cell['corpus']} {cell['task']}: {cell['error']}"
              for n, cell in enumerate(failed, 1)] + [f"- left out: {line}" for line in left_out]  # fmt: skip
    if compared := [cell for cell in entries if cell.get("difference")]:
        lines += ["", *_table(f"higher than {compared[0]['difference']['from']} by", [
            (_named(cell), cell["model"], "{value:+.3f} [{low:+.3f}, {high:+.3f}]".format(**cell["difference"]))
            for cell in compared
        ])]  # fmt: skip
        lines += ["", "Paired: the same test speakers and the same seed are drawn for both."]
    return "\n".join([*lines, "", f"    {command}", ""])


def _table(head: str, cells: list[tuple[tuple[str, ...], str, str]]) -> list[str]:
    """A Markdown table of cells, each with how its row begins, its model and its text."""
    models = list(dict.fromkeys(model for _, model, _ in cells))
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    for begin, model, text in cells:
        rows.setdefault(begin, {})[model] = text
    titles = ["corpus", "task", *head.split(" | "), *models]
    lines = [[*begin, *(own.get(model, "") for model in models)] for begin, own in rows.items()]
    return ["| " + " | ".join(line) + " |" for line in (titles, ["---"] * len(titles), *lines)]


def _named(cell: dict[str, Any]) -> tuple[str, str, str]:
    """Corpus, task and score, as a row begins."""
    return cell["corpus"], cell["task"], f"{cell['metric']} {'↓' if cell['lower_is_better'] else '↑'}"
