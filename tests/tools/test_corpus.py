"""The synthesised corpus: sound, reproducible, honest about what is unheard, and written whole or not at all."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from mixvec.errors import UserError
from tools import corpus, sentences
from tools.corpus import CorpusConfig, CorpusSummary, labelled_lines, write_corpus
from tools.espeak import SAMPLE_RATE_HZ

TINY = CorpusConfig(
    hours=0.01, asr_train=6, asr_validation=4, asr_test=6, intent_train=1, intent_validation=1, intent_test=1
)
ALL_VOICES = {*corpus.UNLABELLED_VOICES, *corpus.VALIDATION_VOICES, *corpus.TEST_VOICES}
SPLITS = [f"{task}/{split}" for task in ("asr", "intent") for split in ("train", "validation", "test")]


def rows(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CorpusSummary]:
    out = tmp_path_factory.mktemp("corpus") / "new" / "speech"
    return out, write_corpus(out, TINY)


# --- the texts


@given(seed=st.integers(0, 10_000))
@settings(max_examples=5, deadline=None)
def test_texts_are_plain_and_no_text_is_in_two_sets(seed: int) -> None:
    lines = labelled_lines(CorpusConfig(seed=seed))
    for task in ("asr", "intent"):
        texts = [line.text for name in SPLITS if name.startswith(task) for line in lines[name]]
        assert len(set(texts)) == len(texts)
        assert all(set(text) <= set("abcdefghijklmnopqrstuvwxyz ") and text == " ".join(text.split()) for text in texts)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=5, deadline=None)
def test_twenty_lines_hold_every_word_of_the_test(seed: int) -> None:
    lines = labelled_lines(CorpusConfig(seed=seed))
    heard = {word for line in lines["asr/train"] for word in line.text.split()}
    assert len(lines["asr/train"]) == 20
    assert heard == sentences.command_vocabulary()
    assert {word for line in lines["asr/test"] for word in line.text.split()} <= heard
    assert 30 <= len(heard) <= 40


def test_intents_are_balanced_over_sets_and_voices() -> None:
    config = CorpusConfig()
    for split, each in (("train", config.intent_train), ("test", config.intent_test)):
        lines = labelled_lines(config)[f"intent/{split}"]
        assert Counter(line.intent for line in lines) == dict.fromkeys(sentences.INTENTS, each)
        by_voice = Counter(line.voice for line in lines).values()
        assert max(by_voice) - min(by_voice) <= len(sentences.INTENTS)
    assert len(sentences.INTENTS) == 8


def test_test_and_validation_voices_are_heard_nowhere_else() -> None:
    groups = [set(corpus.UNLABELLED_VOICES), set(corpus.VALIDATION_VOICES), set(corpus.TEST_VOICES)]
    assert sum(map(len, groups)) == len(set.union(*groups))
    assert len(groups[0]) == len(corpus.UNLABELLED_VOICES) == 30
    assert set(corpus.TRAIN_VOICES) <= groups[0]
    variants = [voice.split("+")[1] for voice in ALL_VOICES]
    assert len(set(variants)) == len(variants)  # nor is one of them there with another accent


def test_held_out_texts_are_not_in_the_unlabelled_talk() -> None:
    held_out = {text for text in (sentences.command(np.random.default_rng(i), double=0) for i in range(3000))}
    talk = [corpus._talk(np.random.default_rng(i), held_out, 0.0) for i in range(300)]
    assert not held_out & {sentence for text in talk for sentence in text.split(", ")}


def test_unlabelled_utterances_too_short_or_long_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proper = "the old teacher found a small dog near the river"
    talk = iter(["stop", proper, ", ".join([proper] * 5), proper])
    monkeypatch.setattr(corpus, "_talk", lambda *_: next(talk))
    durations_s = corpus._unlabelled(tmp_path, "en-us+f1", 1, set(), replace(TINY, hours=6 / 3600))
    assert len(durations_s) == 2
    assert all(corpus.SHORTEST_S <= duration_s <= corpus.LONGEST_S for duration_s in durations_s)


# --- what is written


def test_layout_and_sums(written: tuple[Path, CorpusSummary]) -> None:
    out, summary = written
    assert sorted(path.name for path in out.iterdir()) == ["asr", "corpus.json", "intent", "unlabelled"]
    assert [path.name for path in out.parent.iterdir()] == ["speech"]  # the temporary folder is gone
    unlabelled = sorted((out / "unlabelled").rglob("*"))
    files = [path for path in unlabelled if path.suffix == ".flac"]
    assert {path.parent.name for path in files} == set(corpus.UNLABELLED_VOICES[:4])
    assert len(unlabelled) == len(files) + 4
    seconds = [soundfile.info(path).frames / SAMPLE_RATE_HZ for path in files]
    assert all(corpus.SHORTEST_S <= duration_s <= corpus.LONGEST_S for duration_s in seconds)
    assert 18 < sum(seconds) < 60
    assert summary.unlabelled_hours == pytest.approx(sum(seconds) / 3600, abs=1e-4)
    assert (summary.unlabelled_voices, summary.unlabelled_utterances) == (4, len(files))
    assert summary.utterances == len(list(out.rglob("*.flac"))) == len(files) + 6 + 4 + 6 + 3 * 8


@pytest.mark.parametrize("name", SPLITS)
def test_labelled_sets_are_audiofolders(written: tuple[Path, CorpusSummary], name: str) -> None:
    folder = written[0] / name
    lines = labelled_lines(TINY)[name]
    keys = {"file_name", "text", "speaker", "duration"} | ({"intent"} if name.startswith("intent") else set())
    assert sorted(path.name for path in folder.iterdir()) == ["audio", "metadata.jsonl"]
    assert [(row["text"], row["speaker"], row.get("intent")) for row in rows(folder)] == [
        (line.text, line.voice, line.intent) for line in lines
    ]
    for row in rows(folder):
        assert set(row) == keys
        waveform, rate_hz = soundfile.read(folder / row["file_name"], dtype="float32")
        assert rate_hz == SAMPLE_RATE_HZ
        assert waveform.ndim == 1
        assert row["duration"] == pytest.approx(len(waveform) / SAMPLE_RATE_HZ, abs=1e-4)
        assert np.isfinite(waveform).all()
        assert np.abs(waveform).max() < 1.0
        assert np.sqrt(np.mean(waveform**2)) > 0.01


def test_the_same_arguments_give_the_same_bytes(written: tuple[Path, CorpusSummary], tmp_path: Path) -> None:
    out, summary = written
    assert write_corpus(tmp_path / "again", TINY) == summary
    files = [path.relative_to(out) for path in sorted(out.rglob("*")) if path.is_file()]
    assert all((tmp_path / "again" / path).read_bytes() == (out / path).read_bytes() for path in files)


def test_a_complete_corpus_is_left_alone_and_a_broken_one_replaced(
    written: tuple[Path, CorpusSummary], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, summary = written
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    with monkeypatch.context() as patch:
        patch.setattr(corpus, "_fill", lambda *_: pytest.fail("it wrote a corpus that was there"))
        assert write_corpus(out, TINY) == summary
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    (out / "asr/test/audio/0000.flac").unlink()
    assert write_corpus(out, TINY) == summary
    assert (out / "asr/test/audio/0000.flac").is_file()


def fake_fill(folder: Path, config: CorpusConfig) -> CorpusSummary:
    (folder / "asr").mkdir()
    (folder / "asr" / "seed.txt").write_text(str(config.seed))
    return CorpusSummary(0.0, 0, 0, 0, 0.0)


def test_other_arguments_replace_a_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "_fill", fake_fill)
    (tmp_path / "speech").mkdir()  # an empty folder may be filled
    for seed in (1, 2):
        write_corpus(tmp_path / "speech", replace(TINY, seed=seed))
        assert (tmp_path / "speech/asr/seed.txt").read_text() == str(seed)
    assert [path.name for path in tmp_path.iterdir()] == ["speech"]


@pytest.mark.parametrize("name", ["thesis.txt", "corpus.json"])
def test_a_folder_with_something_else_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('{"mine": true}')
    for out in (tmp_path, tmp_path / name, tmp_path / name / "inside"):
        with pytest.raises(UserError, match=str(out)):
            write_corpus(out, TINY)
    assert (tmp_path / name).read_text() == '{"mine": true}'


def test_a_corpus_with_a_stranger_in_it_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "_fill", fake_fill)
    write_corpus(tmp_path / "speech", TINY)
    (tmp_path / "speech/thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="speech"):
        write_corpus(tmp_path / "speech", replace(TINY, seed=3))
    assert (tmp_path / "speech/thesis.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (soundfile.LibsndfileError(2), UserError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (OSError(28, "full"), OSError),
    ],
)
def test_a_failure_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: BaseException, expected: type[BaseException]
) -> None:
    monkeypatch.setattr(corpus, "_fill", fake_fill)
    write_corpus(tmp_path / "speech", TINY)

    def fail(*_: object) -> None:
        raise raised

    monkeypatch.setattr(corpus.soundfile, "write", fail)
    monkeypatch.setattr(corpus, "_fill", lambda folder, config: corpus._labelled(folder, "asr/test", LINES, 0))
    with pytest.raises(expected):
        write_corpus(tmp_path / "speech", replace(TINY, seed=3))
    assert [path.name for path in tmp_path.iterdir()] == ["speech"]
    assert (tmp_path / "speech/asr/seed.txt").read_text() == "0"  # the old one is as it was


LINES = [corpus.Line("stop", "en-us+f1")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hours": 0.0}, "hours is 0.0"),
        ({"asr_train": 0}, "asr_train is 0"),
        ({"everyday_share": 1.5}, "everyday_share is 1.5"),
    ],
)
def test_senseless_numbers_are_errors(change: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(TINY, **change)  # type: ignore[arg-type]


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[CorpusConfig] = []

    def note(folder: Path, config: CorpusConfig) -> CorpusSummary:
        seen.append(config)
        return fake_fill(folder, config)

    monkeypatch.setattr(corpus, "_fill", note)
    monkeypatch.setattr(
        "sys.argv", ["corpus", str(tmp_path / "out"), "--hours", "0.5", "--asr-train", "7", "--seed", "9"]
    )
    corpus.main()
    assert seen == [CorpusConfig(hours=0.5, asr_train=7, seed=9)]
    assert "h unlabelled in 0 voices" in capsys.readouterr().out
