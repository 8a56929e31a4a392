"""`mixvec listen`: what is typed, piped and printed, bad input, Ctrl-C."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
import soundfile
import torch

from mixvec import cli
from mixvec.cli.listen import BLOCK_BYTES, input_until_signal, pcm_samples
from mixvec.errors import UserError
from mixvec.hub import save_folder
from tests.commands import Result, in_process
from tests.test_architecture import ROOT
from tests.tiny_models import encoder, recogniser
from tests.tones import RATE_HZ, TONE_MODEL, pcm, sound

TALK = "..bab a ab....ab ba b..a."
SAID = ["bab a ab", "ab ba b", "a"]


@pytest.fixture
def listen(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    """Runs the command in this process, with these bytes on standard input."""

    def call(content: bytes, *words: object, model: object = TONE_MODEL) -> Result:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        return in_process(cli.main, monkeypatch, capsys)("listen", "--model", model, "--device", "cpu", *words)

    return call


def wav(
    wave: torch.Tensor, rate_hz: int = RATE_HZ, channels: int = 1, subtype: str = "PCM_16", form: str = "WAV"
) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave.unsqueeze(1).repeat(1, channels).numpy(), rate_hz, format=form, subtype=subtype)
    return file.getvalue()


def sized(content: bytes, riff: int, data: int) -> bytes:
    """A WAV with these sizes in place of those in its header."""
    changed, at = bytearray(content), content.index(b"data") + 4
    changed[4:8], changed[at : at + 4] = struct.pack("<I", riff), struct.pack("<I", data)
    return bytes(changed)


def padded(content: bytes, size: int, name: bytes = b"JUNK") -> bytes:
    """A WAV with a chunk of that many bytes before its samples."""
    at = content.index(b"data")
    return content[:at] + name + struct.pack("<I", size) + b"data" * (size // 4) + content[at:]


def test_raw_and_wav_give_a_line_between_pauses(listen) -> None:  # type: ignore[no-untyped-def]
    wave = sound(TALK, 77)
    followed = wav(wave) + struct.pack("<4sI6s", b"LIST", 6, b"\x7f\x7f" * 3)
    for content in (pcm(wave), wav(wave), followed):
        done = listen(content)
        assert (done.code, done.lines, done.err) == (0, SAID, "")


@pytest.mark.parametrize("form", ["WAV", "WAVEX"])
def test_a_wav_of_unknown_size_and_of_the_extensible_format(form: str) -> None:
    """Writers into a pipe, ffmpeg too, leave the sizes at 0 or at the largest number; WAVEX has format 65534."""
    wave = sound("ab")
    content, most = wav(wave, form=form), 2**32 - 1
    (start,) = {content.index(b"data") + 8, len(content) - 2 * len(wave)}
    assert content[20:22] == (b"\xfe\xff" if form == "WAVEX" else b"\1\0")
    for riff, data in ((len(content) - 8, 2 * len(wave)), (most, most), (0, 0), (start - 8, 0), (most, 0), (0, most)):
        found = torch.cat(list(pcm_samples([sized(content, riff, data)], RATE_HZ)))
        assert torch.equal(found, torch.frombuffer(bytearray(content[start:]), dtype=torch.int16) / 32768)
    with pytest.raises(UserError, match=r"no PCM|24 bits"):  # floats and 24 bits stay refused
        list(pcm_samples([wav(wave, form=form, subtype="FLOAT" if form == "WAVEX" else "PCM_24")], RATE_HZ))


@pytest.mark.parametrize("size", [40, 3_120, 3_160, 5_000, 1_000_000])
def test_a_wav_with_a_long_chunk_before_its_samples(size: int) -> None:
    wave = sound("ab")
    for block_bytes in (999, BLOCK_BYTES, 1 << 21):
        for name in (b"JUNK", b"LIST", b"bext"):
            content = padded(wav(wave), size, name)
            blocks = (content[at : at + block_bytes] for at in range(0, len(content), block_bytes))
            found = torch.cat(list(pcm_samples(blocks, RATE_HZ)))
            assert found.shape == wave.shape and torch.allclose(found, wave, atol=2e-4)


def test_after_the_end_of_the_input_ctrl_c_acts_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(bytes(2 * BLOCK_BYTES))))
    blocks = input_until_signal()
    assert len(next(blocks)) == BLOCK_BYTES
    assert all(signal.getsignal(number) not in before for number in numbers)
    assert list(map(len, blocks)) == [BLOCK_BYTES]
    assert [signal.getsignal(number) for number in numbers] == before


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="there is no ffmpeg program here")
@pytest.mark.parametrize("form", ["s16le", "wav"])
def test_what_ffmpeg_writes_into_a_pipe(listen, tmp_path: Path, form: str) -> None:  # type: ignore[no-untyped-def]
    soundfile.write(tmp_path / "x.mp3", sound(TALK, 77).numpy(), RATE_HZ)
    words = ["ffmpeg", "-v", "error", "-i", tmp_path / "x.mp3", "-f", form, "-ar", "16000", "-ac", "1", "-"]
    done = listen(subprocess.run(words, capture_output=True, check=True).stdout)
    assert (done.code, done.lines, done.err) == (0, SAID, "")


def test_json_and_partial_lines(listen) -> None:  # type: ignore[no-untyped-def]
    rows = list(map(json.loads, listen(pcm(sound(TALK, 77)), "--json").lines))
    assert [row["text"] for row in rows] == SAID and all(row["final"] for row in rows)
    assert list(rows[0]) == ["text", "final", "start_s", "end_s", "words"]
    assert [word["word"] for word in rows[0]["words"]] == SAID[0].split()
    assert list(rows[0]["words"][0]) == ["word", "start_s", "end_s", "confidence"]
    rows = list(map(json.loads, listen(pcm(sound(TALK, 77)), "--json", "--partial").lines))
    assert [row["text"] for row in rows if row["final"]] == SAID
    assert len([row for row in rows if not row["final"]]) > 3
    lines = listen(pcm(sound(TALK, 77)), "--partial", "--chunk-ms", 320, "--left-chunks", 8, "--beam", 1).lines
    assert [line for line in lines if line[0] != "~"] == SAID and lines[0].startswith("~ ")


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "no audio"),
        (wav(torch.zeros(0)), "no audio"),
        (b"call me ishmael\n" * 9, "text ('call me ishmael"),
        ("schöne grüße".encode(), "text ('schöne"),
        (wav(sound("a"), 44_100), "44100 Hz"),
        (wav(sound("a"), channels=2), "2 channels"),
        (wav(sound("a"), subtype="FLOAT"), "no PCM (unknown format: 3)"),
        (wav(sound("a"), subtype="PCM_24"), "24 bits"),
        (wav(sound("a"))[:30], "30 bytes"),
        (padded(wav(sound("a")), 3_000_000), "without samples in its first"),
        (padded(wav(sound("a")), 5_000)[:4_000], "without samples in its first 4000 bytes"),
        (wav(sound("a"))[:36] + b"junk" + b"\xff" * 4 + bytes(9_000), "without samples in its first"),
        (b"fLaC" + bytes(99), "FLAC"),
        (b"ID3" + bytes(99), "MP3"),
    ],
)
def test_what_is_no_pcm_is_named(listen, content: bytes, named: str) -> None:  # type: ignore[no-untyped-def]
    done = listen(content)
    (line,) = done.err.splitlines()
    assert (done.code, done.out) == (1, "")
    assert line.startswith("error: standard input: ") and named in line


def test_an_odd_number_of_bytes_is_an_error_after_all_that_was_said(listen) -> None:  # type: ignore[no-untyped-def]
    content = pcm(sound(TALK, 77)) + b"\x01"
    done = listen(content)
    (line,) = done.err.splitlines()
    assert (done.code, done.lines) == (1, SAID) and f"{len(content)} bytes" in line


def test_samples_are_the_same_however_they_are_cut() -> None:
    wave = sound("ab")
    for size in (1, 3, 999, 10**6):
        for content in (pcm(wave), wav(wave)):
            blocks = (content[at : at + size] for at in range(0, len(content), size))
            found = torch.cat(list(pcm_samples(blocks, RATE_HZ)))
            assert found.shape == wave.shape and torch.allclose(found, wave, atol=2e-4)
    assert next(pcm_samples(iter([b"\0" * BLOCK_BYTES]), RATE_HZ)).shape == (BLOCK_BYTES // 2,)
    with pytest.raises(UserError, match="odd"):
        list(pcm_samples([b"\0\0", b"\0"], RATE_HZ))


def test_options_and_models_that_cannot_be(listen, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    save_folder(recogniser(), tmp_path / "offline")
    save_folder(encoder(), tmp_path / "encoder")
    content = pcm(sound(TALK, 77))
    for words, model, named in [
        (("--chunk-ms", 20), TONE_MODEL, "--chunk-ms 20"),
        (("--left-chunks", -2), TONE_MODEL, "--left-chunks -2"),
        (("--beam", 0), TONE_MODEL, "--beam 0"),
        ((), tmp_path / "offline", "streaming=true"),
        ((), tmp_path / "encoder", "SpeechEncoder"),
        ((), tmp_path / "model.onnx", "ONNX"),
        ((), tmp_path / "none", "none"),
    ]:
        done = listen(content, *words, model=model)
        (line,) = done.err.splitlines()
        assert done.code == 1 and line.startswith("error: ") and named in line, line
    done = listen(content, "--force", "--json", model=tmp_path / "offline")
    assert (done.code, done.err) == (0, "") and done.lines


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_text_comes_while_it_is_spoken_and_ctrl_c_ends_with_the_last_line(number: int) -> None:
    command = [sys.executable, "-m", "mixvec", "listen", "--model", str(TONE_MODEL), "--device", "cpu"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:  # fmt: skip
        assert process.stdin and process.stdout and process.stderr
        process.stdin.write(pcm(sound("..bab a ab....", 77)))
        process.stdin.flush()
        assert process.stdout.readline() == b"bab a ab\n"  # and the input is still open
        process.stdin.write(pcm(sound("ab ba b.", 77)))
        process.stdin.flush()
        time.sleep(1.0)  # until it waits for more
        process.send_signal(number)
        assert process.stdout.read() == b"ab ba b\n"
        assert (process.wait(60), process.stderr.read()) == (0, b"")
