"""The synthesised corpus and its voices: valid, reproducible, held-out voices and texts, whole or not at all."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mixvec.errors import UserError
from tools import corpus, espeak, sentences
from tools.corpus import CorpusConfig, labelled_lines, write_corpus
from tools.espeak import SAMPLE_RATE_HZ, synthesise

TINY = CorpusConfig(
    hours=0.01, asr_train=6, asr_validation=4, asr_test=6, intent_train=1, intent_validation=1, intent_test=1
)
ALL_VOICES = {*corpus.UNLABELLED_VOICES, *corpus.VALIDATION_VOICES, *corpus.TEST_VOICES}
SPLITS = [f"{task}/{split}" for task in ("asr", "intent") for split in ("train", "validation", "test")]


def rows(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    out = tmp_path_factory.mktemp("corpus") / "new" / "speech"
    return out, write_corpus(out, TINY)


@pytest.mark.parametrize("seed", [0, 17, 9_999])
def test_texts_are_in_one_set_alone_and_training_lines_hold_every_word_of_the_test(seed: int) -> None:
    lines = labelled_lines(CorpusConfig(seed=seed))
    for task in ("asr", "intent"):
        texts = [line.text for name in SPLITS if name.startswith(task) for line in lines[name]]
        assert len(set(texts)) == len(texts)
        assert all(set(text) <= set("abcdefghijklmnopqrstuvwxyz ") and text == " ".join(text.split()) for text in texts)
    intents = Counter(line.intent for line in lines["intent/test"])
    assert intents == dict.fromkeys(sentences.INTENTS, CorpusConfig().intent_test)
    known = {word for line in lines["asr/train"] for word in line.text.split()}
    assert len(lines["asr/train"]) == 20 and 30 <= len(known) <= 40
    assert {word for line in lines["asr/test"] for word in line.text.split()} <= known


def test_test_and_validation_voices_occur_nowhere_else() -> None:
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


def test_layout_and_sums(written: tuple[Path, dict[str, float]]) -> None:
    out, sums = written
    assert sorted(path.name for path in out.iterdir()) == ["asr", "corpus.json", "intent", "unlabelled"]
    assert [path.name for path in out.parent.iterdir()] == ["speech"]  # the temporary folder is gone
    files = sorted((out / "unlabelled").rglob("*.flac"))
    assert {path.parent.name for path in files} == set(corpus.UNLABELLED_VOICES[:4])
    seconds = [soundfile.info(path).frames / SAMPLE_RATE_HZ for path in files]
    assert all(corpus.SHORTEST_S <= duration_s <= corpus.LONGEST_S for duration_s in seconds)
    assert 18 < sum(seconds) < 60 and sums["unlabelled_hours"] == pytest.approx(sum(seconds) / 3600, abs=1e-4)
    assert (sums["unlabelled_voices"], sums["unlabelled_utterances"]) == (4, len(files))
    assert sums["labelled_utterances"] == len(list(out.rglob("*.flac"))) - len(files) == 6 + 4 + 6 + 3 * 8


@pytest.mark.parametrize("name", SPLITS)
def test_labelled_sets_are_audiofolders(written: tuple[Path, dict[str, float]], name: str) -> None:
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
        assert (rate_hz, waveform.ndim) == (SAMPLE_RATE_HZ, 1)
        assert row["duration"] == pytest.approx(len(waveform) / SAMPLE_RATE_HZ, abs=1e-4)
        assert np.isfinite(waveform).all() and np.abs(waveform).max() < 1.0 and np.sqrt(np.mean(waveform**2)) > 0.01


def test_the_same_arguments_give_the_same_bytes(written: tuple[Path, dict[str, float]], tmp_path: Path) -> None:
    out, sums = written
    assert write_corpus(tmp_path / "again", TINY) == sums
    files = [path.relative_to(out) for path in sorted(out.rglob("*")) if path.is_file()]
    assert all((tmp_path / "again" / path).read_bytes() == (out / path).read_bytes() for path in files)


def test_a_corpus_is_left_alone_and_nothing_is_replaced(
    written: tuple[Path, dict[str, float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, sums = written
    monkeypatch.setattr(corpus, "_fill", lambda *_: pytest.fail("it writes a corpus that is there"))
    assert write_corpus(out, TINY) == sums
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/thesis.txt").write_text("mine")
    (tmp_path / "corpus.json").write_text('{"mine": true}')
    for folder in (out, tmp_path / "thesis", tmp_path, tmp_path / "thesis/thesis.txt"):
        with pytest.raises(UserError, match=str(folder)):
            write_corpus(folder, replace(TINY, seed=3))
    assert (tmp_path / "thesis/thesis.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("raised", "expected"),
    [(soundfile.LibsndfileError(2), UserError), (KeyboardInterrupt(), KeyboardInterrupt), (OSError(28, ""), OSError)],
)
def test_a_failure_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: BaseException, expected: type[BaseException]
) -> None:
    def fail(*_: object) -> None:
        raise raised

    monkeypatch.setattr(corpus.soundfile, "write", fail)
    monkeypatch.setattr(corpus, "_fill", lambda folder, config: corpus._labelled(folder, "asr/test", LINES, 0))
    with pytest.raises(expected):
        write_corpus(tmp_path / "speech", TINY)
    assert list(tmp_path.iterdir()) == []


LINES = [corpus.Line("stop", "en-us+f1")]


@pytest.mark.parametrize("change", [{"hours": 0.0}, {"asr_train": 0}, {"everyday_share": 1.5}])
def test_senseless_numbers_are_errors(change: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(change))):
        replace(TINY, **change)  # type: ignore[arg-type]


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    given: list[CorpusConfig] = []
    monkeypatch.setattr(corpus, "_fill", lambda folder, config: given.append(config) or {"hours": 0.5})
    words = ["corpus", str(tmp_path / "out"), "--hours", "0.5", "--asr-train", "7", "--seed", "9"]
    monkeypatch.setattr("sys.argv", words)
    corpus.main()
    assert given == [CorpusConfig(hours=0.5, asr_train=7, seed=9)]
    assert capsys.readouterr().out == f"{tmp_path}/out: hours 0.5\n"


def test_every_voice_of_the_corpus_speaks_and_no_two_sound_the_same() -> None:
    spoken = {voice: synthesise("good morning", voice) for voice in ALL_VOICES}
    for voice, waveform in spoken.items():
        assert waveform.dtype == np.float32 and waveform.ndim == 1 and 0.3 < len(waveform) / SAMPLE_RATE_HZ < 3.0, voice
        assert np.isfinite(waveform).all() and np.abs(waveform).max() < 1.0 and np.sqrt(np.mean(waveform**2)) > 0.01
    assert len({waveform.tobytes() for waveform in spoken.values()}) == len(ALL_VOICES) >= 35


def test_speech_depends_on_the_arguments_alone() -> None:
    first = synthesise("open the door", "en-us+f3")  # a breathy voice: its noise has a state in the library
    synthesise("something else entirely", "en+m2", rate_wpm=150, pitch=70, pitch_range=20)
    assert np.array_equal(synthesise("open the door", "en-us+f3"), first)
    assert not np.array_equal(synthesise("open the door", "en-us+f3", pitch=60), first)
    assert not np.array_equal(synthesise("open the window", "en-us+f3"), first)
    assert len(synthesise("open the door", "en-us+f3", rate_wpm=100)) > 1.3 * len(first)


def test_data_in_a_long_path_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    expected = synthesise("open the door", "en-us+f3")
    deep = tmp_path / ("x" * 150)
    deep.mkdir()
    (deep / "espeak-ng-data").symlink_to(espeak.espeakng_loader.get_data_path())
    monkeypatch.setattr(espeak.espeakng_loader, "get_data_path", lambda: str(deep / "espeak-ng-data"))
    monkeypatch.setattr(espeak, "_data_folder", espeak._data_folder.__wrapped__)
    assert np.array_equal(synthesise("open the door", "en-us+f3"), expected)


def test_what_cannot_be_spoken_is_an_error() -> None:
    for voice in ("en-us+nobody", "xx"):
        with pytest.raises(UserError, match=voice.replace("+", ".")):
            synthesise("hello", voice)
