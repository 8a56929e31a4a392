"""Score a model on a labelled corpus, over all ranks; keep the best one; score that one when the run ends."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate.utils import gather_object, send_to_device

from mixvec import UserError
from mixvec.atomic import write_whole
from mixvec.data.batches import Updates
from mixvec.data.sources import Corpus
from mixvec.hub import load_tensors, read_tensors
from mixvec.text import TEXT_STYLES
from mixvec.training.checkpoint import RunState
from mixvec.training.run import Run

from .batch import LabelledBatch
from .frozen import encode
from .health import diagnose_score
from .tasks import LabelledTask, Scored
from .tasks.language import language_of


class Job(NamedTuple):
    """What is trained and scored on what."""

    run: Run
    task: LabelledTask
    model: Any
    data: dict[str, Updates[LabelledBatch]]
    """By split."""


class Evaluation(NamedTuple):
    scores: dict[str, float]
    rows: list[Scored]
    undecoded: int
    """Utterances that could not be decoded."""
    error: str | None
    """The error that ends the run where more could not be decoded than ``data.max_skipped`` allows."""


@torch.no_grad()
def evaluate(job: Job, split: str, when: str) -> Evaluation:
    """Score every utterance of a split once. Every rank calls this; the main rank prints a line and examples.

    An utterance that cannot be decoded has an empty prediction, which is an error: a damaged file improves no score.
    """
    run, task, model, data = job
    model.eval()
    own: dict[int, Any] = {}
    for loaded in data[split].once():
        batch = send_to_device(loaded.batch, run.accelerator.device, non_blocking=True)
        run.skips.note(loaded.skipped)
        with run.accelerator.autocast():
            encoded = encode(run.config, model, batch, frozen=True)
            own |= zip(batch.numbers.tolist(), task.predict(model, encoded), strict=False)  # without the row of silence
    parts = gather_object([own]) if run.accelerator.num_processes > 1 else [own]
    found = {number: prediction for part in parts for number, prediction in part.items()}
    rows = [Scored(replace(utterance, stored=None), task.reference(utterance), found.get(number, ""))
            for number, utterance in enumerate(data[split].utterances)]  # fmt: skip
    scores, undecoded, most, error = task.score(rows), len(rows) - len(found), run.config.data.max_skipped, None
    numbers = "  ".join(f"{key} {value:.3f}" for key, value in scores.items())
    lines = [f"  {split}{when}: {numbers}  ({len(rows)} utterances)", *task.report(rows, scores)]
    if undecoded:
        lost = f"data.{split}: {undecoded} of {len(rows)} utterances could not be decoded"
        reasons = f"(reasons: {run.dir}/skipped*.jsonl)"
        lines.append(f"WARNING {lost} and count as errors {reasons}")
        if undecoded > most * len(rows):
            error = f"{lost}, more than data.max_skipped={most:g} allows {reasons}; fix or remove them, or raise that"
    run.log.print("\n".join(lines))
    return Evaluation(scores, rows, undecoded, error)


def is_better(scores: dict[str, float], task: LabelledTask, state: RunState) -> bool:
    """Whether these scores beat the best so far, as any number beats none; NaN beats nothing.

    Of equal scores the one with the lower ``task.tie_name`` is better, else the earlier one.
    """
    score = scores[task.score_name]
    if math.isnan(score) or state.best is None:
        return not math.isnan(score)
    if score == state.best and task.tie_name is not None and state.best_tie is not None:
        return scores[task.tie_name] < state.best_tie
    return score > state.best if task.higher_is_better else score < state.best


def keep_best(job: Job, state: RunState) -> int | None:
    """Score the model, and write it to ``run.dir``/hub if it is the best so far. Every rank calls this.

    Returns the exit code where ``run.stop_on`` names a diagnosis of the scores or too much was undecodable.
    """
    run, task, model, _ = job
    scores, rows, _, error = evaluate(job, "valid", f" at update {state.update}")
    if is_better(scores, task, state):
        state.best, state.best_tie = scores[task.score_name], scores.get(task.tie_name or "")
        state.best_update, state.best_loss = state.update, state.loss
        run.save_model(model, facts(job, state, "valid", scores))
    found = diagnose_score(scores[task.score_name], task.score_name, len(rows), state, run.config.run)
    run.log.warn({"update": state.update, **{f"valid_{k}": v for k, v in scores.items()}}, "", found)
    stop = run.stop_for(found)
    return run.stop_with_error(error) if error else stop


def finish(job: Job, state: RunState) -> None:
    """Score the best model on the test data, once; write its folder with the scores, and results.json.

    Raises UserError where more than ``data.max_skipped`` of the data could not be decoded.
    """
    run, task, model, data = job
    if state.best is None:
        if "valid" in data:
            run.log.print(f"WARNING no {task.score_name} on data.valid was a number: the last model is kept")
        state.best_update = state.update
        run.save_model(model, facts(job, state))
    run.writes.wait()
    run.accelerator.wait_for_everyone()
    load_tensors(model, read_tensors(run.dir / "hub"), run.dir / "hub")
    results: dict[str, Any] = {"task": run.config.task, "pretrained": run.config.pretrained,
                               "baseline": run.config.baseline, "updates": state.update,
                               "best_update": state.best_update, "seed": run.config.run.seed,
                               "counts": {}, "details": {}}  # fmt: skip
    splits = [split for split in ("valid", "test") if split in data]
    for split in splits:
        found = evaluate(job, split, f", best model (update {state.best_update})")
        if found.error:
            run.close()
            raise UserError(found.error)
        results[split], results["details"][split] = found.scores, task.details(found.rows)
        results["counts"][split] = {"scored": len(found.rows), "undecoded": found.undecoded,
                                    "left_out": len(data[split].corpus.skipped)}  # fmt: skip
        if run.accelerator.is_main_process:
            write_rows(run.dir / f"{split}.jsonl", found.rows)
    if splits:
        run.save_model(model, facts(job, state, splits[-1], results[splits[-1]]))
    if run.accelerator.is_main_process:
        write_whole(run.dir / "results.json", json.dumps(results, indent=2) + "\n")
    run.writes.wait()
    where = f"the scores are in {run.dir / 'results.json'}"
    run.log.print(where if splits else "not scored, as neither data.valid nor data.test is set: the last model is kept")


def write_rows(path: Path, rows: list[Scored]) -> None:
    """Write a JSON object per line, with ``reference``, ``prediction`` and where the utterance is from."""
    lines = []
    for utterance, reference, prediction in rows:
        row = {"source": utterance.source, "start_s": utterance.start_s, "duration_s": utterance.duration_s,
               "reference": reference, "prediction": prediction, "speaker": utterance.speaker}  # fmt: skip
        lines.append(json.dumps({key: value for key, value in row.items() if value is not None}, ensure_ascii=False))
    write_whole(path, "".join(f"{line}\n" for line in lines))


def facts(
    job: Job, state: RunState, split: str | None = None, scores: dict[str, float] | None = None
) -> dict[str, Any]:
    """What the model card and config.json report of the training, and of the scores on ``split``."""
    config, train = job.run.config, job.data["train"].corpus
    data = f"{train.name} ({train.hours * 60:.1f} min, {len(train.utterances)} utterances)"
    name = config.baseline or config.pretrained or "scratch"
    source = Path(name)
    found = job.run.facts(state, data) | {
        "started_from": source.parent.name if source.name == "hub" else source.name,
        "base_model": name if re.fullmatch(r"[\w-]+/[\w.-]+", name) and not source.exists() else None,
        "datasets": hub_names(train) or None,
        "language": languages(train) or None,
    }
    if job.model.stored_as == "vocab.json":
        found |= {"text.normalise": config.text.normalise, "text": TEXT_STYLES[config.text.normalise]}
    if split is not None:
        tested = job.data[split].corpus
        left_out = len(tested.skipped)
        lacking = f", without {left_out} utterance{'s' * (left_out > 1)} that could not be used" if left_out else ""
        found |= {"metrics": scores, "test_data": f"{tested.name}{lacking}", "split": split,
                  "scored": len(tested.utterances), "test_dataset": next(iter(hub_names(tested)), None)}  # fmt: skip
    return {key: value for key, value in found.items() if value is not None}


def hub_names(corpus: Corpus) -> list[str]:
    """The sources that are data sets on the hub: ``org/name:config/split``, ``hf://datasets/org/name``."""
    names = [name for name, _ in corpus.sources
             if not Path(name).exists() and "://" not in name.removeprefix("hf://")]  # fmt: skip
    found = (re.match(r"(?:hf://datasets/)?([\w-]+/[\w.-]+)", name) for name in names)
    return sorted({match[1] for match in found if match})


def languages(corpus: Corpus) -> list[str]:
    """The languages that a thousand of the rows state, as the hub writes them (``en``); none where one states none."""
    count = len(corpus.utterances)
    found = {language_of(corpus.utterances[number]) for number in range(0, count, count // 1000 + 1)}
    codes = {name.lower().replace("_", "-").split("-")[0] for name in found}
    return sorted(codes) if all(re.fullmatch("[a-z]{2,3}", code) for code in codes) else []
