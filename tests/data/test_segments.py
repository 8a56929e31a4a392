"""Long recordings in segments: all of each is read, or all its speech; searched once, and the same anywhere."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mixvec.data import segments
from mixvec.data.config import DataConfig, GateConfig
from mixvec.data.segments import GRID_S, Cut, cut_long, even_segments
from mixvec.data.sources import Corpus, find_utterances
from mixvec.training.config import load_config
from pretrain.config import PretrainConfig
from tests.readers import RATE, spoken, write
from tests.runs import PRETRAIN, command, pretrain, rows
from tools.inspect import inspect

GATE = GateConfig(below_db=35.0)
SPANS = {"a": [(2.0, 5.0), (8.0, 12.0)], "b": [(0.5, 9.5)], "c": [(6.0, 6.9)]}
MEANT = {"a": [(1.9, 5.1), (7.9, 12.1)], "b": [(0.4, 9.6)], "c": [(5.9, 7.0)]}

Bounds = list[tuple[str, float, float]]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has its own."""
    monkeypatch.setenv("MIXVEC_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def opens(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the recordings that have been searched for speech."""
    names: list[str] = []

    def counting(file: Any, start_s: float, duration_s: float) -> Any:
        names.append(Path(file).stem if isinstance(file, str) else "stored")
        return levels(file, start_s, duration_s)

    levels = segments.frame_levels
    monkeypatch.setattr(segments, "frame_levels", counting)
    return names


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three recordings of 15 s and one that is short enough."""
    for name, spans in SPANS.items():
        spoken(tmp_path / "audio" / f"{name}.flac", 15.0, spans)
    write(tmp_path / "audio" / "short.wav", 3.0)
    return tmp_path / "audio"


def cut(source: Any, gate: GateConfig = GATE, max_s: float = 10.0) -> tuple[Corpus, Cut]:
    data = DataConfig(source if isinstance(source, list) else str(source), max_s=max_s, gate=gate)
    corpus = find_utterances(data.train, "data.train")
    return corpus, cut_long(corpus, data)


def bounds_of(corpus: Corpus) -> Bounds:
    return [(Path(u.source).name.partition(".")[0], u.start_s, u.start_s + u.duration_s) for u in corpus.utterances]


def assert_speech(corpus: Corpus, shorts: int = 1) -> None:
    """What ``MEANT`` has, and the short utterances whole."""
    found = bounds_of(corpus)
    assert found.count(("short", 0.0, 3.0)) == shorts
    long = [own for own in found if own[0] != "short"]
    meant = [(name, *bounds) for name, spans in MEANT.items() for bounds in spans]
    assert [name for name, *_ in long] == [name for name, *_ in meant]
    np.testing.assert_allclose([own[1:] for own in long], [own[1:] for own in meant], atol=0.045)


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
    corpus, done = cut(tmp_path, GateConfig(), max_s=1.7)
    assert done == Cut(6, 30, 0.0) and str(done) == "6 long recordings are cut into 30 segments"
    for rate_hz in (8_000, 11_025, 16_000, 22_050, 44_100, 48_000):
        parts = [u for u in corpus.utterances if u.source.endswith(f"/{rate_hz}.wav")]
        bounds = [(round(u.start_s * rate_hz), round(u.duration_s * rate_hz)) for u in parts]
        assert [start for start, _ in bounds[1:]] == [start + samples for start, samples in bounds[:-1]]
        assert sum(samples for _, samples in bounds) == round(7.3 * rate_hz)
    heard = torch.cat([u.read() for u in corpus.utterances if u.source.endswith("/16000.wav")])
    np.testing.assert_array_equal(heard, soundfile.read(tmp_path / "16000.wav", dtype="float32")[0])


def test_speech_is_kept_silence_is_not_and_shorts_are_whole(folder: Path) -> None:
    corpus, done = cut(folder)
    assert_speech(corpus)
    assert (done.recordings, done.segments) == (3, 4)
    kept_s = sum(end - begin for spans in MEANT.values() for begin, end in spans)
    assert done.left_out_s == pytest.approx(45.0 - kept_s, abs=0.2)
    for utterance in list(corpus.utterances)[:3]:
        samples = utterance.read().numpy()
        assert len(samples) == round(utterance.duration_s * RATE)
        assert np.abs(samples[3_200:-3_200]).max() > 0.3 and np.abs(samples[:800]).max() < 0.01


def test_tars_parquet_and_datasets_give_the_same(folder: Path, tmp_path: Path) -> None:
    meant = bounds_of(cut(folder)[0])
    (tmp_path / "tars").mkdir()
    with tarfile.open(tmp_path / "tars" / "0.tar", "w") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, path.name)
    stored = [{"bytes": path.read_bytes(), "path": path.name} for path in sorted(folder.iterdir())]
    table = datasets.Dataset.from_dict({"audio": stored}).cast_column("audio", datasets.Audio())
    table.to_parquet(str(tmp_path / "parquet" / "0.parquet"))
    table.save_to_disk(str(tmp_path / "disk"))
    for source in ("tars", "parquet", "disk"):
        corpus, _ = cut(tmp_path / source)
        assert [bounds[1:] for bounds in bounds_of(corpus)] == [bounds[1:] for bounds in meant]
        np.testing.assert_array_equal(corpus.utterances[1].read(), cut(folder)[0].utterances[1].read())


def test_a_stretch_of_a_manifest_is_cut_within_its_own_bounds(folder: Path) -> None:
    (folder / "m.jsonl").write_text('{"audio": "a.flac", "offset": 3.0, "duration": 11.0}\n')
    corpus, _ = cut(folder / "m.jsonl")
    np.testing.assert_allclose([own[1:] for own in bounds_of(corpus)], [(3.0, 5.1), (7.9, 12.1)], atol=0.045)


def test_a_second_start_listens_to_what_is_new_or_changed(folder: Path, opens: list[str]) -> None:
    first = bounds_of(cut(folder)[0])
    assert sorted(opens) == ["a", "b", "c"]
    opens.clear()
    assert bounds_of(cut(f"{folder}/")[0]) == first and opens == []
    state = (folder / "b.flac").stat()
    os.utime(folder / "b.flac", ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    spoken(folder / "d.flac", 15.0, [(3.0, 4.5)])
    (folder / "c.flac").unlink()
    cut(folder)
    assert sorted(opens) == ["b", "d"]
    opens.clear()
    cut(folder)
    assert opens == []
    cut(folder, GateConfig(30.0))
    assert sorted(opens) == ["a", "b", "d"]


def test_an_interruption_keeps_what_was_found(folder: Path, opens: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "_cores", lambda: 1)
    find = segments.find_speech

    def interrupted(*arguments: Any) -> Any:
        if opens[-1] == "b":
            raise KeyboardInterrupt
        return find(*arguments)

    monkeypatch.setattr(segments, "find_speech", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cut(folder)
    monkeypatch.setattr(segments, "find_speech", find)
    opens.clear()
    assert_speech(cut(folder)[0])
    assert "a" not in opens and "b" in opens


def test_what_is_silent_or_unreadable_is_counted_with_its_reason(folder: Path) -> None:
    spoken(folder / "b.flac", 15.0, [], gain=0.0)
    shrunk = spoken(folder / "d.wav", 15.0, [(1.0, 14.0)])
    corpus, data = find_utterances(str(folder), "data.train"), DataConfig(str(folder), max_s=10.0, gate=GATE)
    shrunk.write_bytes(shrunk.read_bytes()[:20_000])
    (folder / "c.flac").write_bytes((folder / "c.flac").read_bytes()[:20_000])
    assert cut_long(corpus, data).recordings == 4
    assert {name for name, *_ in bounds_of(corpus)} == {"a", "short"}
    reasons = {Path(row["source"]).name: row["reason"].removeprefix(row["source"]) for row in corpus.skipped}
    assert reasons == {
        "b.flac": ": all silence by data.gate",
        "c.flac": ": not audio that libsndfile can read (flac decoder lost sync)",
        "d.wav": ": only 0.40 s of its 15.00 s could be decoded",
    }


@pytest.mark.slow
def test_a_run_hears_the_speech_of_long_recordings(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On two ranks as on one, and inspect plans what training does."""
    keys = [f"data.train={folder}", "data.max_s=4", "data.gate.below_db=35", "batch.update_s=6", "batch.max_s=16"]
    said = "3 long recordings are cut into 7 segments; 0.01 h are left out"
    done = command("pretrain", *PRETRAIN, f"run.dir={tmp_path / 'two'}", *keys, "run.updates=5", ranks=2)
    assert done.returncode == 0, done.stderr
    assert pretrain(folder, tmp_path / "one", *keys, "run.updates=5") == 0
    for out in (done.stdout, capsys.readouterr().out):
        assert f"{said} (data.max_s=4)\n0.01 h in 8 utterances; 3 updates an epoch" in out
    assert len(rows(tmp_path / "one")) == len(rows(tmp_path / "two")) == 5
    facts = inspect(load_config(PretrainConfig, [*PRETRAIN, *keys], ""), labels=False)
    assert facts["plan"]["cut"] == said and facts["plan"]["updates_an_epoch"] == 3
