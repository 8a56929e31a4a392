"""Long recordings, cut virtually: stretches of at most ``data.max_s``, found before training and read by seeking.

Without ``data.gate`` the stretches of a recording are of even length and cover all of it, so an epoch hears everything
once; with it they are where there is speech (``gate.py``). Only what is longer than ``data.max_s`` is ever cut.

To find speech every long recording is read once. What was found is remembered beside the index of headers
(``$MIXVEC_CACHE/speech``), by name, size, time and the settings; never any audio. A file there that is damaged or cannot
be kept only means reading again.
"""

from __future__ import annotations

import hashlib
import io
import os
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mixvec import UserError
from mixvec.atomic import whole_file

from .gate import GateConfig, find_speech, frame_levels
from .headers import Progress, opened
from .index import cache_path
from .sources import Corpus, Utterance

VERSION = "1"
GRID_S = 0.04
"""Even cuts fall on multiples of it: a whole number of samples at every rate in use, so none is read twice or never."""
SAVE_EVERY_S = 60.0

Found = dict[bytes, np.ndarray]
"""By the key of a recording: begin and end of its stretches in seconds (K, 2)."""


class Stretches(NamedTuple):
    """M stretches of N recordings, in order."""

    owners: np.ndarray
    """(M,) the number of the recording."""
    starts_s: np.ndarray
    """(M,) from the recording's own start."""
    durations_s: np.ndarray


@dataclass(frozen=True)
class Cut:
    """What ``cut_long`` did."""

    recordings: int
    stretches: int
    silence_s: float
    """Left out by the gate."""


def even_stretches(durations_s: np.ndarray, min_s: float, max_s: float) -> Stretches:
    """Recordings of (N,) seconds in as few stretches as ``max_s`` allows, which cover them evenly.

    None lasts less than ``min_s``, unless its recording does; where ``min_s`` is over half of ``max_s`` that can mean
    leaving out the end.
    """
    longest_s = max(np.floor(max_s / GRID_S + 1e-9) * GRID_S, min(GRID_S, max_s))
    counts = np.where(durations_s > max_s, np.ceil(durations_s / longest_s - 1e-9), 1).astype(np.int64)
    short = (counts > 1) & (durations_s / counts - GRID_S < min_s)
    counts -= short
    covered_s = np.where(short, counts * longest_s, durations_s)
    owners = np.repeat(np.arange(len(durations_s)), counts)
    numbers = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
    step = (covered_s / counts)[owners] / GRID_S
    starts_s = np.ceil(numbers * step - 1e-6) * GRID_S
    ends_s = np.where(numbers + 1 < counts[owners], np.ceil((numbers + 1) * step - 1e-6) * GRID_S, covered_s[owners])
    return Stretches(owners, starts_s, ends_s - starts_s)


def cut_long(
    corpus: Corpus,
    sources: list[str],
    *,
    min_s: float,
    max_s: float,
    gate: GateConfig,
    once: Callable[[Callable[[], list[np.ndarray | str]]], list[np.ndarray | str]] = lambda work: work(),
) -> Cut:
    """Put stretches in the place of the recordings of ``corpus`` that are longer than ``max_s``.

    Args:
        corpus: of utterances of at least ``min_s``.
        sources: what its ``part`` numbers stand for; what is found is remembered under these names.
        once: calls what it is given on one rank and returns that on all.
    """
    whole, durations_s = corpus.utterances, np.array([u.duration_s for u in corpus.utterances])
    long = np.flatnonzero(durations_s > max_s)
    if gate.below_db is None or not len(long):
        stretches = even_stretches(durations_s, min_s, max_s)
    else:
        found = once(lambda: _speech([whole[i] for i in long], sources, min_s, max_s, gate))
        for i, why in zip(long, found, strict=True):
            if isinstance(why, str):
                corpus.skip(whole[i].source, why)
        stretches = _gated(durations_s, long, [np.zeros((0, 2)) if isinstance(f, str) else f for f in found])
    corpus.utterances = [
        whole[i] if durations_s[i] <= max_s
        else replace(whole[i], start_s=whole[i].start_s + start_s, duration_s=duration_s, text=None, label=None)
        for i, start_s, duration_s in zip(*(column.tolist() for column in stretches), strict=True)
    ]  # fmt: skip
    parts = int(np.isin(stretches.owners, long).sum())
    return Cut(len(long), parts, max(0.0, float(durations_s.sum() - stretches.durations_s.sum())))


def _gated(durations_s: np.ndarray, long: np.ndarray, found: list[np.ndarray]) -> Stretches:
    """The long recordings by what was found in each, the others whole."""
    counts = np.ones(len(durations_s), dtype=np.int64)
    counts[long] = [len(bounds_s) for bounds_s in found]
    owners = np.repeat(np.arange(len(durations_s)), counts)
    starts_s, ends_s = np.zeros(len(owners)), durations_s[owners]
    starts_s[np.isin(owners, long)], ends_s[np.isin(owners, long)] = np.concatenate(found).T
    return Stretches(owners, starts_s, ends_s - starts_s)


def _speech(
    recordings: list[Utterance], sources: list[str], min_s: float, max_s: float, gate: GateConfig
) -> list[np.ndarray | str]:
    """What ``find_speech`` says of each recording, or why it cannot be used; from the cache where nothing changed."""
    answers: list[np.ndarray | str] = [""] * len(recordings)
    progress = Progress("listened to", "minutes")
    settings = repr((VERSION, min_s, max_s, gate)).encode()
    for part in sorted({recording.part for recording in recordings}):
        identity = os.fsencode(os.path.abspath(sources[part])) + b"\0" + settings
        numbers = [i for i, recording in enumerate(recordings) if recording.part == part]
        listened = _listen([recordings[i] for i in numbers], cache_path("speech", identity, ".npz"),
                           lambda own: _find(own, min_s, max_s, gate), progress)  # fmt: skip
        for i, answer in zip(numbers, listened, strict=True):
            answers[i] = answer
    progress.close()
    return answers


def _listen(
    recordings: list[Utterance], path: Path | None, find: Callable[[Utterance], np.ndarray], progress: Progress
) -> list[np.ndarray | str]:
    """Those of one source, several at a time. What was found is saved now and then, at the end, or on an interruption."""
    old, found, answers = _load(path), Found(), list[np.ndarray | str]()
    pool = ThreadPoolExecutor(_cores(), thread_name_prefix="gate")
    saved_s, whole = time.monotonic(), False

    def look(recording: Utterance) -> tuple[bytes, np.ndarray | str]:
        key = _key(recording)
        try:
            return key, old[key] if key in old else find(recording)
        except UserError as error:
            return key, str(error)

    try:
        for recording, (key, answer) in zip(recordings, pool.map(look, recordings), strict=True):
            if not isinstance(answer, str):
                found[key] = answer
                answer = answer if len(answer) else f"{recording.source}: all silence, as data.gate has it"
            answers.append(answer)
            progress.add(recording.duration_s / 60)
            if time.monotonic() > saved_s + SAVE_EVERY_S:
                _save(path, old | found)
                saved_s = time.monotonic()
        whole = True
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        kept = found if whole else old | found
        if kept.keys() != old.keys():
            _save(path, kept)
    return answers


def _find(recording: Utterance, min_s: float, max_s: float, gate: GateConfig) -> np.ndarray:
    with opened(recording.source, recording.stored) as file:
        levels_db, frame_s = frame_levels(file, recording.start_s, recording.duration_s)
    if len(levels_db) * frame_s < min_s:
        raise UserError(f"{recording.source}: only {len(levels_db) * frame_s:.2f} s of its {recording.duration_s:.2f} s "
                        "could be decoded")  # fmt: skip
    return find_speech(levels_db, frame_s, min_s, max_s, gate)


def _key(recording: Utterance) -> bytes:
    """Of a recording as it is now: 16 bytes that another one, or the same one after a change, does not have."""
    path = getattr(recording.stored, "path", recording.source)
    try:
        state = os.stat(path)
        size, mtime_ns = state.st_size, state.st_mtime_ns
    except (OSError, ValueError):
        size, mtime_ns = -1, -1
    facts = (os.path.abspath(recording.source), size, mtime_ns, recording.start_s, recording.duration_s)
    return hashlib.blake2b(repr(facts).encode(), digest_size=16).digest()


def _load(path: Path | None) -> Found:
    """What is remembered; nothing where there is no file, or none that is whole."""
    try:
        content = path.read_bytes() if path is not None else b""
    except OSError:
        content = b""
    if len(content) < 4 or zlib.crc32(content[4:]) != int.from_bytes(content[:4], "big"):
        return {}
    with np.load(io.BytesIO(content[4:])) as file:
        keys, counts, bounds_s = file["keys"], file["counts"], file["bounds_s"]
    return dict(zip(map(bytes, keys), np.split(bounds_s, np.cumsum(counts)[:-1]), strict=True))


def _save(path: Path | None, found: Found) -> None:
    """Write it so that others find the old or the new one; where that cannot be, let it be."""
    if path is None:
        return
    content = io.BytesIO()
    keys = np.frombuffer(b"".join(found), dtype=np.uint8).reshape(-1, 16)
    counts = np.array([len(bounds_s) for bounds_s in found.values()], dtype=np.int64)
    np.savez(content, keys=keys, counts=counts, bounds_s=np.concatenate([np.zeros((0, 2)), *found.values()]))
    try:
        with whole_file(path) as new:
            new.write_bytes(zlib.crc32(content.getbuffer()).to_bytes(4, "big") + content.getbuffer())
    except OSError:  # a full disk, or a folder that may not be written to
        return


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
