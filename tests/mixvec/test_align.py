"""Word times: against every path of small outputs, and against synthesised speech whose word times are known."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from mixvec import CtcRecognizer, build_encoder
from mixvec.transcript import align_words, best_path, tokens_of
from tests.commands import Run
from tests.tiny_models import MEL

VOCABULARY = ["[PAD]", "|", "a", "b"]
WORDS = ("stop", "left", "right", "yes", "go", "down")


@pytest.mark.parametrize("tokens", [[2], [2, 3], [2, 2], [2, 1, 3], [2, 2, 2]])
def test_the_best_path_is_the_best_of_all(tokens: list[int]) -> None:
    scores = torch.randn(5, 4, generator=torch.Generator().manual_seed(len(tokens))).log_softmax(-1)
    paths = [p for p in itertools.product(range(4), repeat=5) if [t for t, _ in itertools.groupby(p) if t] == tokens]
    best = max(paths, key=lambda path: sum(float(scores[frame, token]) for frame, token in enumerate(path)))
    assert best_path(scores, tokens) == list(best)
    assert best_path(scores[: len(tokens) - 1], tokens) is None and best_path(scores, []) is None


def test_words_have_the_frames_and_the_probability_of_their_tokens() -> None:
    path = [0, 2, 2, 0, 3, 1, 0, 2, 0, 0]
    log_probs = torch.full((10, 4), 0.1 / 3).log()
    log_probs[torch.arange(10), path] = np.log(0.9)
    first, second = align_words(log_probs, "ab a", VOCABULARY)
    assert first[:3] == ("ab", 1, 5)
    assert second[:3] == ("a", 7, 8)
    assert first.confidence == pytest.approx(0.9, abs=1e-5)
    (other,) = align_words(log_probs, "bb", VOCABULARY)  # not what greedy search finds
    assert other.word == "bb" and other.confidence < 0.5
    assert align_words(log_probs[:2], "abab", VOCABULARY) == [] and align_words(log_probs, "", VOCABULARY) == []


def test_pieces_are_words_where_a_space_begins_one() -> None:
    vocabulary = ["[PAD]", "▁a", "b", "▁", "a"]
    assert tokens_of("ab ba", vocabulary) == [1, 2, 3, 2, 4]
    log_probs = torch.full((6, 5), 0.01).log()
    log_probs[torch.arange(6), [1, 2, 0, 3, 2, 4]] = 0.0
    assert [word[:2] for word in align_words(log_probs, "ab ba", vocabulary)] == [
        ("ab", 0),
        ("ba", 4),
    ]


def sentence(
    spoken: dict[str, np.ndarray], rng: np.random.Generator, count: int
) -> tuple[Tensor, list[tuple[str, float, float]]]:
    """Synthesised words with pauses between them, and each word's start and end in seconds."""
    parts, times, at = [np.zeros(int(rng.uniform(800, 4_800)))], [], 0
    for word in rng.choice(WORDS, count):
        at = sum(map(len, parts))
        times.append((str(word), at / 16_000, (at + len(spoken[word])) / 16_000))
        parts += [spoken[word], np.zeros(int(rng.uniform(1_300, 4_800)))]
    samples = np.concatenate(parts)
    return torch.from_numpy(samples + rng.normal(0, 0.002, len(samples))).float(), times


@pytest.mark.slow
def test_the_times_of_synthesised_words_are_right(tmp_path: Path, run: Run) -> None:
    """Of a recogniser that has learned six words of espeak: the median error is under one and a half frames."""
    from tools.espeak import synthesise

    rng, spoken = np.random.default_rng(0), {}
    for word in WORDS:
        samples = synthesise(word)
        loud = np.flatnonzero(np.abs(samples) > 0.01)
        spoken[word] = samples[loud[0] : loud[-1] + 1]
    vocabulary = ["[PAD]", "|", *sorted(set("".join(WORDS)))]
    config = replace(MEL, conv_channels=32, dim=48, ffn_dim=96, layer_drop=0.0, dropout=0.0)
    model = CtcRecognizer(build_encoder(config), vocabulary, dropout=0.0)
    optimizer = torch.optim.AdamW(model.parameters(), 4e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=250)
    for _ in range(250):
        batch = [sentence(spoken, rng, 3) for _ in range(8)]
        lengths = torch.tensor([len(waveform) for waveform, _ in batch])
        waveforms = torch.nn.utils.rnn.pad_sequence([waveform for waveform, _ in batch], batch_first=True)
        targets = [tokens_of(" ".join(word for word, *_ in times), vocabulary) for _, times in batch]
        log_probs, frames = model(waveforms, lengths)
        loss = torch.nn.functional.ctc_loss(
            log_probs.transpose(0, 1),
            torch.tensor([*itertools.chain(*targets)]),
            frames,
            torch.tensor(list(map(len, targets))),
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()
    model.eval().save_pretrained(tmp_path / "model")
    known, parts, at_s = {}, [], 0.0
    for number in range(14):
        waveform, times = sentence(spoken, rng, 3)
        soundfile.write(tmp_path / f"{number:02}.wav", waveform.numpy(), 16_000)
        known[f"{number:02}.wav"] = times
        known.setdefault("long.wav", []).extend((word, start + at_s, end + at_s) for word, start, end in times)
        parts += [waveform.numpy(), np.zeros(9_600)]
        at_s += len(waveform) / 16_000 + 0.6
    soundfile.write(tmp_path / "long.wav", np.concatenate(parts), 16_000)
    done = run("transcribe", "--json", "--model", tmp_path / "model", *sorted(tmp_path.glob("*.wav")))
    errors = []
    for row in map(json.loads, done.lines):
        assert ("segments" in row) == (row["seconds"] > 20)
        for text, start, end in known[
            Path(row["path"]).name
        ]:  # one that is recognised as another counts as infinitely off
            near = [word for word in row["words"] if word["word"] == text and abs(word["start_s"] - start) < 0.5]
            found = [(abs(word["start_s"] - start), abs(word["end_s"] - end)) for word in near]
            errors.append(min(found, default=(np.inf, np.inf)))
    assert len(errors) == 2 * 14 * 3
    assert np.median(errors, axis=0).max() < 1.5 * model.encoder.hop_samples / 16_000
