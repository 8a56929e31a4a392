"""Utterances to look at and to listen to, with what fine-tuned models predicted and when."""

from __future__ import annotations

import base64
import io
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jiwer
import numpy as np
import soundfile
import torch
from markupsafe import Markup
from torch import Tensor
from torchaudio.functional import forced_align, merge_tokens

from mixvec import CtcRecognizer
from mixvec.audio import read_audio
from mixvec.data.sources import find_utterances
from mixvec.errors import UserError
from mixvec.hub import load_model
from mixvec.model.frontend import SAMPLE_RATE_HZ
from mixvec.model.mel import MelTables, log_mel
from mixvec.transcript import tokens_of

from .errors import Recognised
from .figures import plain, spectrogram, svg
from .runs import RunFolder

EXAMPLES, LONGEST_S, SHOWN_GROUPS = 6, 12.0, 3

Key = tuple[str, float]
"""File and start in s of an utterance."""


class Example(NamedTuple):
    """An utterance with each group's prediction."""

    title: str
    reference: str
    outputs: list[tuple[str, list[tuple[str, str, str]], str]]
    """Name of each group, its prediction in parts (kind of error, reference, prediction), and its errors in words."""
    audio: str | None
    """A data URI; None where the audio is not there any more."""
    picture: Markup | None
    """Its spectrogram, and when each model emits which token."""


def key_of(row: dict[str, Any]) -> Key:
    start_s = row.get("start_s")
    return str(row.get("source", "")), float(start_s) if isinstance(start_s, int | float) else 0.0


def examples(found: list[Recognised], problems: list[str]) -> list[Example]:
    """Utterances from the one with the fewest errors to the one with the most, in the first run of each group."""
    tables = [(own, {key_of(row): number for number, row in enumerate(own.rows)}) for own in found]
    shown = [(own, places) for own, places in tables if places.keys() & tables[0][1].keys()][:SHOWN_GROUPS]
    wrong: dict[Key, float] = {}
    for key in set.intersection(*(set(places) for _, places in shown)) if shown else ():
        rows = [own.rows[places[key]] for own, places in shown]
        if all(float(row.get("duration_s") or 0) <= LONGEST_S for row in rows):
            errors = sum(own.words.counts[places[key], 1:].sum() for own, places in shown)
            wrong[key] = errors / max(1, len(rows[0]["reference"].split()))
    ordered = sorted(wrong, key=lambda key: (wrong[key], key))
    chosen = {round(place) for place in np.linspace(0, len(ordered) - 1, EXAMPLES)} if ordered else set()
    return [_example([(own, own.rows[places[ordered[n]]]) for own, places in shown], problems) for n in sorted(chosen)]


def _example(shown: list[tuple[Recognised, dict[str, Any]]], problems: list[str]) -> Example:
    (own, row), audio, drawn = shown[0], None, None
    try:
        waveform = read(own.group.first, row)
        emitted = [
            (o.group.name, tokens) for o, r in shown if (tokens := aligned(o, r, waveform, problems)) is not None
        ]
        audio, drawn = sound(waveform), picture(waveform, emitted)
    except (UserError, OSError) as error:
        problems.append(f"audio of the examples: {error}")
    about = [plain(Path(str(row.get("source", ""))).name), plain(row.get("speaker") or "")]
    if row.get("duration_s"):
        about.insert(1, f"{float(row['duration_s']):.1f} s")
    return Example(
        ", ".join(filter(None, about)), row["reference"],
        [(o.group.name, *compared(r["reference"], r["prediction"])) for o, r in shown],
        audio, drawn,
    )  # fmt: skip


def aligned(
    own: Recognised, row: dict[str, Any], waveform: Tensor, problems: list[str]
) -> list[tuple[float, str]] | None:
    """``emissions`` of a group's own model; None where it has none, which is noted where it cannot be used."""
    try:
        model = recognizer(own.group.first.path)
        return None if model is None else emissions(model, waveform, row["prediction"])
    except (UserError, OSError, RuntimeError, ValueError) as error:
        why = " ".join(str(error).split())[:200]
        problems.append(f"{own.group.first.name}: its model cannot be used: {why}")
        return None


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
    model = load_model(run / "hub") if (run / "hub").is_dir() else None
    return model.eval() if isinstance(model, CtcRecognizer) else None


@torch.inference_mode()
def emissions(model: CtcRecognizer, waveform: Tensor, text: str) -> list[tuple[float, str]]:
    """Time in s and text of each token of a prediction, on the most probable path of CTC that gives it.

    Raises:
        RuntimeError: the text needs more frames than there are.
    """
    padded = torch.nn.functional.pad(waveform, (0, max(0, model.encoder.min_samples - len(waveform))))
    log_probs = model(padded.unsqueeze(0))[0]  # (1, T, V)
    tokens = tokens_of(text, model.vocabulary)
    if not tokens:
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torchaudio 2.9 announces a removal that 2.11 took back
        (path,), (scores,) = forced_align(log_probs, torch.tensor([tokens], dtype=torch.int32))
    frame_s = len(waveform) / SAMPLE_RATE_HZ / log_probs.shape[1]
    return [((span.start + span.end) / 2 * frame_s, model.vocabulary[span.token].replace(model.space, "·"))
            for span in merge_tokens(path, scores)]  # fmt: skip


def compared(reference: str, prediction: str) -> tuple[list[tuple[str, str, str]], str]:
    """The words of a prediction beside those of its reference, and the number of errors in words."""
    done = jiwer.process_words(reference, prediction)
    chunks = [
        (part.type, " ".join(done.references[0][part.ref_start_idx : part.ref_end_idx]),
         " ".join(done.hypotheses[0][part.hyp_start_idx : part.hyp_end_idx]))
        for part in done.alignments[0]
    ]  # fmt: skip
    kinds = (("substituted", done.substitutions), ("deleted", done.deletions), ("inserted", done.insertions))
    wrong = ", ".join(f"{number} {kind}" for kind, number in kinds if number)
    return chunks, wrong or "no errors"


def sound(waveform: Tensor) -> str:
    """A waveform (S,) as a data URI that every browser plays."""
    out = io.BytesIO()
    soundfile.write(out, waveform.clamp(-1, 1).numpy(), SAMPLE_RATE_HZ, format="MP3", compression_level=0.6)
    return "data:audio/mpeg;base64," + base64.b64encode(out.getvalue()).decode()


def picture(waveform: Tensor, emitted: list[tuple[str, list[tuple[float, str]]]]) -> Markup:
    """The log-mel spectrogram, and under it a row of tokens for each model."""
    mel = log_mel(waveform.unsqueeze(0), None, MelTables(64))[0].T.numpy()  # (M, T)
    return svg(spectrogram, np.clip(mel, np.percentile(mel, 5), None), len(waveform) / SAMPLE_RATE_HZ, emitted)
