"""Manifests of every toolkit: the same rows, the same sound, and one clear line for what is wrong with them."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import soundfile

from mixvec import UserError
from tests.readers import RATE, assert_reads, find, write, write_text

TEXTS = ["yes", "no it isn't", "Grüße an 鳥", "a b c", "the end"]


def audiofolder(audio: list[Path], at: Path) -> Path:
    write_text(at / "metadata.csv", "file_name,text", *(f"{os.path.relpath(a, at)},{t}" for a, t in zip_(audio)))
    return at


def fairseq_words(audio: list[Path], at: Path) -> Path:
    rows = [f"{path.relative_to(at.parent)}\t{soundfile.info(path).frames}" for path in audio]
    write_text(at / "train.wrd", *TEXTS)
    return write_text(at / "train.tsv", str(at.parent), *rows)


def fairseq_letters(audio: list[Path], at: Path) -> Path:
    path = fairseq_words(audio, at)
    (at / "train.wrd").unlink()
    write_text(at / "train.ltr", *(" ".join(text.replace(" ", "|")) + " |" for text in TEXTS))
    return path


def nemo(audio: list[Path], at: Path) -> Path:
    rows = [{"audio_filepath": str(a), "duration": soundfile.info(a).duration, "text": t} for a, t in zip_(audio)]
    return write_text(at / "manifest.json", *map(json.dumps, rows))


def kaldi(audio: list[Path], at: Path) -> Path:
    write_text(at / "wav.scp", *(f"{path.stem}\t{path}" for path in audio))
    write_text(at / "text", *(f"{path.stem} {text}" for path, text in zip_(audio)))
    return at


def speechbrain_csv(audio: list[Path], at: Path) -> Path:
    rows = [f"{a.stem}, {soundfile.info(a).duration}, $data_root/../{a.name}, spk, {t}" for a, t in zip_(audio)]
    return write_text(at / "train.csv", "ID, duration, wav, spk_id, wrd", *rows)


def speechbrain_json(audio: list[Path], at: Path, indent: int | None = 2) -> Path:
    rows = {a.stem: {"wav": "{data_root}/../" + a.name, "length": 1, "words": t} for a, t in zip_(audio)}
    return write_text(at / "train.json", json.dumps(rows, indent=indent))


def speechbrain_json_on_one_line(audio: list[Path], at: Path) -> Path:
    return speechbrain_json(audio, at, indent=None)


def cut(path: Path, text: str, start: float = 0.0, duration: float | None = None, **others: Any) -> dict[str, Any]:
    info = soundfile.info(path)
    recording = {"id": path.stem, "sources": [{"type": "file", "channels": [0], "source": str(path)}],
                 "sampling_rate": info.samplerate, "num_samples": info.frames, "duration": info.duration}  # fmt: skip
    said = [{"id": "s", "start": 0.0, "text": text, "custom": {"intent": "greet"}}]
    return {"id": path.stem, "start": start, "duration": duration or info.duration, "channel": 0,
            "supervisions": said, "recording": recording, "type": "MonoCut"} | others  # fmt: skip


def lhotse(audio: list[Path], at: Path) -> Path:
    at.mkdir()
    with gzip.open(at / "cuts.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(cut(path, text)) + "\n" for path, text in zip_(audio))
    return at / "cuts.jsonl.gz"


def parquet(audio: list[Path], at: Path) -> Path:
    stored = [{"bytes": path.read_bytes(), "path": path.name} for path in audio]
    made = datasets.Dataset.from_dict({"audio": stored, "text": TEXTS}).cast_column("audio", datasets.Audio())
    (at / "data").mkdir(parents=True)
    made.to_parquet(str(at / "data/train-00000-of-00001.parquet"), batch_size=2)
    return at


def webdataset(audio: list[Path], at: Path) -> Path:
    at.mkdir()
    with tarfile.open(at / "shard-000000.tar", "w") as tar:
        for path, text in zip_(audio):
            tar.add(path, arcname=f"./{path.name}")
            side = write_text(at / f"{path.stem}.txt", text)
            tar.add(side, arcname=f"./{side.name}")
            side.unlink()
    return at


def zip_(audio: list[Path]) -> list[tuple[Path, str]]:
    return list(zip(audio, TEXTS, strict=True))


FORMS: list[Callable[[list[Path], Path], Path]] = [
    audiofolder, fairseq_words, fairseq_letters, nemo, kaldi, speechbrain_csv, speechbrain_json,
    speechbrain_json_on_one_line, lhotse, parquet, webdataset,
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_utterances(tmp_path: Path, form: Callable[[list[Path], Path], Path]) -> None:
    """Texts, durations and samples, in the same order; and each utterance travels to workers as a few names."""
    audio = [write(tmp_path / f"{name}.flac", 0.3 + 0.1 * i) for i, name in enumerate(["b 1", "b2", "ç", "d", "a"])]
    if form in (kaldi, nemo, lhotse):
        audio[0] = write(tmp_path / "b_1.flac", 0.3)
    corpus = find(form(audio, tmp_path / "own"))
    assert corpus.skipped == []
    assert [u.text for u in corpus.utterances] == TEXTS
    for utterance, path in zip(corpus.utterances, audio, strict=True):
        assert_reads(utterance, path)
        assert len(pickle.dumps(utterance)) < 1_000
        assert_reads(pickle.loads(pickle.dumps(utterance)), path)


def test_parts_of_files(tmp_path: Path) -> None:
    """Segments in seconds or in samples, whatever the toolkit; to the end of the file where no end is given."""
    path = write(tmp_path / "long talk.wav", 3.0)
    name = path.name
    text = {"x": {"wav": {"file": name, "start": 8_000, "stop": 20_000}}, "y": {"wav": {"file": name, "start": 32_000}}}
    write_text(tmp_path / "sb.json", json.dumps(text))
    write_text(tmp_path / "sb.csv", "ID,wav,start,stop", f"x,{name},8000,20000", f"y,{name},32000,")
    write_text(tmp_path / "cuts.jsonl", *(json.dumps(cut(path, "a", *span)) for span in ((0.5, 0.75), (2.0, 9.0))))
    write_text(tmp_path / "kaldi/wav.scp", f"long {path}")
    write_text(tmp_path / "kaldi/segments", "x long 0.5 1.25", "y long 2.0 -1")
    write_text(tmp_path / "kaldi/text", "y why", "x", "z unheard of")
    found = {source: find(tmp_path / source) for source in ("sb.json", "sb.csv", "cuts.jsonl", "kaldi")}
    for corpus in found.values():
        assert corpus.skipped == []
        assert_reads(corpus.utterances[0], path, 0.5, 1.25)
        assert_reads(corpus.utterances[1], path, 2.0)
    assert [u.text for u in found["kaldi"].utterances] == ["", "why"]
    assert [(u.text, u.label) for u in found["cuts.jsonl"].utterances] == [("a", "greet")] * 2


def test_samples_are_those_of_the_files_own_rate(tmp_path: Path) -> None:
    write(tmp_path / "a.wav", 2.0, rate_hz=8_000)
    write_text(tmp_path / "m.json", json.dumps({"x": {"wav": {"file": "a.wav", "start": 4_000, "stop": 12_000}}}))
    (utterance,) = find(tmp_path / "m.json").utterances
    assert (utterance.start_s, utterance.duration_s) == (0.5, 1.0)
    assert len(utterance.read()) == RATE


def test_manifests_may_point_above_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "audio/a.wav")
    write_text(tmp_path / "lists/m.jsonl", '{"audio": "../audio/a.wav"}')
    write_text(tmp_path / "lists/m.tsv", "name\tpath\tintent", 'a "quoted" name\t../audio/a.wav\tgo')
    write_text(tmp_path / "lists/kaldi/wav.scp", "a audio/a.wav")
    monkeypatch.chdir(tmp_path)  # Kaldi's paths begin where its commands run
    corpus = find([str(tmp_path / "lists" / name) for name in ("m.jsonl", "m.tsv", "kaldi")])
    assert [u.label for u in corpus.utterances] == [None, "go", None]
    for utterance in corpus.utterances:
        assert_reads(utterance, path)


GZIPPED = gzip.compress(b'{"audio": "a.wav"}\n' * 1_000)
KALDI = "kaldi/wav.scp"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("m.tsv", "gone\na.wav\t8000\n", r"m\.tsv:1: .*gone is no folder; a fairseq manifest's first line names"),
        ("m.tsv", ".\na.wav\n", r"m\.tsv:2: a row is a path, a tab and a number of frames, not 'a\.wav'"),
        ("m.tsv", ".\na.wav\tmany\n", r"m\.tsv:2: a row is a path, a tab and a number"),
        ("m.tsv", ".\na.wav\t8000\nb.wav\t1\n", r"m\.tsv:3: b\.wav is not there \(looked in "),
        ("m.tsv", "", r"no readable audio in it$"),
        ("m.tsv", "id\tname\n1\ta.wav\n", r"m\.tsv:2: the row names no audio; it needs one of file_name"),
        ("m.csv", "ID,wav\nx,$data_root/gone.wav\n", r"m\.csv:2: .*gone\.wav is not there .*; data_root was taken to"),
        ("m.csv", "ID,wav,start,stop\nx,a.wav,500,400\n", r"m\.csv:2: a stretch from sample 500 to 400 has no length"),
        ("m.csv", "ID,wav,start,stop\nx,a.wav,x,\n", r"m\.csv:2: start='x' is not a number of samples"),
        ("m.json", '{"x": {"wav": "{data_root}/b.wav"}}', r"m\.json: x: .*b\.wav is not there .*put the manifest"),
        ("m.json", '{\n "x": {"words": "a"}\n}', r"m\.json: x: the row names no audio"),
        ("m.json", '{\n "x": {"wav": {"files": ["a.wav"]}}\n}', r"m\.json: x: the row names no audio"),
        ("m.json", '{\n "x": {"wav": ', r"m\.json:1: not JSON"),
        ("m.jsonl.gz", GZIPPED[:30], r"m\.jsonl\.gz: not gzip that can be read to its end"),
        ("m.jsonl.gz", b"plain text", r"m\.jsonl\.gz: not gzip that can be read to its end"),
        ("m.jsonl", '{"type": "MixedCut", "tracks": []}', r"m\.jsonl:1: a MixedCut has no recording of its own"),
        ("m.jsonl", '{"type": "MonoCut", "recording": {}}', r"m\.jsonl:1: its recording is not one file \(type None\)"),
        ("m.jsonl", '{"recording": {"sources": [{"type": "command", "source": "rm -r x"}]}}', r"one file \(type 'comm"),
        ("m.jsonl", '{"recording": {"sources": [{"type": "file", "source": "x.wav"}]}}', r"m\.jsonl:1: x\.wav is not"),
        ("m.jsonl", '{"recording": {"sources": [{"type": "file", "source": "a.wav", "channels": [0, 1]}]}}',
         r"m\.jsonl:1: a recording of several channels"),
        (KALDI, "a sph2pipe -f wav a.sph |\n", r"wav\.scp:1: a command with a pipe is refused: run it, and name"),
        (KALDI, "a | touch x\n", r"wav\.scp:1: a command with a pipe is refused"),
        (KALDI, "a ../a.wav\nb ../b.wav\n", r"wav\.scp:2: \.\./b\.wav is not there \(looked in .*kaldi and \.\)"),
        (KALDI, "a ../a.wav\na ../a.wav\n", r"wav\.scp:2: a stands there twice"),
        (KALDI, "a\n", r"wav\.scp:1: nothing stands behind a"),
        ("kaldi/segments", "x a 0\n", r"segments:1: a segment is an utterance, a recording, a start and an end"),
        ("kaldi/segments", "x b 0 1\n", r"segments:1: recording b is not in wav\.scp"),
        ("kaldi/segments", "x a 0.4 0.4\n", r"segments:1: a stretch from 0\.4 to 0\.4 has no length"),
        ("kaldi/segments", "x a 0 soon\n", r"segments:1: end='soon' is not a number of seconds"),
        ("kaldi/segments", "x a 9 10\n", r"1 skipped, the first: .*a\.wav: no audio in it from 9 s on, as .*ts:1"),
        ("kaldi/text", b"a \xff\n", r"text: not UTF-8 text"),
    ],
)  # fmt: skip
def test_a_wrong_manifest_is_one_line(tmp_path: Path, name: str, text: str | bytes, message: str) -> None:
    write(tmp_path / "a.wav")
    write_text(tmp_path / "kaldi/wav.scp", "a ../a.wav")
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message) as caught:
        find(tmp_path / name.replace("kaldi/", "kaldi//").partition("//")[0])
    assert "\n" not in str(caught.value)


def test_fairseq_labels_must_be_as_many_as_rows(tmp_path: Path) -> None:
    write(tmp_path / "a.wav")
    write_text(tmp_path / "m.tsv", ".", "a.wav\t8000", "")
    write_text(tmp_path / "m.wrd", "one", "two")
    with pytest.raises(UserError, match=r"m\.wrd: 2 lines for the 1 rows of m\.tsv"):
        find(tmp_path / "m.tsv")
    write_text(tmp_path / "m.wrd", "one", "")
    assert [u.text for u in find(tmp_path / "m.tsv").utterances] == ["one"]


def test_one_bad_file_is_skipped_and_a_bound_may_stop_the_run(tmp_path: Path) -> None:
    for name in "abcdef":
        write(tmp_path / f"{name}.wav")
    for name in "bdef":
        (tmp_path / f"{name}.wav").write_bytes(b"no audio")
    write_text(tmp_path / "m.tsv", ".", *(f"{name}.wav\t8000" for name in "abcdef"))
    corpus = find(tmp_path / "m.tsv")
    assert [Path(u.source).name for u in corpus.utterances] == ["a.wav", "c.wav"]
    for most in (1.0, 0.67):
        corpus.check_skipped(most, "data.train=DIR")
    with pytest.raises(
        UserError, match=r"data\.train=DIR: 4 of 6 utterances cannot be used, more than data\.max_skipped=0\.5"
    ) as caught:
        corpus.check_skipped(0.5, "data.train=DIR")
    assert [f"{name}.wav: not audio" in str(caught.value) for name in "bdef"] == [True, True, True, False]
