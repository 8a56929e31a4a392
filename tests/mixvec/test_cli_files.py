"""What the mixvec commands read and write: pipes, URLs, manifests, silence, long recordings, files of their own."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from mixvec import UserError
from mixvec.audio import read_audio
from mixvec.locate import resolve
from tests.commands import Run
from tests.tiny_models import write_wav

ROOT = Path(__file__).resolve().parents[2]


def text_of(run: Run, models: Path, file: Path) -> str:
    return run("transcribe", "--model", models / "asr", file).out.strip()


def test_standard_input(run: Run, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_wav(tmp_path / "a.wav")
    expected = text_of(run, models, file)
    for content, named in ((file.read_bytes(), ""), (b"", "error: -: empty"), (b"no audio", "error: -: not audio")):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        done = run("transcribe", "--model", models / "asr", "-")
        assert (done.code, done.out.strip()) == ((1, "") if named else (0, expected)) and done.err.startswith(named)


def test_a_named_pipe(run: Run, models: Path, tmp_path: Path) -> None:
    file = write_wav(tmp_path / "a.wav")
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(["cp", "--", str(file), str(tmp_path / "pipe")]):
        assert text_of(run, models, tmp_path / "pipe") == text_of(run, models, file)


def test_folders_links_manifests_and_segments(run: Run, models: Path, tmp_path: Path) -> None:
    file = write_wav(tmp_path / "real" / "spk" / "a.wav", 1.2)
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "spk").symlink_to(tmp_path / "real" / "spk")
    (tmp_path / "links" / "gone.wav").symlink_to("/nope.wav")
    done = run("transcribe", "--model", models / "asr", tmp_path / "links")
    assert [line.split("\t")[0] for line in done.lines] == [str(tmp_path / "links/spk/a.wav")]
    assert done.code == 1 and str(tmp_path / "links/gone.wav") in done.err
    rows = [{"file_name": str(file)}, {"file_name": str(file), "offset": 0.2, "duration": 0.7}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    whole, part = map(json.loads, run("transcribe", "--json", "--model", models / "asr", tmp_path / "rows.jsonl").lines)
    assert (whole["seconds"], part["seconds"], part["start_s"]) == (1.2, pytest.approx(0.7), 0.2)
    assert "start_s" not in whole


def test_silence_is_not_transcribed(run: Run, models: Path, tmp_path: Path) -> None:
    """Digital silence, an offset, hiss below every recorder; but not a quiet voice, or one of two that cancel."""
    tone = 0.3 * np.sin(np.arange(16_000) / 10)
    sounds = {"zero": np.zeros(16_000), "offset": np.full(16_000, 0.2),
              "hiss": 1e-5 * np.random.default_rng(0).standard_normal(16_000), "short": np.zeros(2_000)}  # fmt: skip
    for name, samples in sounds.items():
        soundfile.write(tmp_path / f"{name}.wav", samples, 16_000, subtype="FLOAT")
    silent = [tmp_path / f"{name}.wav" for name in sounds]
    for command, model, key in (("transcribe", "asr", "text"), ("understand", "intent", "label")):
        done = run(command, "--json", "--model", models / model, *silent)
        rows = list(map(json.loads, done.lines))
        assert len(rows) == 4 and not any(row["speech"] or row.get(key) for row in rows)
        assert all(str(file) in done.err for file in silent)
        assert all(map(json.loads, run(command, "--json", "--no-gate", "--model", models / model, *silent).lines))
    assert run("understand", "--no-gate", "--model", models / "intent", silent[0]).out.strip()
    cancels = tmp_path / "cancels.wav"
    soundfile.write(cancels, np.stack([tone, -tone], 1), 16_000)
    done = run("understand", "--model", models / "intent", cancels)
    assert done.code == 1 and f"{cancels}: " in done.err and "--channel 0" in done.err
    for words, code in ((("--channel", "1"), 0), (("--channel", "2"), 1)):
        done = run("understand", "--model", models / "intent", *words, cancels)
        assert (done.code, bool(done.out.strip())) == (code, code == 0)
    quiet = tmp_path / "quiet.wav"
    soundfile.write(quiet, 0.003 * tone, 16_000, subtype="FLOAT")
    (row,) = map(json.loads, run("understand", "--json", "--model", models / "intent", quiet).lines)
    assert row["speech"] and row["label"]


def test_long_recordings_are_cut_in_their_pauses(run: Run, models: Path, tmp_path: Path) -> None:
    """Into parts that are transcribed as they are alone; in one pass with --whole."""
    rng, spans = np.random.default_rng(0), [(1.0, 9.0), (10.0, 18.0), (20.0, 24.5)]
    samples = np.zeros(16_000 * 26)
    for begin, end in spans:
        part = slice(int(begin * 16_000), int(end * 16_000))
        samples[part] = 0.1 * rng.standard_normal(part.stop - part.start)
    file = tmp_path / "long.wav"
    soundfile.write(file, samples, 16_000)
    (row,) = map(json.loads, run("transcribe", "--json", "--model", models / "asr", file).lines)
    found = [(segment["start_s"], segment["end_s"]) for segment in row["segments"]]
    np.testing.assert_allclose(found, [(begin - 0.1, end + 0.1) for begin, end in spans], atol=0.05)
    waveform = read_audio(file)
    texts = [recogniser_text(models, waveform[round(begin * 16_000) : round(end * 16_000)]) for begin, end in found]
    assert [segment["text"] for segment in row["segments"]] == texts and row["text"] == " ".join(texts)
    assert all(begin <= word["start_s"] for begin, word in zip([found[0][0]], row["words"], strict=False))
    (whole,) = map(json.loads, run("transcribe", "--json", "--whole", "--model", models / "asr", file).lines)
    assert "segments" not in whole and whole["text"] == recogniser_text(models, waveform)


def recogniser_text(models: Path, waveform: torch.Tensor) -> str:
    from mixvec import CtcRecognizer

    return CtcRecognizer.from_pretrained(models / "asr").transcribe(waveform.unsqueeze(0))[0]


def test_a_file_for_each_input(run: Run, models: Path, tmp_path: Path) -> None:
    audio, out = tmp_path / "audio", tmp_path / "out"
    for name in ("a.wav", "sub/b.wav", "sub/c.d.wav"):
        write_wav(audio / name)
    words = ("transcribe", "--model", models / "asr", "--text-dir", out)
    done = run(*words, audio)
    assert done.code == 0 and done.lines == [str(out / name) for name in ("a.txt", "sub/b.txt", "sub/c.d.txt")]
    assert (out / "sub/b.txt").read_text() == text_of(run, models, audio / "sub/b.wav") + "\n"
    (out / "a.txt").write_text("mine")
    (out / "sub/b.txt").unlink()
    assert run(*words, "--skip-done", audio).lines == [str(out / "sub/b.txt")]
    assert (out / "a.txt").read_text() == "mine"
    write_wav(audio / "a.flac")
    done = run(*words, audio / "a.flac", audio / "a.wav", "--skip-done")
    assert done.code == 1 and "a.wav: its output" in done.err and "a.flac" in done.err
    for form in ("json", "srt", "vtt"):
        assert run(*words, f"--{form}", audio / "a.wav").lines == [str(out / f"a.{form}")]
    assert json.loads((out / "a.json").read_text())["path"] == str(audio / "a.wav")
    assert (out / "a.vtt").read_text().startswith("WEBVTT\n")
    times = r"1\n00:00:0\d,\d{3} --> 00:00:0\d,\d{3}\n\S.*\n"
    assert re.match(times, (out / "a.srt").read_text())


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--srt", "a.wav", "b.wav"], "--text-dir"),
        (["--skip-done", "a.wav"], "--text-dir"),
        (["--device", "gpu7", "a.wav"], "--device gpu7"),
        (["--text-dir", __file__, "a.wav"], __file__),
    ],
)
def test_options_that_do_not_fit(run: Run, models: Path, words: list[str], named: str) -> None:
    done = run("transcribe", "--model", models / "asr", *words)
    assert (done.code, done.out) == (1, "") and named in done.err and len(done.err.splitlines()) == 1


def test_features_are_the_frames_of_a_layer(run: Run, models: Path, tmp_path: Path) -> None:
    file = write_wav(tmp_path / "a.wav")
    from mixvec.hub import load_encoder

    with torch.no_grad():
        _, _, layers = load_encoder(models / "asr")(read_audio(file).unsqueeze(0))
    for model in ("asr", "encoder"):
        for layer in ("0", "last", "all"):
            done = run("features", "--model", models / model, "--layer", layer, "--to", tmp_path / model / layer, file)
            made = np.load(done.lines[0])
            assert done.code == 0 and made.dtype == np.float32 and made.shape[-1] == 32
            if model == "asr":
                wanted = {"0": layers[0][0], "last": layers[-1][0], "all": torch.stack(layers)[:, 0]}[layer]
                np.testing.assert_allclose(made, wanted, atol=1e-4)
    done = run("features", "--model", models / "asr", "--layer", "9", "--to", tmp_path / "x", file)
    assert done.code == 1 and "--layer 9" in done.err and "0 to 2" in done.err
    from pyarrow import parquet

    run("features", "--model", models / "asr", "--layer", "all", "--to", tmp_path / "x.parquet", file)
    rows = parquet.read_table(tmp_path / "x.parquet").to_pylist()
    assert [(row["path"], row["layer"]) for row in rows] == [(str(file), layer) for layer in range(3)]
    np.testing.assert_allclose(rows[2]["frames"], layers[2][0], atol=1e-4)
    done = run("features", "--model", models / "asr", "--to", tmp_path / "y.parquet", tmp_path / "none.wav")
    assert done.code == 1 and not list(tmp_path.glob("*y.parquet*"))


@pytest.mark.slow
def test_ctrl_c_ends_in_one_line_with_nothing_half_written(models: Path, tmp_path: Path) -> None:
    for number in range(400):
        write_wav(tmp_path / "audio" / f"{number:03}.wav", 1.0)
    words = ["transcribe", "--model", models / "asr", "--json", "--text-dir", tmp_path / "out", tmp_path / "audio"]
    command = [sys.executable, "-m", "mixvec", *map(str, words)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline()
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "interrupted\n")
    written = list((tmp_path / "out").rglob("*"))
    assert 0 < len(written) < 400 and all(json.loads(file.read_text())["text"] is not None for file in written)


@pytest.mark.parametrize("name", ["s3://bucket/model", "org/name@", "a/b/c", "./none@v1"])
def test_odd_names_of_models(name: str) -> None:
    with pytest.raises(UserError, match=re.escape(name)):
        resolve(name)


@pytest.mark.slow
def test_training_commands_work_in_any_folder(tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    start = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from mixvec.cli import main; sys.path.pop(0); main()"
    for words, code, named in ((["inspect", "/nope"], 1, "/nope"),
                               (["finetune", "configs/asr.yaml", "size=tiny"], 1, "data.train")):  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", start, *words], cwd=tmp_path, env=env, capture_output=True, text=True
        )
        assert done.returncode == code and named in done.stdout + done.stderr, done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("words", [["tools.inspect", "AUDIO"], ["mixvec", "--help"]])
def test_a_reader_that_closes_the_output_is_met_quietly(tmp_path: Path, words: list[str]) -> None:
    write_wav(tmp_path / "a.wav", 2.0)
    read, write = os.pipe()
    os.close(read)
    words = [str(tmp_path) if word == "AUDIO" else word for word in words]
    done = subprocess.run([sys.executable, "-m", *words], cwd=ROOT, stdout=write, stderr=subprocess.PIPE, timeout=120)
    os.close(write)
    assert done.stderr == b"" and done.returncode in ((0, 141) if words[0] == "mixvec" else (141,))  # argparse's own
