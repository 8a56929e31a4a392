"""Streams: each utterance once an epoch over all ranks, resumed exactly, mixed by weight, faults in a line."""

from __future__ import annotations

import itertools
import json
import tarfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from mixvec import UserError
from mixvec.data.augment import Augmentation
from mixvec.data.batches import Clip, Loaded, LoaderConfig
from mixvec.data.config import WaveformAugmentConfig
from mixvec.data.sources import parse_sources
from mixvec.data.stream import Place, Streamed, StreamedUpdates
from tests.readers import write
from tests.runs import PRETRAIN, command, identical, pretrain, weights

Rows = list[tuple[str, float, float]]
Stream = list[tuple[Place, list[Loaded[Rows]]]]


def names(clips: list[Clip]) -> Rows:
    """Which clips, the first sample of each, and a number drawn for it."""
    return [(Path(c.utterance.source).name, float(c.waveform[0]), float(c.rng.random())) for c in clips]


def tars(folder: Path, shards: int, each: int, name: str = "s") -> Path:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for shard in range(shards):
        with tarfile.open(folder / f"{shard:03}.tar", "w") as tar:
            for number in range(each):
                audio = write(folder / f"{name}{shard}-{number}.wav", float(rng.uniform(0.3, 2.0)))
                tar.add(audio, arcname=audio.name)
                audio.unlink()
    return folder


def updates_of(source: Any, *, workers: int = 0, ranks: int = 1, rank: int = 0, **others: Any) -> StreamedUpdates[Rows]:
    stream = {"buffer_s": 13.0, "max_skipped": 1.0, "augment": None}
    stream |= {name: others.pop(name) for name in list(others) if name in stream}
    loader = replace(LoaderConfig(4.0, 3.0, 1.5, 0.1, workers, 3, ranks, rank), **others)
    return StreamedUpdates(parse_sources(source, "data.train"), "data.train", names, loader, **stream)


def stream(updates: StreamedUpdates[Rows], count: int, place: Place | None = None) -> Stream:
    return list(itertools.islice(updates.start(place), count))


def clips(updates: Stream) -> list[Rows]:
    return [[row for part in loaded for row in part.batch] for _, loaded in updates]


@pytest.mark.parametrize(("shards", "ranks"), [(5, 1), (5, 2), (4, 4), (2, 3), (1, 2)])
def test_each_utterance_once_an_epoch_over_the_ranks(tmp_path: Path, shards: int, ranks: int) -> None:
    """More shards than ranks, as many, and fewer."""
    folder = tars(tmp_path / "set", shards, 12)
    seen = [Counter[str]() for _ in range(3)]
    for rank in range(ranks):
        (source,) = updates_of(folder, ranks=ranks, rank=rank).sources
        with ThreadPoolExecutor(2) as workers:
            for after, found in source.read(None, workers):
                if after[0] == 3:
                    break
                assert isinstance(found, Streamed) and found.numbers[0] == after[0]
                seen[after[0]][found.utterance.source] += 1
    assert all(len(epoch) == 12 * shards and set(epoch.values()) == {1} for epoch in seen)
    once = [name for rows in clips(stream(updates_of(folder, crop_s=2.0), 4)) for name, _, _ in rows]
    assert len(set(once)) == len(once) if len(once) <= 12 * shards else set(Counter(once).values()) <= {1, 2}


def test_long_recordings_are_heard_to_their_end(tmp_path: Path) -> None:
    """Each sample once an epoch, in stretches that share a pool; also of audio inside something larger."""
    long = write(tmp_path / "folder" / "long.wav", 8.3)
    shard = tars(tmp_path / "tars", 1, 0) / "000.tar"
    with tarfile.open(shard, "w") as tar:
        tar.add(long, arcname=long.name)
    whole = soundfile.read(long, dtype="float32")[0]
    for folder in (long.parent, shard.parent):
        updates = updates_of(folder, update_s=8.3, buffer_s=0.0)
        updates.collate = lambda clips: [(c.utterance.start_s, float(c.rng.random()), c.waveform) for c in clips]
        heard = sorted(row for part in stream(updates, 1)[0][1] for row in part.batch)
        assert len(heard) == len({drawn for _, drawn, _ in heard}) == 6
        np.testing.assert_array_equal(torch.cat([waveform for *_, waveform in heard]), whole)


def test_a_batch_keeps_its_bound_and_is_of_like_lengths(tmp_path: Path) -> None:
    source = tars(tmp_path / "set", 3, 40)
    padded = real = 0.0
    for _, loaded in stream(updates_of(source, buffer_s=60.0), 30):
        for part in loaded:
            assert part.padded_s <= 3.0 + 1e-6 and part.seconds > 0
            padded, real = padded + part.padded_s, real + part.seconds
    assert real > 0.93 * padded


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_change_nothing_and_a_resume_is_exact(tmp_path: Path, workers: int) -> None:
    """From every place, over the ends of pools and epochs; a place is JSON."""
    source = tars(tmp_path / "set", 3, 8)
    whole = stream(updates_of(source), 16)
    assert {place["sources"][0][0] for place, _ in whole} >= {0, 1}
    assert clips(stream(updates_of(source, workers=workers), 16)) == clips(whole)
    for done in range(1, 16, 3 if workers else 1):
        place = json.loads(json.dumps(whole[done - 1][0]))
        again = stream(updates_of(source, workers=workers), 16 - done, place)
        assert clips(again) == clips(whole[done:]) and [p for p, _ in again] == [p for p, _ in whole[done:]]


def test_sources_share_the_seconds_as_their_weights(tmp_path: Path) -> None:
    tars(tmp_path / "a", 2, 30, "a")
    tars(tmp_path / "b", 1, 5, "b")
    mixed = [str(tmp_path / "a"), {"source": str(tmp_path / "b"), "weight": 3}]
    seconds = Counter[str]()
    for _, loaded in stream(updates_of(mixed, buffer_s=40.0), 30):
        for part in loaded:
            assert len(part.batch) == len(part.sources)
            for source in part.sources:
                seconds[Path(source).name[0]] += 1
    assert 2.0 < seconds["b"] / seconds["a"] < 4.0


def test_what_cannot_be_read_is_named_once(tmp_path: Path) -> None:
    source = tars(tmp_path / "set", 2, 10)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "no.wav").write_text("no audio at all")
    write(tmp_path / "bad" / "short.wav", 0.05)
    write(tmp_path / "bad" / "good.wav", 1.0)
    whole = stream(updates_of([str(source), str(tmp_path / "bad")], buffer_s=20.0), 4)
    skipped = [row for _, loaded in whole for part in loaded for row in part.skipped]
    assert {Path(row["source"]).name for row in skipped} == {"no.wav", "short.wav"}
    reasons = {Path(row["source"]).name: row["reason"] for row in skipped}
    assert "not audio that libsndfile can read" in reasons["no.wav"] and "under data.min_s" in reasons["short.wav"]


@pytest.mark.parametrize("workers", [0, 1])
def test_wrong_sources_are_one_line(tmp_path: Path, workers: int) -> None:
    with pytest.raises(UserError, match=r"data\.train=.*nowhere: no such file or folder"):
        updates_of(tmp_path / "nowhere", workers=workers)
    bad = tars(tmp_path / "bad", 1, 3)
    write(tmp_path / "only" / "short.wav", 0.05)
    with pytest.raises(
        UserError, match=r"data\.train=.*only: nothing to train on in it for rank 0 \(the last: .*0\.05"
    ):
        stream(updates_of(tmp_path / "only", workers=workers), 1)
    with pytest.raises(UserError, match=r"nothing to train on in it for rank 3$"):
        stream(updates_of(bad, workers=workers, ranks=4, rank=3), 1)
    (tmp_path / "only" / "no.wav").write_text("no audio")
    write(tmp_path / "only" / "good.wav", 20.0)
    with pytest.raises(UserError, match=r"data\.train: 1 of the first 4 utterances cannot be used, .*max_skipped=0\.2"):
        stream(updates_of(tmp_path / "only", workers=workers, max_skipped=0.2, buffer_s=30.0, crop_s=20.0), 1)
    for name in "abc":
        write(tmp_path / "mute" / f"{name}.wav", 1.0)
        soundfile.write(tmp_path / "mute" / f"{name} silent.wav", np.zeros(16_000), 16_000)
    assert stream(updates_of(tmp_path / "mute", workers=workers, max_skipped=0.9), 9)
    with pytest.raises(
        UserError, match=r"data\.train: \d+ of the first \d+ utterances cannot be used, .*_skipped=0\.1"
    ):
        stream(updates_of(tmp_path / "mute", workers=workers, max_skipped=0.1), 9)


def test_other_shards_than_before_are_refused(tmp_path: Path) -> None:
    source = tars(tmp_path / "set", 3, 8)
    place, _ = stream(updates_of(source), 3)[-1]
    (source / "000.tar").unlink()
    with pytest.raises(UserError, match=r"data\.train.*2 shards.*3"):
        stream(updates_of(source), 1, place)


KEYS = ["data.stream=true", "data.buffer_s=30", "data.min_s=0.3", "data.max_s=2", "batch.update_s=8", "batch.max_s=8"]


def test_two_ranks_stream_resume_and_cannot_go_on_as_one(tmp_path: Path) -> None:
    source = tars(tmp_path / "set", 3, 12)
    keys = [f"data.train={source}", *KEYS, "run.updates=6", "run.save_every=2"]
    whole = command("pretrain", *PRETRAIN, *keys, f"run.dir={tmp_path}/whole", ranks=2)
    assert whole.returncode == 0, whole.stderr
    command("pretrain", *PRETRAIN, *keys, f"run.dir={tmp_path}/parts", "run.max_hours=1e-6", ranks=2)
    with pytest.raises(UserError, match=r"data\.train: .*2 ranks.*1 rank"):
        pretrain(source, tmp_path / "parts", *keys)
    done = command("pretrain", *PRETRAIN, *keys, f"run.dir={tmp_path}/parts", ranks=2)
    assert done.returncode == 0, done.stderr
    assert identical(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


def test_augmentation_in_a_stream(tmp_path: Path) -> None:
    """Bounded, resumed and decoded in threads as without; off it changes nothing."""
    source = tars(tmp_path / "set", 3, 40)
    for name, seed in (("noise", 1), ("rir", 2)):
        write(tmp_path / name / f"{seed}.wav", 0.4)
    config = WaveformAugmentConfig((0.5, 1.0, 1.9), str(tmp_path / "rir"), 0.5, 0.5, noise=str(tmp_path / "noise"))

    def own(config: WaveformAugmentConfig, workers: int = 0) -> StreamedUpdates[Rows]:
        return updates_of(source, workers=workers, augment=Augmentation(config, 3))

    whole, plain = stream(own(config), 24), stream(updates_of(source), 24)
    assert clips(whole) != clips(plain) == clips(stream(own(WaveformAugmentConfig()), 24))
    assert clips(whole) == clips(stream(own(config, workers=2), 24))
    for done in (1, 9, 16):
        assert clips(whole[done:]) == clips(stream(own(config), 24 - done, whole[done - 1][0]))
    assert all(part.padded_s <= 3.0 + 0.001 and not part.skipped for _, loaded in whole for part in loaded)
    assert sum(part.seconds for _, loaded in whole for part in loaded) / 24 == pytest.approx(4.0, abs=0.5)
