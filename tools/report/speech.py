"""Utterances to look at and to listen to, with what fine-tuned models predicted and when."""

from __future__ import annotations

import base64
import io
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jiwer
import numpy as np
import soundfile
import torch
from markupsafe import Markup
from torch import Tensor

from finetune.scoring import count_words
from mixvec import CtcRecognizer
from mixvec.audio import read_audio
from mixvec.data.sources import find_utterances
from mixvec.errors import UserError
from mixvec.hub import load_model
from mixvec.model.frontend import SAMPLE_RATE_HZ
from mixvec.model.mel import MelTables, log_mel

from .errors import texts
from .figures import Palette, new_figure, plain, svg
from .runs import Group, RunFolder

EXAMPLES, LONGEST_S, SHOWN_GROUPS = 6, 12.0, 3

Key = tuple[str, float]
Emitted = list[tuple[float, str]]
"""Time in s and text of each token that CTC emits."""


class Chunk(NamedTuple):
    """Consecutive words that are equal, substituted, deleted or inserted."""

    kind: str
    reference: str
    prediction: str


class Output(NamedTuple):
    name: str
    chunks: list[Chunk]
    errors: str
    """Their number and kind, in words."""


class Example(NamedTuple):
    """An utterance with each group's prediction."""

    title: str
    reference: str
    outputs: list[Output]
    audio: str | None
    """A data URI; None where the audio is not there any more."""
    picture: Markup | None
    """Its spectrogram, and when each model emits which token."""


def key_of(row: dict[str, Any]) -> Key:
    start_s = row.get("start_s")
    return str(row.get("source", "")), float(start_s) if isinstance(start_s, int | float) else 0.0


def examples(groups: list[Group], problems: list[str]) -> list[Example]:
    """Utterances from the one with the fewest errors to the one with the most, in the first run of each group."""
    groups = [group for group in groups if texts(group.first)]
    tables = [{key_of(row): row for row in texts(group.first)} for group in groups]
    kept = [number for number, table in enumerate(tables) if table.keys() & tables[0].keys()][:SHOWN_GROUPS]
    groups, tables = [groups[number] for number in kept], [tables[number] for number in kept]
    if not tables:
        return []
    errors = Counter[Key]()
    for key in set.intersection(*map(set, tables)):
        if all(float(table[key].get("duration_s") or 0) <= LONGEST_S for table in tables):
            words = max(1, len(tables[0][key]["reference"].split()))
            errors[key] = sum(count_words([t[key]["reference"]], [t[key]["prediction"]]).counts[0, 1:].sum()
                              for t in tables) / words  # fmt: skip
    ordered = sorted(errors, key=lambda key: (errors[key], key))
    chosen = (
        [ordered[i] for i in np.unique(np.linspace(0, len(ordered) - 1, EXAMPLES).round().astype(int))]
        if ordered
        else []
    )
    return [_example(groups, [table[key] for table in tables], problems) for key in chosen]


def _example(groups: list[Group], rows: list[dict[str, Any]], problems: list[str]) -> Example:
    row, outputs, emitted = rows[0], [], list[tuple[str, Emitted]]()
    try:
        waveform = read(groups[0].first, row)
    except (UserError, OSError) as error:
        waveform = None
        _note(problems, f"audio of the examples: {error}")
    for group, own in zip(groups, rows, strict=True):
        outputs.append(Output(group.name, *compared(own["reference"], own["prediction"])))
        try:
            model = recognizer(group.first.path) if waveform is not None else None
            if waveform is not None and model is not None:
                emitted.append((group.name, emissions(model, waveform)))
        except (UserError, OSError, RuntimeError, ValueError) as error:
            _note(problems, f"{group.first.name}: its model cannot be used: {' '.join(str(error).split())[:200]}")
    name = Path(str(row.get("source", ""))).name
    about = [
        plain(name),
        f"{float(row['duration_s']):.1f} s" if row.get("duration_s") else "",
        plain(row.get("speaker") or ""),
    ]
    drawn = None if waveform is None else picture(waveform, emitted)
    return Example(", ".join(filter(None, about)), row["reference"], outputs, sound(waveform), drawn)


def _note(problems: list[str], line: str) -> None:
    if line not in problems:
        problems.append(line)


def read(run: RunFolder, row: dict[str, Any]) -> Tensor:
    """The waveform (S,) of a row, from its file, or through the run's own data where it is part of a tar or table.

    Raises:
        UserError: it is not there any more.
    """
    source, start_s = key_of(row)
    if Path(source).is_file():
        return read_audio(source, start_s, float(row["duration_s"]) if row.get("duration_s") else None)
    data = str(run.config.get(f"data.{run.split}"))
    if not Path(data).exists() or (source, start_s) not in (stored := utterances(data)):
        raise UserError(f"{source} is not there (paths of a run are relative to where it was started)")
    return stored[source, start_s].read()  # type: ignore[no-any-return]


@lru_cache(4)
def utterances(data: str) -> dict[Key, Any]:
    """The utterances of a source by file and start."""
    return {(u.source, u.start_s): u for u in find_utterances(data, "data")[:].utterances}  # type: ignore[index]


@lru_cache(SHOWN_GROUPS)
def recognizer(run: Path) -> CtcRecognizer | None:
    """The run's model; None where it has no CTC output of text."""
    if not (run / "hub").is_dir():
        return None
    model = load_model(run / "hub")
    return model.eval() if isinstance(model, CtcRecognizer) else None


@torch.inference_mode()
def emissions(model: CtcRecognizer, waveform: Tensor) -> Emitted:
    """Which token greedy CTC emits when: at the first of the frames that are the same."""
    padded = torch.nn.functional.pad(waveform, (0, max(0, model.encoder.min_samples - len(waveform))))
    best = model(padded.unsqueeze(0))[0][0].argmax(-1).tolist()
    frame_s, before, found = len(waveform) / SAMPLE_RATE_HZ / max(1, len(best)), 0, list[tuple[float, str]]()
    for frame, token in enumerate(best):
        if token not in (0, before):
            found.append(((frame + 0.5) * frame_s, model.vocabulary[token].replace(model.space, "·")))
        before = token
    return found


def compared(reference: str, prediction: str) -> tuple[list[Chunk], str]:
    """The words of a prediction beside those of its reference, and the number of errors in words."""
    done = jiwer.process_words(reference, prediction)
    chunks = [
        Chunk(part.type[:6], " ".join(done.references[0][part.ref_start_idx : part.ref_end_idx]),
              " ".join(done.hypotheses[0][part.hyp_start_idx : part.hyp_end_idx]))
        for part in done.alignments[0]
    ]  # fmt: skip
    kinds = (("substituted", done.substitutions), ("deleted", done.deletions), ("inserted", done.insertions))
    wrong = ", ".join(f"{number} {kind}" for kind, number in kinds if number)
    return chunks, wrong or "no errors"


def sound(waveform: Tensor | None) -> str | None:
    """A waveform (S,) as a data URI that every browser plays."""
    if waveform is None:
        return None
    out = io.BytesIO()
    soundfile.write(out, waveform.clamp(-1, 1).numpy(), SAMPLE_RATE_HZ, format="MP3", compression_level=0.6)
    return "data:audio/mpeg;base64," + base64.b64encode(out.getvalue()).decode()


def picture(waveform: Tensor, emitted: list[tuple[str, Emitted]]) -> Markup:
    """The log-mel spectrogram, and under it a row of tokens for each model."""
    seconds, palette = len(waveform) / SAMPLE_RATE_HZ, Palette()
    mel = log_mel(waveform.unsqueeze(0), None, MelTables(64))[0].T.numpy()  # (M, T)
    mel = np.clip(mel, np.percentile(mel, 5), None)
    width, heights = min(20.0, max(3.4, 2.2 * seconds)), [4] + [1] * len(emitted)
    figure, axes = new_figure(width, 1.5 + 0.42 * len(emitted), palette, heights)
    axes[0].imshow(mel, origin="lower", aspect="auto", cmap="Greys", interpolation="none",
                   extent=(0, seconds, 0, len(mel)))  # fmt: skip
    axes[0].set_yticks([])
    for axis, (name, tokens) in zip(axes[1:], emitted, strict=True):
        for time_s, token in tokens:
            axis.text(time_s, 0.42, plain(token, 12), ha="center", va="center", color=palette.ink, fontsize=8)
        axis.set_yticks([])
        axis.set_title(plain(name, 40), loc="left", fontsize=7, pad=1, color=palette.ink)
    axes[-1].set_xlabel("s", color=palette.ink, fontsize=8)
    return svg(figure)
