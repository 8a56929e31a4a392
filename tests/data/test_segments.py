"""Long recordings in segments: all of each is read, at any rate, from any form, on any number of ranks."""

from __future__ import annotations

import tarfile
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mixvec.data.config import DataConfig
from mixvec.data.segments import GRID_S, Cut, cut_long, even_segments
from mixvec.data.sources import Corpus, find_utterances
from mixvec.training.config import load_config
from pretrain.config import PretrainConfig
from tests.readers import write
from tests.runs import PRETRAIN, command, pretrain, rows
from tools.inspect import inspect


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A recording of 15 s and one that is short enough."""
    write(tmp_path / "audio" / "long.flac", 15.0)
    write(tmp_path / "audio" / "short.wav", 3.0)
    return tmp_path / "audio"


def cut(source: Path, max_s: float = 10.0) -> tuple[Corpus, Cut]:
    data = DataConfig(str(source), max_s=max_s)
    corpus = find_utterances(data.train, "data.train")
    return corpus, cut_long(corpus, data)


@settings(max_examples=300, deadline=None)
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
    assert done == Cut(6, 30, 0.0) and str(done) == "6 long recordings are cut into 30 segments"
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
    stored = [{"bytes": path.read_bytes(), "path": path.name} for path in sorted(folder.iterdir())]
    table = datasets.Dataset.from_dict({"audio": stored}).cast_column("audio", datasets.Audio())
    table.to_parquet(str(tmp_path / "parquet" / "0.parquet"))
    table.save_to_disk(str(tmp_path / "disk"))
    for source in ("audio", "tars", "parquet", "disk"):
        corpus, done = cut(tmp_path / source)
        assert done == Cut(1, 2, 0.0)
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
