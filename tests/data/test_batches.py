"""From the plan to micro-batches: the same whatever the workers, resumed exactly, bad files passed over by name."""

from __future__ import annotations

import ctypes
import itertools
import multiprocessing
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from mixvec import UserError
from mixvec.data.batches import Clip, Loaded, LoaderConfig, Updates, start_worker
from mixvec.data.masks import span_mask
from mixvec.data.sources import Corpus, find_utterances
from mixvec.data.utterances import Utterance, Utterances
from mixvec.model.frontend import MelFrontEnd
from pretrain.objectives.contrastive import Contrastive, ContrastiveBatch, ContrastiveConfig, draw_distractors

OBJECTIVE = ContrastiveConfig(mask_span_frames=4, distractors=5)
FRONT_END = MelFrontEnd(10, 4, (2, 1))
ENCODER = SimpleNamespace(
    feature_dim=4, dim=4, frame_lengths=FRONT_END.frame_lengths, hop_samples=FRONT_END.hop_samples
)
COLLATE = Contrastive(ENCODER, OBJECTIVE).collate
Stream = list[tuple[list[int], list[Loaded[ContrastiveBatch]]]]
SECONDS = (0.5, 1.3, 0.7, 2.9, 0.6, 1.1, 0.8, 2.0, 0.9, 1.7)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten files of unequal length; every sample says whose it is and where in it."""
    return write_noises(tmp_path / "audio", SECONDS, 0)


@pytest.fixture
def corpus(folder: Path) -> Corpus:
    return find_utterances(str(folder), "data.train")


def write_noises(folder: Path, seconds: tuple[float, ...], seed: int) -> Path:
    """16 kHz files of white noise, unclipped."""
    folder.mkdir()
    for number, length_s in enumerate(seconds):
        samples = np.random.default_rng([seed, number]).standard_normal(round(length_s * 16_000)) / 8
        soundfile.write(folder / f"{number}.wav", samples, 16_000, subtype="FLOAT")
    return folder


def updates_of(
    corpus: Corpus, *, workers: int = 0, seed: int = 3, ranks: int = 1, rank: int = 0
) -> Updates[ContrastiveBatch]:
    return Updates(corpus, COLLATE, LoaderConfig(4.0, 2.5, 1.5, 0.3, workers, seed, ranks, rank))


def stream(updates: Updates[ContrastiveBatch], count: int, place: list[int] | None = None) -> Stream:
    return list(itertools.islice(updates.start(place), count))


def assert_equal(one: Stream, other: Stream) -> None:
    assert [place for place, _ in one] == [place for place, _ in other]
    for (_, first), (_, second) in zip(one, other, strict=True):
        for a, b in zip(first, second, strict=True):
            assert (a.seconds, a.sources, a.skipped) == (b.seconds, b.sources, b.skipped)
            assert all(torch.equal(x, y) for x, y in zip(a.batch, b.batch, strict=True))


def test_workers_change_nothing_and_a_resume_is_exact(corpus: Corpus) -> None:
    """Over the end of an epoch, from every position, bit for bit."""
    length = updates_of(corpus).epoch_length(0)
    assert length >= 3
    whole = stream(updates_of(corpus), 2 * length)
    assert_equal(whole, stream(updates_of(corpus, workers=2), 2 * length))
    for done in range(1, len(whole)):
        assert_equal(whole[done:], stream(updates_of(corpus), 2 * length - done, whole[done - 1][0]))
    assert_equal(whole[2:5], stream(updates_of(corpus, workers=2), 3, whole[1][0]))


def test_the_runs_own_random_numbers_stay_untouched(corpus: Corpus) -> None:
    for workers in (0, 2):
        before = torch.get_rng_state()
        stream(updates_of(corpus, workers=workers), 2)
        assert torch.equal(torch.get_rng_state(), before)


def test_ranks_share_what_one_rank_would_see(corpus: Corpus) -> None:
    """The clips of two ranks' micro-batches are those of one rank's, with the same crops, masks and distractors."""

    def rows(ranks: int, rank: int) -> list[set[tuple[float, ...]]]:
        seen = []
        for _, parts in stream(updates_of(corpus, ranks=ranks, rank=rank), 3):
            clips = set()
            for batch in (part.batch for part in parts):
                for row, count in enumerate(batch.counts.tolist()):
                    if count:
                        own = [batch.waveforms[row, : batch.lengths[row]], batch.masked[row, :count]]
                        clips.add(tuple(torch.cat([*own, batch.distractors[row, :count].flatten()]).tolist()))
            seen.append(clips)
        return seen

    together = zip(rows(2, 0), rows(2, 1), strict=True)
    assert rows(1, 0) == [one | other for one, other in together]


def test_crops_lie_within_the_file_anew_each_epoch(folder: Path, corpus: Corpus) -> None:
    updates = updates_of(corpus)
    index = next(i for i, u in enumerate(corpus.utterances) if u.source.endswith("3.wav"))
    whole = torch.from_numpy(soundfile.read(folder / "3.wav", dtype="float32")[0])
    starts = set()
    for epoch in range(8):
        clip = updates.read(index, epoch).waveform
        assert len(clip) == 24_000
        (start,) = [s for s in range(len(whole) - 24_000 + 1) if torch.equal(whole[s : s + 50], clip[:50])]
        assert torch.equal(whole[start : start + 24_000], clip)
        starts.add(start)
    assert len(starts) == 8
    assert len(updates.read(0, 0).waveform) == 8_000
    assert all(part.batch.waveforms.shape[1] <= 24_000 for _, parts in stream(updates, 5) for part in parts)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_cannot_be_decoded_is_named_and_the_others_go_on(
    folder: Path, corpus: Corpus, workers: int
) -> None:
    """Found while whole, then lost, cut short, or overwritten with something else before it is read."""
    (folder / "1.wav").unlink()
    (folder / "5.wav").write_bytes((folder / "5.wav").read_bytes()[:1_000])
    (folder / "7.wav").write_text("no audio at all")
    length = updates_of(corpus).epoch_length(0)
    skipped, clips, seconds = [], 0, 0.0
    for _, parts in stream(updates_of(corpus, workers=workers), length):
        for part in parts:
            skipped += part.skipped
            clips += int((part.batch.counts > 0).sum())
            seconds += part.seconds
    assert {Path(row["source"]).name for row in skipped} == {"1.wav", "5.wav", "7.wav"}
    reasons = {Path(row["source"]).name: row["reason"] for row in skipped}
    assert "1.wav: no such file" in reasons["1.wav"]
    assert "could be decoded" in reasons["5.wav"]
    assert "not audio that libsndfile can read" in reasons["7.wav"]
    assert [row["epoch"] for row in skipped] == [0, 0, 0]
    assert clips == 7
    assert seconds == pytest.approx(sum(min(s, 1.5) for i, s in enumerate(SECONDS) if i not in (1, 5, 7)))


def test_a_worker_dies_with_its_parent() -> None:
    """A rank that is killed must not live on in its workers, which hold its sockets and its memory."""

    def asked(answers: Any) -> None:
        start_worker(0)
        number = ctypes.c_int()
        ctypes.CDLL(None).prctl(2, ctypes.byref(number))  # PR_GET_PDEATHSIG
        answers.put(number.value)

    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    worker = context.Process(target=asked, args=(answers,))
    worker.start()
    assert answers.get(timeout=60) == signal.SIGKILL
    worker.join()


def test_nothing_readable_still_gives_batches(folder: Path, corpus: Corpus) -> None:
    for path in folder.iterdir():
        path.unlink()
    for _, parts in stream(updates_of(corpus), 3):
        for part in parts:
            assert part.seconds == 0
            assert len(part.skipped) >= 1
            assert part.batch.counts.tolist() == [0]
            assert not part.batch.mask.any()
            assert part.batch.waveforms.isfinite().all()


def test_silence_is_named_and_the_others_go_on(folder: Path) -> None:
    """Zeros, or any other value alone: their features are all alike, so there is nothing to tell apart."""
    for name, value in (("2.wav", 0.0), ("4.wav", -0.25)):
        soundfile.write(folder / name, np.full(16_000, value, np.float32), 16_000, subtype="FLOAT")
    soundfile.write(folder / "6.wav", np.eye(1, 16_000)[0], 16_000)  # a click
    updates = updates_of(find_utterances(str(folder), "data.train"))
    for number in (2, 4):
        with pytest.raises(UserError, match=rf"{number}\.wav: silent: all samples read are the same"):
            updates.read(number, 0)
    assert len(updates.read(6, 0).waveform) == 16_000


def test_too_much_missing_is_an_error_and_a_little_is_not(folder: Path) -> None:
    corpus = find_utterances(str(folder / "0.wav"), "data.train")
    corpus.utterances = Utterances([replace(corpus.utterances[0], duration_s=0.6)])
    assert len(updates_of(corpus).read(0, 0).waveform) == 8_000
    corpus.utterances = Utterances([replace(corpus.utterances[0], start_s=0.45)])
    with pytest.raises(UserError, match=r"0\.wav: only 0\.05 s of its 0\.60 s could be decoded"):
        updates_of(corpus).read(0, 0)


def clip(number: int, seconds: float) -> Clip:
    rng = np.random.default_rng([1, number])
    return Clip(Utterance(f"{number}", seconds), torch.randn(round(seconds * 16_000)), rng)


def test_masks_do_not_depend_on_the_company() -> None:
    """The mask and distractors of an utterance are those that its own generator gives, alone or in any batch."""
    together = COLLATE([clip(0, 1.0), clip(1, 0.4), clip(2, 1.7)])
    for row, (number, seconds) in enumerate([(0, 1.0), (1, 0.4), (2, 1.7)]):
        alone = COLLATE([clip(number, seconds)])
        frames, count = alone.mask.shape[1], int(alone.counts)
        assert together.counts[row] == count
        assert torch.equal(together.mask[row, :frames], alone.mask[0])
        assert not together.mask[row, frames:].any()
        assert torch.equal(together.masked[row, :count], alone.masked[0])
        assert torch.equal(together.distractors[row, :count], alone.distractors[0])
        rng = np.random.default_rng([1, number])
        mask = span_mask(frames, OBJECTIVE.mask_prob, OBJECTIVE.mask_span_frames, rng)
        assert np.array_equal(alone.mask[0].numpy(), mask)
        assert np.array_equal(alone.masked[0].numpy(), np.flatnonzero(mask))
        assert np.array_equal(alone.distractors[0].numpy(), draw_distractors(count, OBJECTIVE.distractors, rng))


def test_a_clip_too_short_to_mask_hides_nothing() -> None:
    frames = FRONT_END.frame_lengths
    short = next(s for s in range(4_000) if frames(s) == 4) / 16_000
    batch = COLLATE([clip(0, short - 0.001), clip(1, short), clip(2, 1.0)])
    assert batch.counts[0] == 0
    assert batch.counts[1] == 2
    assert not batch.mask[0].any()
    assert batch.mask.shape[1] == frames(16_000)
