"""Score a model on a labelled corpus, over all ranks; keep the best one; score that one when the run ends."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate.utils import gather_object

from mixvec import UserError
from mixvec.atomic import write_whole
from mixvec.data.batches import Updates
from mixvec.data.sources import Corpus
from mixvec.hub import load_tensors, read_tensors
from mixvec.training.checkpoint import RunState
from mixvec.training.run import Run

from .batch import LabelledBatch
from .config import FinetuneConfig
from .frozen import encode
from .health import diagnose_score
from .tasks import LabelledTask as Task
from .tasks import Scored
from .tasks.language import LANGUAGE_KEYS


class Evaluation(NamedTuple):
    scores: dict[str, float]
    rows: list[Scored]
    undecoded: int
    """Utterances that could not be decoded."""
    error: str | None
    """The error that ends the run where more could not be decoded than ``data.max_skipped`` allows."""


@torch.no_grad()
def evaluate(run: Run, task: Task, model: Any, data: Updates[LabelledBatch], split: str, when: str) -> Evaluation:
    """Score every utterance once. Every rank calls this; the main rank prints a line and examples.

    An utterance that cannot be decoded has an empty prediction, which is an error: a damaged file improves no score.
    """
    model.eval()
    own: dict[int, Any] = {}
    for loaded in data.once():
        batch = loaded.batch.to(run.accelerator.device)
        run.skips.note(loaded.skipped)
        with run.accelerator.autocast():
            encoded = encode(run.config, model, batch, frozen=True)
            own |= zip(batch.numbers, task.predict(model, encoded), strict=False)  # without the row of silence
    parts = gather_object([own]) if run.accelerator.num_processes > 1 else [own]
    found = {number: prediction for part in parts for number, prediction in part.items()}
    rows = [Scored(replace(utterance, stored=None), task.reference(utterance), found.get(number, ""))
            for number, utterance in enumerate(data.utterances)]  # fmt: skip
    scores, undecoded, error = task.score(rows), len(rows) - len(found), None
    listed = "  ".join(f"{key} {value:.3f}" for key, value in scores.items())
    lines = [f"  {split}{when}: {listed}  ({len(rows)} utterances)", *task.report(rows, scores)]
    if undecoded:
        most, lost = (
            run.config.data.max_skipped,
            f"data.{split}: {undecoded} of {len(rows)} utterances could not be decoded",
        )
        reasons = f"(reasons: {run.dir}/skipped*.jsonl)"
        lines.append(f"WARNING {lost} and count as errors {reasons}")
        if undecoded > most * len(rows):
            error = (f"{lost}, more than data.max_skipped={most:g} allows {reasons}; fix or remove them, or raise "
                     "data.max_skipped")  # fmt: skip
    run.log.print("\n".join(lines))
    return Evaluation(scores, rows, undecoded, error)


def is_better(score: float, best: float | None, *, higher: bool) -> bool:
    """Whether ``score`` beats ``best``, as any number beats None. NaN beats nothing, and a tie keeps the earlier."""
    if best is None or math.isnan(score):
        return not math.isnan(score)
    return score > best if higher else score < best


def selection(config: FinetuneConfig, task: Task) -> list[str]:
    """Lines on how the best checkpoint is chosen, where that is not what ``best_by`` and ``data.valid`` suggest."""
    if config.data.valid is None:
        return ["WARNING data.valid is not set: no checkpoint is chosen by its score, and the last model is kept"]
    if task.score_name == "cer" and config.best_by == "wer" and config.task == "asr":
        return ["the training texts have no spaces: the character error rate decides which checkpoint is the best"]
    return []


def keep_best(
    run: Run, task: Task, model: Any, data: Updates[LabelledBatch], state: RunState, corpora: dict[str, Corpus]
) -> int | None:
    """Score the model, and write it to ``run.dir``/hub if it is the best so far. Every rank calls this.

    Returns:
        the exit code to end with, where ``run.stop_on`` names a diagnosis of the scores or too much was undecodable.
    """
    scores, rows, _, error = evaluate(run, task, model, data, "valid", f" at update {state.update}")
    score, tie = scores[task.score_name], scores[task.tie_name] if task.tie_name else None
    better = is_better(score, state.best, higher=task.higher_is_better)
    if tie is not None and score == state.best:
        better = is_better(tie, state.best_tie, higher=False)
    if better:
        state.best, state.best_tie = score, tie
        state.best_update, state.best_loss = state.update, state.loss
        run.save_model(model, facts(run, state, corpora, "valid", scores))
    found = diagnose_score(score, task.score_name, len(rows), state, run.config.run)
    run.log.warn({"update": state.update, **{f"valid_{k}": v for k, v in scores.items()}}, "", found)
    stop = run.stop_for(found)
    return run.stop_with_error(error) if error else stop


def finish(
    run: Run, task: Task, model: Any, data: dict[str, Updates[LabelledBatch]], state: RunState,
    corpora: dict[str, Corpus],
) -> None:  # fmt: skip
    """Score the best model on the test data, once; write its folder with the scores, and results.json.

    Raises:
        UserError: more than ``data.max_skipped`` of the data could not be decoded.
    """
    if state.best is None:
        if "valid" in data:
            run.log.print(f"WARNING no {task.score_name} on data.valid was a number: the last model is kept")
        state.best_update = state.update
        run.save_model(model, facts(run, state, corpora))
    run.writes.wait()
    run.accelerator.wait_for_everyone()
    load_tensors(model, read_tensors(run.dir / "hub"), run.dir / "hub")
    results: dict[str, Any] = {"task": run.config.task, "pretrained": run.config.pretrained,
                               "baseline": run.config.baseline, "updates": state.update,
                               "best_update": state.best_update, "seed": run.config.run.seed,
                               "counts": {}, "details": {}}  # fmt: skip
    splits = [split for split in ("valid", "test") if split in data]
    for split in splits:
        when = f", best model (update {state.best_update})"
        results[split], rows, undecoded, error = evaluate(run, task, model, data[split], split, when)
        left_out = len(corpora[split].skipped)
        results["counts"][split] = {"scored": len(rows), "undecoded": undecoded, "left_out": left_out}
        results["details"][split] = task.details(rows)
        if error:
            run.close()
            raise UserError(error)
        if run.accelerator.is_main_process:
            write_rows(run.dir / f"{split}.jsonl", rows)
    if splits:
        text = {key: value for key, value in results["details"][splits[-1]].items() if key == "text"}
        run.save_model(model, facts(run, state, corpora, splits[-1], results[splits[-1]]) | text)
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
    run: Run, state: RunState, corpora: dict[str, Corpus], split: str | None = None,
    scores: dict[str, float] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """What the model card and config.json report of the training, and of the scores on ``split``."""
    train = corpora["train"]
    data = f"{train.name} ({train.hours * 60:.1f} min, {len(train.utterances)} utterances)"
    name = run.config.baseline or run.config.pretrained or "scratch"
    source, found = Path(name), run.facts(state, data)
    found["started_from"] = source.parent.name if source.name == "hub" else source.name
    found["base_model"] = name if re.fullmatch(r"[\w-]+/[\w.-]+", name) and not source.exists() else None
    found |= {"datasets": hub_names(train) or None, "language": languages(train) or None}
    if split is not None:
        left_out = len(corpora[split].skipped)
        lacking = f", without {left_out} utterance{'s' * (left_out > 1)} that could not be used" if left_out else ""
        found |= {"metrics": scores, "test_data": f"{corpora[split].name}{lacking}", "split": split}
        found |= {"scored": len(corpora[split].utterances), "test_dataset": next(iter(hub_names(corpora[split])), None)}
    return {key: value for key, value in found.items() if value is not None}


def hub_names(corpus: Corpus) -> list[str]:
    """The sources that are data sets on the hub: ``org/name:config/split``, ``hf://datasets/org/name``."""
    found = [re.match(r"(?:hf://datasets/)?([\w-]+/[\w.-]+)", source.name) for source in corpus.sources]
    local = [Path(source.name).exists() or "://" in source.name.removeprefix("hf://") for source in corpus.sources]
    return sorted({match[1] for match, here in zip(found, local, strict=True) if match and not here})


def languages(corpus: Corpus) -> list[str]:
    """The languages that a thousand of the rows state, as the hub writes them (``en``); none where one states none."""
    rows = [
        corpus.utterances[number] for number in range(0, len(corpus.utterances), len(corpus.utterances) // 1000 + 1)
    ]
    found = {next((row.fields[key] for key in LANGUAGE_KEYS if row.fields.get(key)), "") for row in rows}
    codes = {name.lower().replace("_", "-").split("-")[0] for name in found}
    return sorted(codes) if all(re.fullmatch("[a-z]{2,3}", code) for code in codes) else []
