"""Score a model on a labelled corpus, over all ranks; keep the best one; score that one when the run ends."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object

from mixvec import UserError
from mixvec.atomic import write_whole
from mixvec.data.batches import Updates
from mixvec.data.sources import Corpus
from mixvec.data.utterances import Utterance
from mixvec.hub import load_model, load_tensors, read_tensors
from mixvec.training.checkpoint import RunState
from mixvec.training.export import save_model, training_facts
from mixvec.training.run import Run
from mixvec.transformers_encoder import TransformersEncoder

from .batch import LabelledBatch
from .diagnose import diagnose_score
from .frozen import encodes_alone, frozen_frames
from .tasks import Detailed, Scored
from .tasks import LabelledTask as Task


@torch.no_grad()
def evaluate(
    run: Run, task: Task, model: Any, data: Updates[LabelledBatch], split: str, when: str
) -> tuple[dict[str, float], list[Scored], int]:
    """Score every utterance once. Every rank calls this; the main rank prints a line and examples.

    An utterance that cannot be decoded has an empty prediction, which is an error: a damaged file improves no score.
    The random generators are restored, so that an evaluation changes nothing in training.

    Returns:
        the scores, the rows that they were computed from, and how many utterances could not be decoded.
    """
    model.eval()
    rows: list[Scored] = []
    for loaded in data.once():
        batch = loaded.batch.to(run.accelerator.device)
        run.skips.note(loaded.skipped)
        with run.accelerator.autocast():
            if encodes_alone(run.config, training=False):
                encoded = frozen_frames(run.config, model, batch)
            else:
                encoded = model.encoder(batch.waveforms, batch.lengths, every_layer=model.every_layer)
            predictions = task.predict(model, encoded)
        rows += map(Scored, batch.utterances, batch.references, predictions)  # without the rows of silence
    rows = gather_object(rows) if run.accelerator.num_processes > 1 else rows
    undecoded = missing_predictions(task, data.utterances, rows)
    rows = sorted(rows + undecoded, key=_identity)
    scores = task.score(rows)
    listed = "  ".join(f"{key} {value:.3f}" for key, value in scores.items())
    lines = [f"  {split}{when}: {listed}  ({len(rows)} utterances)", *task.report(rows, scores)]
    if undecoded:
        lines.append(
            f"WARNING data.{split}: {len(undecoded)} of {len(rows)} utterances could not be decoded and count as "
            f"errors (reasons: {run.dir}/skipped*.jsonl)"
        )
    run.log.print("\n".join(lines))
    return scores, rows, len(undecoded)


def missing_predictions(task: Task, utterances: Iterable[Utterance], rows: list[Scored]) -> list[Scored]:
    """Empty predictions for the utterances that are in no rank's ``rows``, since their audio cannot be decoded."""
    predicted = Counter(map(_identity, rows))
    missing = []
    for utterance in utterances:
        row = Scored(replace(utterance, stored=None), task.reference(utterance), "")
        if predicted[_identity(row)]:
            predicted[_identity(row)] -= 1
        else:
            missing.append(row)
    return missing


def _identity(row: Scored) -> tuple[str, float, str]:
    return row.utterance.source, row.utterance.start_s, str(row.reference)


def too_many_undecoded(run: Run, split: str, undecoded: int, total: int) -> str | None:
    """The error that ends the run where more could not be decoded than ``data.max_skipped`` allows, else None."""
    most = run.config.data.max_skipped
    if undecoded <= most * total:
        return None
    return (
        f"data.{split}: {undecoded} of {total} utterances could not be decoded, more than data.max_skipped={most:g} "
        f"allows (reasons: {run.dir}/skipped*.jsonl); fix or remove them, or raise data.max_skipped"
    )


def is_better(score: float, best: float | None, *, higher: bool) -> bool:
    """Whether ``score`` beats ``best``: a tie keeps the earlier checkpoint, and any number beats NaN."""
    if best is None or math.isnan(best):
        return best is None or not math.isnan(score)
    return score > best if higher else score < best


def keep_best(
    run: Run, task: Task, model: Any, data: Updates[LabelledBatch], state: RunState, corpora: dict[str, Corpus]
) -> int | None:
    """Score the model, and write it to ``run.dir``/hub if it is the best so far. Every rank calls this.

    Returns:
        the exit code to end with, where ``run.stop_on`` names a diagnosis of the scores or too much was undecodable.
    """
    scores, _, undecoded = evaluate(run, task, model, data, "valid", f" at update {state.update}")
    score = scores[task.score_name]
    if is_better(score, state.best, higher=task.higher_is_better):
        state.best, state.best_update, state.best_loss = score, state.update, state.loss
        save_model(
            run, model, facts(run, state, corpora) | {"metrics": scores, "test_data": scored_on(corpora["valid"])}
        )
    row = {"update": state.update, **{f"valid_{k}": v for k, v in scores.items()}}
    found = diagnose_score(score, task.score_name, len(corpora["valid"].utterances), state, run.config.run)
    run.log.warn(row, "", found)
    stop = run.stop_for(found)
    error = too_many_undecoded(run, "valid", undecoded, len(corpora["valid"].utterances))
    return run.stop_with_error(error) if error else stop


def finish(
    run: Run,
    task: Task,
    model: Any,
    data: dict[str, Updates[LabelledBatch]],
    state: RunState,
    corpora: dict[str, Corpus],
) -> None:
    """Score the best model on the test data, once; write its folder with the scores, and results.json.

    Raises:
        UserError: more than ``data.max_skipped`` of the data could not be decoded.
    """
    if "valid" not in data:
        state.best_update = state.update
        save_model(run, model, facts(run, state, corpora))
    run.writes.wait()
    run.accelerator.wait_for_everyone()
    best = _reloaded(run, model).to(run.accelerator.device)
    counts: dict[str, dict[str, int]] = {}
    results: dict[str, Any] = {"task": run.config.task, "pretrained": run.config.pretrained,
                               "baseline": run.config.baseline, "updates": state.update,
                               "best_update": state.best_update, "seed": run.config.run.seed,
                               "counts": counts}  # fmt: skip
    for split in [split for split in ("valid", "test") if split in data]:
        when = f", best model (update {state.best_update})"
        results[split], rows, undecoded = evaluate(run, task, best, data[split], split, when)
        counts[split] = {"scored": len(rows), "undecoded": undecoded, "left_out": len(corpora[split].skipped)}
        if error := too_many_undecoded(run, split, undecoded, len(rows)):
            run.close()
            raise UserError(error)
        if run.accelerator.is_main_process:
            write_rows(run.dir / f"{split}.jsonl", rows)
        if isinstance(task, Detailed):
            results.setdefault("details", {})[split] = task.details(rows)
    scored = next((split for split in ("test", "valid") if split in results), None)
    if scored:
        known = facts(run, state, corpora) | {"metrics": results[scored], "test_data": scored_on(corpora[scored])}
        text = results.get("details", {}).get(scored, {}).get("text")
        save_model(run, best, known | ({"text": text} if text else {}))
    if run.accelerator.is_main_process:
        write_whole(run.dir / "results.json", json.dumps(results, indent=2) + "\n")
    run.writes.wait()
    run.log.print(f"the scores are in {run.dir / 'results.json'}")


def scored_on(corpus: Corpus) -> str:
    """The name of the data for the model card, with the number of utterances that the scores leave out."""
    left_out = len(corpus.skipped)
    return corpus.name + (
        f", without {left_out} utterance{'s' * (left_out > 1)} that could not be used" if left_out else ""
    )


def _reloaded(run: Run, model: Any) -> Any:
    """The model of ``run.dir``/hub; its weights loaded into ``model`` where only a fine-tuning can build it."""
    if not isinstance(model.encoder, TransformersEncoder):
        return load_model(run.dir / "hub")
    load_tensors(model, read_tensors(run.dir / "hub"), run.dir / "hub")
    return model


def write_rows(path: Path, rows: list[Scored]) -> None:
    """Write a JSON object per line, with ``reference``, ``prediction`` and where the utterance is from."""
    lines = []
    for utterance, reference, prediction in rows:
        row = {"source": utterance.source, "start_s": utterance.start_s, "duration_s": utterance.duration_s,
               "reference": reference, "prediction": prediction, "speaker": utterance.speaker}  # fmt: skip
        lines.append(json.dumps({key: value for key, value in row.items() if value is not None}, ensure_ascii=False))
    write_whole(path, "".join(f"{line}\n" for line in lines))


def facts(run: Run, state: RunState, corpora: dict[str, Corpus]) -> dict[str, Any]:
    """What the model card and config.json report of the training."""
    train = corpora["train"]
    data = f"{train.name} ({train.hours * 60:.1f} min, {len(train.utterances)} utterances)"
    source = Path(run.config.pretrained or "scratch")
    if run.config.baseline is not None:
        source = Path(run.config.baseline)
    started = source.parent.name if source.name == "hub" else source.name
    return training_facts(run, state, data) | {"started_from": started}
