"""A resumed run notices changed data, and what an utterance's clip states about itself."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mixvec.data.augment import Augmentation
from mixvec.data.batches import Clip, LoaderConfig, Updates
from mixvec.data.config import WaveformAugmentConfig
from mixvec.data.fingerprint import fingerprint_changes
from mixvec.data.sources import find_utterances, parse_sources
from mixvec.data.stream import StreamedUpdates
from tests.readers import audiofolder, find, webdataset, write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    audio = [write(tmp_path / "set" / f"{number}.wav", 0.5 + number / 10) for number in range(5)]
    return audiofolder(audio, tmp_path / "set")


def rename(folder: Path) -> None:
    (folder / "2.wav").rename(folder / "22.wav")


def relabel(folder: Path) -> None:
    path = folder / "metadata.csv"
    path.write_text(path.read_text(encoding="utf-8").replace("yes", "yeah"), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "labels", "changes"),
    [
        (
            lambda folder: write(folder / "6.wav", 1.0),
            False,
            ["5 utterances before, 6 now", "3.5 .* 4.5", "files", "durations"],
        ),
        (rename, False, ["files"]),
        (lambda folder: write(folder / "4.wav", 0.8), False, ["3.5 .* 3.4", "durations"]),
        (relabel, False, []),
        (relabel, True, ["labels"]),
    ],
)
def test_changed_data_is_noticed(
    folder: Path, change: Callable[[Path], None], labels: bool, changes: list[str]
) -> None:
    before = json.loads(json.dumps(find(folder, labels=labels).fingerprint()))
    assert fingerprint_changes(before, find(folder, labels=labels).fingerprint()) == []
    change(folder)
    found = fingerprint_changes(before, find(folder, labels=labels).fingerprint())
    assert len(found) == len(changes)
    for pattern, words in zip(changes, found, strict=True):
        assert re.search(pattern, words)


def test_a_selection_of_a_corpus_has_a_fingerprint_of_its_own(folder: Path) -> None:
    """The same as of a corpus that was found like that, whatever was dropped before."""
    whole, some = find(folder), find(folder)
    some.keep_durations(min_s=0.65)
    assert fingerprint_changes(whole.fingerprint(), some.fingerprint())[0].startswith("5 utterances before, 3 now")
    (folder / "metadata.csv").write_text(
        "file_name,text\n" + "".join(f'{n}.wav,"{some.utterances[n - 2].text}"\n' for n in (2, 3, 4)), encoding="utf-8"
    )
    assert find(folder).fingerprint() == some.fingerprint()


def test_a_stream_has_the_fingerprint_of_its_shards(tmp_path: Path) -> None:
    audio = [write(tmp_path / "audio" / f"{number}.wav") for number in range(5)]
    shards = webdataset(audio, tmp_path / "set")

    def fingerprint() -> dict[str, object]:
        loader = LoaderConfig(2.0, 2.0, crop_s=1.0, min_s=0.1, workers=0, seed=0)
        sources = parse_sources(str(shards), "data.train")
        made = StreamedUpdates(sources, "data.train", len, loader, buffer_s=4.0, max_skipped=1.0)
        return json.loads(json.dumps(made.fingerprint()))  # type: ignore[no-any-return]

    before = fingerprint()
    assert before == fingerprint()
    (shards / "shard-000000.tar").rename(shards / "shard-000001.tar")
    assert len(fingerprint_changes(before, fingerprint())) == 1
    (shards / "shard-000001.tar").rename(shards / "shard-000000.tar")
    (shards / "shard-000001.tar").write_bytes((shards / "shard-000000.tar").read_bytes())
    assert fingerprint_changes(before, fingerprint())[0] == "1 shards before, 2 now"


def test_a_clip_states_where_it_starts_and_what_it_is_drawn_from(tmp_path: Path) -> None:
    path = write(tmp_path / "set" / "a.wav", 3.0)
    corpus = find_utterances(str(tmp_path / "set"), "data.train")
    loader = LoaderConfig(2.0, 2.0, crop_s=0.5, min_s=0.1, workers=0, seed=7)
    updates: Updates[list[Clip]] = Updates(corpus, list, loader)
    clip = updates.read(1, 4)  # the second copy of the only utterance
    samples, rate_hz = soundfile.read(path, dtype="float32")
    first = round(clip.start_s * rate_hz)
    assert clip.seed == (7, 4, 1) and clip.speed == 1.0 and clip.start_s > 0
    np.testing.assert_array_equal(clip.waveform, samples[first : first + 8_000])
    fast = Updates(corpus, list, loader, augment=Augmentation(WaveformAugmentConfig(speed=(1.25,)), 7)).read(0, 4)
    assert fast.speed == 1.25 and len(fast.waveform) == 8_000 and 0 <= fast.start_s <= 3.0 - 0.625
