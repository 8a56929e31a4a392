"""Scoring a model on a labelled corpus, over all ranks; keeping the best; the run's last word."""

from __future__ import annotations

import json
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
from mixvec.training.report import tell
from mixvec.training.run import Run

from .batch import LabelledBatch
from .diagnose import diagnose_score
from .frozen import frozen_frames, reads_alone
from .tasks import Detailed, Scored
from .tasks import LabelledTask as Task
from .transformers_encoder import TransformersEncoder


@torch.no_grad()
def evaluate(
    run: Run, task: Task, model: Any, data: Updates[LabelledBatch], split: str, when: str
) -> tuple[dict[str, float], list[Scored], int]:
    """Every utterance once. Every rank calls this; one line and examples are shown.

    What cannot be decoded has no answer, which is wrong: no score is the better for a damaged file. The generators are
    left as they were, so that an evaluation changes nothing in training.

    Returns:
        the scores, what they stand on, and how many utterances could not be decoded.
    """
    model.eval()
    rows: list[Scored] = []
    for loaded in data.once():
        batch = loaded.batch.to(run.accelerator.device)
        run.note_skipped(loaded.skipped)
        with run.accelerator.autocast():
            if reads_alone(run.config, training=False):
                encoded = frozen_frames(run.config, model, batch)
            else:
                encoded = model.encoder(batch.waveforms, batch.lengths, every_layer=model.every_layer)
            predictions = task.predict(model, encoded)
        rows += map(Scored, batch.utterances, batch.references, predictions)  # silent stand-ins fall away
    rows = gather_object(rows) if run.accelerator.num_processes > 1 else rows
    undecoded = unanswered(task, data.utterances, rows)
    rows = sorted(rows + undecoded, key=_which)
    scores = task.score(rows)
    listed = "  ".join(f"{key} {value:.3f}" for key, value in scores.items())
    lines = [f"  {split}{when}: {listed}  ({len(rows)} utterances)", *task.report(rows, scores)]
    if undecoded:
        lines.append(
            f"WARNING data.{split}: {len(undecoded)} of {len(rows)} utterances could not be decoded and count as "
            f"errors (why: {run.dir}/skipped*.jsonl)"
        )
    run.say("\n".join(lines))
    return scores, rows, len(undecoded)


def unanswered(task: Task, utterances: Iterable[Utterance], rows: list[Scored]) -> list[Scored]:
    """An empty answer for each utterance that ``rows``, of all ranks, lacks."""
    asked = [Scored(replace(utterance, stored=None), task.reference(utterance), "") for utterance in utterances]
    answered = Counter(map(_which, rows))
    missing = []
    for row in asked:
        if answered[_which(row)]:
            answered[_which(row)] -= 1
        else:
            missing.append(row)
    return missing


def _which(row: Scored) -> tuple[str, float, str]:
    return row.utterance.source, row.utterance.start_s, str(row.reference)


def too_many(run: Run, split: str, undecoded: int, total: int) -> str | None:
    """What to end the run with where more could not be decoded than ``data.max_skipped`` allows."""
    most = run.config.data.max_skipped
    if undecoded <= most * total:
        return None
    return (
        f"data.{split}: {undecoded} of {total} utterances could not be decoded, more than data.max_skipped={most:g} "
        f"allows (why: {run.dir}/skipped*.jsonl); mend them, take them out, or raise data.max_skipped"
    )


def keep_best(
    run: Run, task: Task, model: Any, data: Updates[LabelledBatch], state: RunState, corpora: dict[str, Corpus]
) -> int | None:
    """Score the model, and write it to ``run.dir``/hub where it is the best so far. Every rank calls this.

    Returns:
        the exit code to end with, where ``run.stop_on`` names what ails the scores, or too much was not decoded.
    """
    scores, _, undecoded = evaluate(run, task, model, data, "valid", f" at update {state.update}")
    score = scores[task.score_name]
    if state.best is None or (score > state.best if task.higher_is_better else score < state.best):
        state.best, state.best_update, state.best_loss = score, state.update, state.loss
        save_model(
            run, model, facts(run, state, corpora) | {"metrics": scores, "test_data": scored_on(corpora["valid"])}
        )
    row = {"update": state.update, **{f"valid_{k}": v for k, v in scores.items()}}
    stop = tell(
        run, row, "", diagnose_score(score, task.score_name, len(corpora["valid"].utterances), state, run.config.run)
    )
    sick = too_many(run, "valid", undecoded, len(corpora["valid"].utterances))
    return run.give_up(sick) if sick else stop


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
        UserError: more than ``data.max_skipped`` of it could not be decoded.
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
        if sick := too_many(run, split, undecoded, len(rows)):
            run.close()
            raise UserError(sick)
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
    run.say(f"the scores are in {run.dir / 'results.json'}")


def scored_on(corpus: Corpus) -> str:
    """What a card says of the data behind its scores: its name, and how much of it is not in them."""
    left_out = len(corpus.skipped)
    return corpus.name + (
        f", without {left_out} utterance{'s' * (left_out > 1)} that could not be used" if left_out else ""
    )


def _reloaded(run: Run, model: Any) -> Any:
    """The model of ``run.dir``/hub as anyone loads it; where only a fine-tuning can build it, its weights alone."""
    if not isinstance(model.encoder, TransformersEncoder):
        return load_model(run.dir / "hub")
    load_tensors(model, read_tensors(run.dir / "hub"), run.dir / "hub")
    return model


def write_rows(path: Path, rows: list[Scored]) -> None:
    """A JSON object a line: ``source``, ``start_s``, ``duration_s``, ``reference``, ``prediction``, ``speaker``."""
    lines = []
    for utterance, reference, prediction in rows:
        row = {"source": utterance.source, "start_s": utterance.start_s, "duration_s": utterance.duration_s,
               "reference": reference, "prediction": prediction, "speaker": utterance.speaker}  # fmt: skip
        lines.append(json.dumps({key: value for key, value in row.items() if value is not None}, ensure_ascii=False))
    write_whole(path, "".join(f"{line}\n" for line in lines))


def facts(run: Run, state: RunState, corpora: dict[str, Corpus]) -> dict[str, Any]:
    train = corpora["train"]
    data = f"{train.name} ({train.hours * 60:.1f} min, {len(train.utterances)} utterances)"
    source = Path(run.config.pretrained or "scratch")
    if run.config.baseline is not None:
        source = Path(run.config.baseline)
    started = source.parent.name if source.name == "hub" else source.name
    return training_facts(run, state, data) | {"started_from": started}
