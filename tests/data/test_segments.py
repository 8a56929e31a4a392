"""Long recordings in segments, of which each sample is read once, and short utterances joined to longer ones."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mixvec import UserError
from mixvec.data.config import DataConfig
from mixvec.data.segments import GRID_S, cut_long, even_segments, join_neighbours
from mixvec.data.sources import Corpus, find_utterances
from mixvec.data.utterances import Utterance, Utterances
from mixvec.training.config import load_config
from pretrain.config import PretrainConfig
from tests.readers import RATE, dataset, write
from tests.runs import PRETRAIN, command, finetune, identical, pretrain, rows, weights
from tools.inspect import inspect


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A recording of 15 s and one that is short enough."""
    write(tmp_path / "audio" / "long.flac", 15.0)
    write(tmp_path / "audio" / "short.wav", 3.0)
    return tmp_path / "audio"


def cut(source: Path, max_s: float = 10.0) -> tuple[Corpus, str | None]:
    data = DataConfig(str(source), max_s=max_s)
    corpus = find_utterances(data.train, "data.train")
    return corpus, cut_long(corpus, data)


@settings(max_examples=150, deadline=None)
@given(
    durations_s=st.lists(st.floats(0.01, 50_000.0) | st.integers(1, 400).map(lambda n: n / 4.0), max_size=8),
    max_s=st.floats(0.3, 40.0) | st.sampled_from([1.0, 10.0, 15.6, 30.0]),
    share=st.floats(0.0, 1.0),
)
def test_even_segments_cover_each_recording(durations_s: list[float], max_s: float, share: float) -> None:
    """In order, without a gap, none over max_s, none under min_s, and no more of them than that takes."""
    min_s = share * max_s
    owners, starts_s, lengths_s = even_segments(np.array(durations_s), min_s, max_s)
    assert (np.diff(owners) >= 0).all() and (lengths_s > 0).all() and (lengths_s <= max_s + 1e-9).all()
    for number, duration_s in enumerate(durations_s):
        starts, lengths = starts_s[owners == number], lengths_s[owners == number]
        assert starts[0] == 0.0
        np.testing.assert_allclose(starts[1:], (starts + lengths)[:-1], rtol=0, atol=1e-7)
        np.testing.assert_allclose(starts / GRID_S, np.round(starts / GRID_S), atol=1e-5)
        assert len(starts) <= np.ceil(duration_s / (max_s - min(GRID_S, max_s / 2)))
        if duration_s <= max_s:
            assert lengths.tolist() == [duration_s]
        else:
            assert lengths.min() >= min(min_s, max_s - GRID_S) - 1e-9
        covered_s = starts[-1] + lengths[-1]
        if min_s <= max_s / 2 - GRID_S:
            assert abs(covered_s - duration_s) < 1e-7
            assert len(lengths) == 1 or np.ptp(lengths) < 2 * GRID_S + 1e-7
        assert -1e-7 < duration_s - covered_s < min_s + GRID_S * len(lengths) + 1e-7


def test_each_sample_is_read_once_at_any_rate(tmp_path: Path) -> None:
    for rate_hz in (8_000, 11_025, 16_000, 22_050, 44_100, 48_000):
        write(tmp_path / f"{rate_hz}.wav", 7.3, rate_hz)
    corpus, done = cut(tmp_path, max_s=1.7)
    assert done == "6 long recordings are cut into 30 segments"
    for rate_hz in (8_000, 11_025, 16_000, 22_050, 44_100, 48_000):
        parts = [u for u in corpus.utterances if u.source.endswith(f"/{rate_hz}.wav")]
        bounds = [(round(u.start_s * rate_hz), round(u.duration_s * rate_hz)) for u in parts]
        assert [start for start, _ in bounds[1:]] == [start + samples for start, samples in bounds[:-1]]
        assert sum(samples for _, samples in bounds) == round(7.3 * rate_hz)
    read = torch.cat([u.read() for u in corpus.utterances if u.source.endswith("/16000.wav")])
    np.testing.assert_array_equal(read, soundfile.read(tmp_path / "16000.wav", dtype="float32")[0])


def test_tars_parquet_and_datasets_give_the_same(folder: Path, tmp_path: Path) -> None:
    whole = soundfile.read(folder / "long.flac", dtype="float32")[0]
    (tmp_path / "tars").mkdir()
    with tarfile.open(tmp_path / "tars" / "0.tar", "w") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, path.name)
    table = dataset(sorted(folder.iterdir()))
    table.to_parquet(str(tmp_path / "parquet" / "0.parquet"))
    table.save_to_disk(str(tmp_path / "disk"))
    for source in ("audio", "tars", "parquet", "disk"):
        corpus, done = cut(tmp_path / source)
        assert done == "1 long recordings are cut into 2 segments"
        bounds = [(round(u.start_s, 6), round(u.duration_s, 6)) for u in corpus.utterances]
        assert bounds == [(0.0, 7.52), (7.52, 7.48), (0.0, 3.0)]
        np.testing.assert_array_equal(torch.cat([u.read() for u in corpus.utterances][:2]), whole)


def test_a_stretch_of_a_manifest_is_cut_within_its_own_bounds(folder: Path) -> None:
    (folder / "m.jsonl").write_text('{"audio": "long.flac", "offset": 3.0, "duration": 11.0}\n')
    corpus, _ = cut(folder / "m.jsonl")
    bounds = [(u.start_s, u.start_s + u.duration_s) for u in corpus.utterances]
    np.testing.assert_allclose(bounds, [(3.0, 8.52), (8.52, 14.0)])


@pytest.mark.slow
def test_a_run_reads_the_segments_of_long_recordings(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On two ranks as on one, and inspect plans what training does."""
    keys = [f"data.train={folder}", "data.max_s=4", "batch.update_s=6", "batch.max_s=16"]
    expected = "1 long recordings are cut into 4 segments"
    done = command("pretrain", *PRETRAIN, f"run.dir={tmp_path / 'two'}", *keys, "run.updates=5", ranks=2)
    assert done.returncode == 0, done.stderr
    assert pretrain(folder, tmp_path / "one", *keys, "run.updates=5") == 0
    for out in (done.stdout, capsys.readouterr().out):
        assert f"{expected} (data.max_s=4)\n0.01 h in 5 utterances; 3 updates an epoch" in out
    assert len(rows(tmp_path / "one")) == len(rows(tmp_path / "two")) == 5
    facts = inspect(load_config(PretrainConfig, [*PRETRAIN, *keys], ""), labels=False)
    assert facts["plan"]["cut"] == expected and facts["plan"]["updates_an_epoch"] == 3


def corpus_of(*utterances: Utterance) -> Corpus:
    return Corpus("corpus", Utterances(utterances))


def joined(join_s: float, *utterances: Utterance) -> list[tuple[str, float]]:
    """The names of the sources of each joined utterance, and its seconds."""
    corpus = corpus_of(*utterances)
    join_neighbours(corpus, join_s)
    return [("+".join(part.source for part in (u, *u.followed_by)), round(u.duration_s, 3)) for u in corpus.utterances]


def spoken(source: str, seconds: float, **values: object) -> Utterance:
    return Utterance(source, seconds, **values)  # type: ignore[arg-type]


def test_files_of_a_folder_are_joined_up_to_the_length() -> None:
    files = [spoken(f"d/{folder}/{n}.flac", 4.0) for folder in "ab" for n in range(3)]
    assert joined(8.0, *files) == [
        ("d/a/0.flac+d/a/1.flac", 8.0), ("d/a/2.flac", 4.0), ("d/b/0.flac+d/b/1.flac", 8.0), ("d/b/2.flac", 4.0),
    ]  # fmt: skip
    assert joined(7.9, *files) == [(file.source, 4.0) for file in files]
    assert joined(0.0, *files) == [(file.source, 4.0) for file in files]


def test_only_neighbours_are_joined() -> None:
    """A speaker that rows name decides; so does the order within a recording, and whether there is a text."""
    anna, ben = {"speaker": "anna"}, {"speaker": "ben"}
    pairs = [
        ((spoken("d/1", 1, fields=anna), spoken("d/2", 1, fields=ben)), 2),
        ((spoken("d/1", 1, fields=anna), spoken("e/2", 1, fields=anna)), 1),
        ((spoken("d/1", 1, fields=anna), spoken("d/2", 1)), 2),
        ((spoken("d/1", 1, start_s=0), spoken("d/1", 1, start_s=3)), 1),
        ((spoken("d/1", 1, start_s=3), spoken("d/1", 1, start_s=0)), 2),
        ((spoken("d/1", 1, corpus_number=0), spoken("d/2", 1, corpus_number=1)), 2),
        ((spoken("d/1", 1, text="a"), spoken("d/2", 1)), 2),
    ]
    for pair, count in pairs:
        assert len(joined(10.0, *pair)) == count, pair


@pytest.fixture(scope="module")
def speakers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six files of a speaker each three, with texts. Read-only."""
    at = tmp_path_factory.mktemp("joining")
    rows = []
    for n in range(6):
        noise = 0.1 * np.random.default_rng(n).standard_normal(RATE + 100 * n)
        soundfile.write(at / f"{n}.wav", noise, RATE, subtype="FLOAT")
        rows.append({"file_name": f"{n}.wav", "text": f"word{n}", "speaker": f"s{n // 3}"})
    (at / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return at


def test_a_joined_utterance_reads_its_parts_end_to_end(speakers: Path) -> None:
    corpus = find_utterances(str(speakers), "data.train", labels=True)
    single = [utterance.read() for utterance in corpus.utterances]
    before = corpus.utterances.checksums()
    message = join_neighbours(corpus, 2.5)
    assert message is not None and "6 utterances are joined to 4" in message and "2.5" in message
    assert [u.text for u in corpus.utterances] == ["word0 word1", "word2", "word3 word4", "word5"]
    assert corpus.utterances.durations_s.sum() == pytest.approx(sum(map(len, single)) / RATE)
    assert corpus.utterances.checksums()["times"] != before["times"]
    third = corpus.utterances.where(np.array([False, False, True, False]))[0]
    whole = torch.cat(single[3:5])
    assert torch.equal(third.read(), whole)
    for start_s, duration_s in ((0.0, 0.5), (0.9, 0.4), (1.5, None), (1.01875, 0.5), (0.0, 1.01875)):
        begin = round(start_s * RATE)
        end = len(whole) if duration_s is None else begin + round(duration_s * RATE)
        assert torch.equal(third.read(start_s, duration_s), whole[begin:end]), start_s


def test_a_part_that_cannot_be_read_is_named(speakers: Path, tmp_path: Path) -> None:
    utterance = Utterance(str(speakers / "0.wav"), 2.0, followed_by=(Utterance(str(tmp_path / "gone.wav"), 1.0),))
    with pytest.raises(UserError, match=r"gone\.wav: no such file"):
        utterance.read()


def test_pretraining_on_joined_utterances_resumes_to_the_same_bits(
    speakers: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the second of two updates an epoch."""
    keys = [f"data.train={speakers}", "data.join_s=2.5", "run.save_every=1", "batch.update_s=3"]
    assert pretrain(corpus, tmp_path / "whole", *keys, "run.updates=4") == 0
    printed = capsys.readouterr().out
    assert "6 utterances are joined to 3" in printed and "2 updates an epoch" in printed, printed
    assert pretrain(corpus, tmp_path / "cut", *keys, "run.updates=4", "run.max_hours=1e-9") != 0
    assert pretrain(corpus, tmp_path / "cut", *keys, "run.updates=4") == 0
    assert identical(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    with pytest.raises(UserError, match=r"data\.join_s \(2\.5 → 4\.0\)"):
        pretrain(corpus, tmp_path / "cut", *keys, "data.join_s=4", "run.updates=4")


def test_fine_tuning_joins_texts_of_recognition_alone(corpus: Path, tmp_path: Path) -> None:
    keys = ["size=tiny", "encoder.dim=32", "encoder.num_layers=1", "run.updates=1", "run.eval_every=1"]
    assert finetune("asr", corpus, tmp_path / "asr", *keys, "data.join_s=20", "batch.max_s=40") == 0
    for task, name in (("intent", "join_s=5"), ("asr", "join_s=31"), ("asr", "join_s=-1")):
        with pytest.raises(UserError, match=rf"data\.{name}"):
            finetune(task, corpus, tmp_path / "no", *keys, f"data.{name}")
    with pytest.raises(UserError, match=r"data\.join_s .*data\.stream"):
        pretrain(corpus, tmp_path / "no", "data.join_s=5", "data.stream=true")
