"""How many errors streaming recognisers make, and how late their words are, by the length of a chunk and of the past.

    python -m tools.streaming RUN                                   # a complete recognition run, streaming=true
    python -m tools.streaming "runs/sm-{seed}" "runs/att-{seed}" --seeds 3 --json streaming.json

The test data of each run are recognised offline, by whole utterances, and as streams in blocks of 20 ms, on one core.
The latency of a word is the time from its end until it is shown for good, computation included: of words that are
right, that end two seconds or more before their recording, and where CTC aligns the reference with the offline output.
Intervals hold 95 % of error rates when utterances and seeds are resampled; differences from the first run are paired.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jiwer
import numpy as np
import torch
from torch import Tensor

from finetune.scoring import count_characters, resampled
from mixvec.atomic import write_whole
from mixvec.errors import UserError, run_cli
from mixvec.listening import ListenConfig, Listener, Session, streaming_model
from mixvec.model.ctc import CtcRecognizer
from mixvec.transcript import align_words
from tools import command_parser
from tools.decode import log_probs_of, open_run, recordings
from tools.probe.table import DRAWS, summary

BLOCK_S, TAIL_S = 0.02, 2.0


class Clip(NamedTuple):
    """An utterance: samples (S,), its text, and where each word of it ends, if it could be aligned."""

    samples: Tensor
    text: str
    ends_s: list[float]


class Answer(NamedTuple):
    """What a stream gave: each word with the time at which it was shown for good, and the seconds of computation."""

    words: list[tuple[str, float]]
    compute_s: float


def main() -> None:
    parser = command_parser("streaming", __doc__)
    parser.add_argument("runs", metavar="RUN", nargs="+", help="directories of complete recognition runs")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="values of {seed} in RUN, from 0 (1)")
    parser.add_argument("--chunk-ms", default="320,640,1280", metavar="A,B", help="(320,640,1280)")
    parser.add_argument("--left-chunks", default="2,8,all", metavar="A,B", help="chunks of the past (2,8,all)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to this file")
    args = parser.parse_args()
    try:
        chunks = [int(word) for word in args.chunk_ms.split(",")]
        lefts = [None if word == "all" else int(word) for word in args.left_chunks.split(",")]
    except ValueError as error:
        raise UserError("--chunk-ms and --left-chunks are whole numbers with commas, or all") from error
    configs = [None, *(ListenConfig(chunk_ms, left) for left in lefts for chunk_ms in chunks)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = table(args.runs, args.seeds, configs)
    finally:
        torch.set_num_threads(threads)
    if args.json is not None:
        write_whole(args.json, json.dumps(rows, indent=1) + "\n")


def table(runs: Sequence[str], seeds: int, configs: Sequence[ListenConfig | None]) -> list[dict[str, Any]]:
    """Print and return a row for each run and each way of listening; None is offline."""
    rows: list[dict[str, Any]] = []
    first: list[tuple[list[float], list[np.ndarray]]] = []
    for name in runs:
        found = [measure(Path(name.replace("{seed}", str(seed))), configs) for seed in range(seeds)]
        if not rows:
            print("| run | chunk, ms | past | CER % | CER - first | word latency, s (95 %) | real-time factor |")
            print("|---" * 7 + "|")
        for number, config in enumerate(configs):
            counts = [run[number][0] for run in found]
            rates = [100 * float(_rate(own.sum(0, keepdims=True))[0]) for own in counts]
            drawn = [_drawn(own) for own in counts]
            row: dict[str, Any] = {"run": name, "cer": summary(rates, drawn), "values": rates}
            if config is not None:
                late = np.concatenate([run[number][1] for run in found])
                row |= {"chunk_ms": config.chunk_ms, "left_chunks": config.left_chunks, "words": len(late)}
                row["latency_s"] = np.quantile(late, [0.5, 0.95]).tolist() if len(late) else None
            row["real_time_factor"] = float(np.mean([run[number][2] for run in found]))
            if name == runs[0]:
                first.append((rates, drawn))
            else:
                base_rates, base = first[number]
                row["difference"] = summary([a - b for a, b in zip(rates, base_rates, strict=True)],
                                            [a - b for a, b in zip(drawn, base, strict=True)])  # fmt: skip
            rows.append(row)
            print(line(row), flush=True)
    return rows


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    shown = "{value:.1f} [{low:.1f}, {high:.1f}]".format(**row["cer"])
    change = "{value:+.1f} [{low:+.1f}, {high:+.1f}]".format(**row["difference"]) if "difference" in row else ""
    chunk, left, late = "offline", "", ""
    if "chunk_ms" in row:
        chunk, left = f"{row['chunk_ms']}", "all" if row["left_chunks"] is None else f"{row['left_chunks']} chunks"
        late = "{:.2f} ({:.2f})".format(*row["latency_s"]) if row["latency_s"] else ""
    return f"| {row['run']} | {chunk} | {left} | {shown} | {change} | {late} | {row['real_time_factor']:.3f} |"


def measure(folder: Path, configs: Sequence[ListenConfig | None]) -> list[tuple[np.ndarray, np.ndarray, float]]:
    """For each way of listening the errors and characters of each utterance (N, 2), latencies in s, real-time factor.

    Raises:
        UserError: no complete recognition run with data.test, or its model cannot stream.
    """
    config, model, corpora = open_run(folder)
    model = streaming_model(model, folder, force=False)
    if "test" not in corpora:
        raise UserError(f"{folder}: its data.test has no utterances with texts")
    clips, offline, seconds = list[Clip](), list[str](), 0.0
    for _, text, samples in recordings(config, model, corpora["test"]):
        started = time.perf_counter()
        log_probs = log_probs_of(model, samples)
        seconds += time.perf_counter() - started
        frame_s = model.encoder.hop_samples / model.encoder.sample_rate_hz
        words = align_words(log_probs, text, model.vocabulary, frame_s=frame_s) if len(log_probs) else []
        ends_s = [word.end_s for word in words]
        clips.append(Clip(samples, text, ends_s if len(ends_s) == len(text.split()) else []))
        offline += model.decode(log_probs.unsqueeze(0), torch.tensor([len(log_probs)]))
    return [(_errors(clips, offline), np.zeros(0), seconds / _audio_s(clips)) if listened is None else
            streamed(model, clips, listened) for listened in configs]  # fmt: skip


def streamed(model: CtcRecognizer, clips: list[Clip], config: ListenConfig) -> tuple[np.ndarray, np.ndarray, float]:
    """Errors, latencies and real-time factor of the clips as streams."""
    listener = Listener(model, config, torch.device("cpu"))
    answers = [listen(listener, clip.samples) for clip in clips]
    texts = [" ".join(word for word, _ in answer.words) for answer in answers]
    late = [late_s for clip, answer in zip(clips, answers, strict=True) for late_s in latencies(clip, answer)]
    return _errors(clips, texts), np.array(late), sum(answer.compute_s for answer in answers) / _audio_s(clips)


def listen(listener: Listener, samples: Tensor) -> Answer:
    """Recognise samples (S,) as a stream in blocks of 20 ms."""
    session, done, shown = Session(listener), list[tuple[str, float]](), list[tuple[str, float]]()
    received, compute_s = 0, 0.0
    blocks = torch.split(samples, round(BLOCK_S * listener.rate_hz)) if len(samples) else ()
    for number, block in enumerate(blocks):
        session.feed(block)
        received += len(block)
        if number == len(blocks) - 1:
            session.close()
        while session.ready:
            started = time.perf_counter()
            (results,) = listener.advance([session])
            step_s = time.perf_counter() - started
            compute_s += step_s
            for result in results:
                words, now_s = result.text.split(), received / listener.rate_hz + step_s
                kept = next((i for i, (old, new) in enumerate(zip(shown, words, strict=False)) if old[0] != new),
                            min(len(shown), len(words)))  # fmt: skip
                shown = shown[:kept] + [(word, now_s) for word in words[kept:]]
                if result.final:
                    done, shown = done + shown, []
    return Answer(done, compute_s)


def latencies(clip: Clip, answer: Answer) -> list[float]:
    """The latency of each word that is right, in s; none where the reference could not be aligned."""
    if not clip.ends_s or not answer.words:
        return []
    spoken_s = len(clip.samples) / 16_000 - TAIL_S
    chunks = jiwer.process_words(clip.text, " ".join(word for word, _ in answer.words)).alignments[0]
    same = [(chunk.ref_start_idx + i, chunk.hyp_start_idx + i) for chunk in chunks if chunk.type == "equal"
            for i in range(chunk.ref_end_idx - chunk.ref_start_idx)]  # fmt: skip
    return [answer.words[own][1] - clip.ends_s[word] for word, own in same if clip.ends_s[word] <= spoken_s]


def _audio_s(clips: list[Clip]) -> float:
    return sum(len(clip.samples) for clip in clips) / 16_000


def _errors(clips: list[Clip], texts: list[str]) -> np.ndarray:
    """Errors and characters of each utterance (N, 2)."""
    counts = count_characters([clip.text for clip in clips], texts).counts
    return np.stack([counts[:, 1:].sum(axis=1), counts[:, :3].sum(axis=1)], axis=1)


def _drawn(counts: np.ndarray) -> np.ndarray:
    """Error rates (R,) in per cent with the utterances resampled."""
    return 100 * _rate(resampled(counts, np.arange(len(counts)), DRAWS, seed=0))


def _rate(sums: np.ndarray) -> np.ndarray:
    rate: np.ndarray = sums[:, 0] / np.maximum(sums[:, 1], 1)
    return rate


if __name__ == "__main__":
    run_cli(main)
