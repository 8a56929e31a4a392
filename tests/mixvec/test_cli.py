"""The mixvec command: what it prints for files, folders and faults."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mixvec import Classifier, CtcRecognizer
from mixvec.audio import read_audio
from tests.commands import Run
from tests.tiny_models import LABELS, write_wav

ROOT = Path(__file__).resolve().parents[2]
NO_AUDIO = "not audio that libsndfile can read (Format not recognised)"


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two good files at odd rates, in folders beside a hidden one, a text, and a file that is no audio. Read-only."""
    folder = tmp_path_factory.mktemp("audio")
    write_wav(folder / "b é.wav", 0.5, 8_000, channels=2)
    write_wav(folder / "a" / "z.FLAC", 0.7, 22_050)
    write_wav(folder / ".cache" / "hidden.wav")
    (folder / "notes.txt").write_text("no audio")
    (folder / "broken.wav").write_text("no audio")
    return folder


@pytest.mark.slow
def test_as_a_user_runs_it(models: Path, audio: Path) -> None:
    command = [sys.executable, "-m", "mixvec", "transcribe", "--model", models / "run", audio / "b é.wav",
               audio / "broken.wav"]  # fmt: skip
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, timeout=120)
    text = CtcRecognizer.from_pretrained(models / "run").transcribe(read_audio(audio / "b é.wav").unsqueeze(0))[0]
    assert text and done.stdout == f"{audio / 'b é.wav'}\t{text}\n"
    assert done.returncode == 1
    assert done.stderr.splitlines() == [f"error: {audio / 'broken.wav'}: " + NO_AUDIO]


@pytest.mark.slow
def test_a_closed_pipe_is_quiet(models: Path, audio: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "mixvec", "understand", "--model", models / "intent", audio / "b é.wav",
               audio / "a"]  # fmt: skip
    done = subprocess.run(list(map(str, command)), cwd=ROOT, stdout=write, stderr=subprocess.PIPE, timeout=120)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_one_file_gives_the_answer_alone(run: Run, models: Path, audio: Path) -> None:
    waveform = read_audio(audio / "b é.wav").unsqueeze(0)
    text = CtcRecognizer.from_pretrained(models / "run").transcribe(waveform)[0]
    ranked = Classifier.from_pretrained(models / "intent").understand(waveform)[0]
    done = run("transcribe", "--model", models / "run" / "hub", audio / "b é.wav")
    assert (done.code, done.out, done.err) == (0, f"{text}\n", "")
    done = run("understand", "--model", models / "intent", audio / "b é.wav")
    assert (done.code, done.out) == (0, f"{next(iter(ranked))}\n")
    done = run("understand", "--model", models / "intent", "--top", 2, audio / "b é.wav")
    best = [f"{label} {p:.3f}" for label, p in ranked.items()][:2]
    assert done.lines == ["\t".join(best)]


def test_a_folder_is_the_audio_in_it(run: Run, models: Path, audio: Path) -> None:
    done = run("understand", "--model", models / "intent", audio, audio / "b é.wav", audio / "notes.txt")
    paths = [str(audio / "a" / "z.FLAC"), str(audio / "b é.wav"), str(audio / "b é.wav")]
    assert [line.split("\t")[0] for line in done.lines] == paths
    assert all(line.split("\t")[1] in LABELS for line in done.lines)
    bad = [f"error: {audio / 'broken.wav'}: {NO_AUDIO}",
           f"error: {audio / 'notes.txt'}:1: no audio is not there (looked in {audio})"]  # fmt: skip
    note, *errors = done.err.splitlines()
    assert (done.code, errors) == (1, bad) and note.startswith("note: ") and "1 .txt" in note


def test_json_lines(run: Run, models: Path, audio: Path) -> None:
    done = run("understand", "--json", "--model", models / "intent", audio / "a", audio / "b é.wav")
    assert done.code == 0 and "é" in done.out
    first, second = map(json.loads, done.lines)
    assert list(first) == ["path", "label", "probabilities", "seconds", "speech"] and first["speech"]
    assert (first["path"], first["seconds"], second["seconds"]) == (str(audio / "a" / "z.FLAC"), 0.7, 0.5)
    assert set(first["probabilities"]) == set(LABELS) and abs(sum(first["probabilities"].values()) - 1) < 1e-4
    assert first["label"] == max(first["probabilities"], key=first["probabilities"].get)
    (row,) = map(json.loads, run("understand", "--json", "--top", 1, "--model", models / "intent", audio / "a").lines)
    assert list(row["probabilities"]) == [row["label"]]
    (row,) = map(json.loads, run("transcribe", "--json", "--model", models / "run", audio / "a").lines)
    assert list(row) == ["path", "text", "words", "seconds", "speech"] and row["text"]


def test_faults_of_the_files(run: Run, models: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    good = write_wav(tmp_path / "good.wav")
    silent = write_wav(tmp_path / "silent.wav", 0)
    done = run("understand", "--model", models / "intent", tmp_path / "none.wav", tmp_path / "empty", silent, good)
    assert done.err.splitlines() == [
        f"error: {tmp_path / 'none.wav'}: no such file",
        f"error: {tmp_path / 'empty'}: no audio in this folder",
        f"error: {silent}: no audio in it",
    ]
    assert done.code == 1 and [line.split("\t")[0] for line in done.lines] == [str(good)]


@pytest.mark.parametrize(
    ("command", "model", "message"),
    [
        ("transcribe", "intent", "a Classifier, and transcribe needs a CtcRecognizer"),
        ("understand", "run", "a CtcRecognizer, and understand needs a Classifier"),
        ("transcribe", "encoder", "a SpeechEncoder, and transcribe needs a CtcRecognizer"),
        ("understand", "nowhere", "no such model folder"),
    ],
)
def test_the_wrong_model(run: Run, models: Path, audio: Path, command: str, model: str, message: str) -> None:
    done = run(command, "--model", models / model, audio)
    assert (done.code, done.out) == (1, "")
    (line,) = done.err.splitlines()
    assert line.startswith("error: ") and str(models / model) in line and message in line


def test_the_wrong_model_is_refused_before_its_weights_are_loaded(
    run: Run, models: Path, audio: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mixvec.hub.read_tensors", None)
    for command, model in (("transcribe", "intent"), ("transcribe", "encoder"), ("understand", "asr")):
        done = run(command, "--model", models / model, audio)
        assert done.code == 1 and f"and {command} needs a" in done.err


@pytest.mark.parametrize("words", [[], ["transcribe"], ["sing"], ["understand", "--model", "m", "--top", "0", "a.wav"]])
def test_wrong_usage(run: Run, words: list[str]) -> None:
    done = run(*words)
    assert done.code == 2 and "usage: mixvec" in done.err


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")]
)
def test_too_long_for_the_memory(
    run: Run, models: Path, audio: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(*args: object) -> None:
        raise error

    monkeypatch.setattr(Classifier, "head", full)
    done = run("understand", "--model", models / "intent", audio / "b é.wav")
    assert (done.code, done.out) == (1, "")
    assert "b é.wav: 0 s of audio do not fit into memory; cut it into parts" in done.err
