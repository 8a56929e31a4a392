"""Scoring a model on a labelled corpus, over all ranks; keeping the best; the run's last word."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object

from mixvec.atomic import write_whole
from mixvec.hub import load_model, load_tensors, read_tensors
from pretrain.checkpoint import RunState
from pretrain.export import save_model, training_facts
from pretrain.health import tell
from pretrain.loader import Updates
from pretrain.run import Run
from pretrain.sources import Corpus

from .batch import LabelledBatch
from .diagnose import diagnose_score
from .frozen import frozen_frames, reads_alone
from .tasks import LabelledTask as Task
from .tasks import Scored


@torch.no_grad()
def evaluate(
    run: Run, task: Task, model: Any, data: Updates[LabelledBatch], name: str
) -> tuple[dict[str, float], list[Scored]]:
    """Every utterance once; the scores and what they stand on. Every rank calls this; one line and examples are shown.

    The generators are left as they were, so that an evaluation changes nothing in training.
    """
    model.eval()
    rows: list[Scored] = []
    for loaded in data.once():
        batch = loaded.batch.to(run.accelerator.device)
        run.note_skipped(loaded.skipped)
        with run.accelerator.autocast():
            alone = reads_alone(run.config, training=False)
            encoded = (
                frozen_frames(run.config, model, batch) if alone else model.encoder(batch.waveforms, batch.lengths)
            )
            predictions = task.predict(model, encoded)
        rows += map(Scored, batch.utterances, batch.references, predictions)  # silent stand-ins fall away
    rows = gather_object(rows) if run.accelerator.num_processes > 1 else rows
    rows.sort(key=lambda row: (row.utterance.source, row.utterance.start_s, row.reference))
    scores = task.score(rows)
    listed = "  ".join(f"{key} {value:.3f}" for key, value in scores.items())
    run.say("\n".join([f"  {name}: {listed}  ({len(rows)} utterances)", *task.report(rows, scores)]))
    return scores, rows


def keep_best(
    run: Run, task: Task, model: Any, data: Updates[LabelledBatch], state: RunState, corpora: dict[str, Corpus]
) -> int | None:
    """Score the model, and write it to ``run.dir``/hub where it is the best so far. Every rank calls this.

    Returns:
        the exit code to end with, where ``run.stop_on`` names what ails the scores.
    """
    scores, _ = evaluate(run, task, model, data, f"valid at update {state.update}")
    score = scores[task.score_name]
    if state.best is None or (score > state.best if task.higher_is_better else score < state.best):
        state.best, state.best_update, state.best_loss = score, state.update, state.loss
        save_model(run, model, facts(run, state, corpora) | {"metrics": scores, "test_data": corpora["valid"].name})
    row = {"update": state.update, **{f"valid_{k}": v for k, v in scores.items()}}
    return tell(
        run, row, "", diagnose_score(score, task.score_name, len(corpora["valid"].utterances), state, run.config.run)
    )


def finish(
    run: Run,
    task: Task,
    model: Any,
    data: dict[str, Updates[LabelledBatch]],
    state: RunState,
    corpora: dict[str, Corpus],
) -> None:
    """Score the best model on the test data, once; write its folder with the scores, and results.json."""
    if "valid" not in data:
        state.best_update = state.update
        save_model(run, model, facts(run, state, corpora))
    run.writes.wait()
    run.accelerator.wait_for_everyone()
    best = _reloaded(run, model).to(run.accelerator.device)
    results: dict[str, Any] = {"task": run.config.task, "pretrained": run.config.pretrained,
                               "baseline": run.config.baseline, "updates": state.update,
                               "best_update": state.best_update, "seed": run.config.run.seed}  # fmt: skip
    for split in ("valid", "test"):
        if split in data:
            name = f"{split}, best model (update {state.best_update})"
            results[split], rows = evaluate(run, task, best, data[split], name)
            if run.accelerator.is_main_process:
                write_rows(run.dir / f"{split}.jsonl", rows)
    scored = next((split for split in ("test", "valid") if split in results), None)
    if scored:
        save_model(
            run, best, facts(run, state, corpora) | {"metrics": results[scored], "test_data": corpora[scored].name}
        )
    if run.accelerator.is_main_process:
        write_whole(run.dir / "results.json", json.dumps(results, indent=2) + "\n")
    run.writes.wait()
    run.say(f"the model is in {run.dir / 'hub'}, its scores in {run.dir / 'results.json'}")


def _reloaded(run: Run, model: Any) -> Any:
    """The model of ``run.dir``/hub as anyone loads it; where only a fine-tuning can build it, its weights alone."""
    if model.encoder.config.kind != "transformers":
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
