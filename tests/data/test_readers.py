"""Manifests of every toolkit: the same rows, the same sound, and one clear line for what is wrong with them."""

from __future__ import annotations

import errno
import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from mixvec import UserError
from mixvec.data.readers.forms import READERS, table
from tests.readers import RATE, assert_reads, cut, find, write, write_text


def test_parts_of_files(tmp_path: Path) -> None:
    """Segments in seconds or in samples, whatever the toolkit; to the end of the file where no end is given."""
    path = write(tmp_path / "long talk.wav", 3.0)
    name = path.name
    text = {"x": {"wav": {"file": name, "start": 8_000, "stop": 20_000}}, "y": {"wav": {"file": name, "start": 32_000}}}
    write_text(tmp_path / "sb.json", json.dumps(text))
    write_text(tmp_path / "sb.csv", "ID,wav,start,stop", f"x,{name},8000,20000", f"y,{name},32000,")
    spans = {"offset": 0.5, "duration": 0.75}, {"offset": "2.0"}, {"duration": 0.2}  # a duration alone is ignored
    write_text(tmp_path / "nemo.jsonl", *(json.dumps({"audio_filepath": name} | span) for span in spans))
    write_text(tmp_path / "cuts.jsonl", *(json.dumps(cut(path, "a", *span)) for span in ((0.5, 0.75), (2.0, 9.0))))
    write_text(tmp_path / "kaldi/wav.scp", f"long {path}")
    write_text(tmp_path / "kaldi/segments", "x long 0.5 1.25", "y long 2.0 -1")
    write_text(tmp_path / "kaldi/text", "y why", "x", "z unheard of")
    found = {source: find(tmp_path / source) for source in ("sb.json", "sb.csv", "cuts.jsonl", "kaldi", "nemo.jsonl")}
    for corpus in found.values():
        assert corpus.skipped == []
        assert_reads(corpus.utterances[0], path, 0.5, 1.25)
        assert_reads(corpus.utterances[1], path, 2.0)
    assert [u.text for u in found["kaldi"].utterances] == ["", "why"]
    assert found["nemo.jsonl"].utterances[2].duration_s == 3.0
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


def test_what_cannot_be_listed_or_opened_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders without permission, broken links, and pipes, which would wait for ever."""
    write(tmp_path / "a.wav")
    (tmp_path / "b.wav").symlink_to(tmp_path / "gone.wav")
    os.mkfifo(tmp_path / "c.wav")
    (tmp_path / "locked").mkdir()
    listed = os.scandir

    def scandir(path: str) -> Any:
        if str(path).endswith("locked"):  # permissions mean nothing to root, as whom tests may run
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    corpus = find(tmp_path, labels=False)
    assert [u.source for u in corpus.utterances] == [str(tmp_path / "a.wav")]
    assert [row["reason"] for row in corpus.skipped] == [
        f"{tmp_path}/b.wav: a broken link, or no plain file",
        f"{tmp_path}/c.wav: a broken link, or no plain file",
        f"{tmp_path}/locked: cannot be listed (Permission denied)",
    ]


def test_no_file_is_passed_over_without_a_word(tmp_path: Path) -> None:
    """Whatever its suffix or the case of it; what is no audio is counted by kind, and not among the skipped.

    What describes the audio, such as its text, is no file passed over.
    """
    for name in ("a.WAV", "b.WAVE", "c.Flac"):
        write(tmp_path / "of" / f"{name[0]}.wav").rename(tmp_path / "of" / name)
    for name in ("d.m4a", "e.wma", "f.amr"):
        (tmp_path / "of" / name).write_bytes(b"no audio at all")
    for name in ("d.txt", "notes.TXT", "c.pdf", "list"):
        write_text(tmp_path / "of" / name)
    for name in ("a.txt", "b.LAB", "README.md", "LICENSE", "metadata.jsonl", "1-2.trans.txt"):
        write_text(tmp_path / "of" / name)
    corpus = find(tmp_path / "of", labels=False)
    assert [Path(u.source).name for u in corpus.utterances] == ["a.WAV", "b.WAVE", "c.Flac"]
    assert [Path(row["source"]).name for row in corpus.skipped] == ["d.m4a", "e.wma", "f.amr"]
    kinds = [row["reason"].partition(": no audio: ")[2] for row in corpus.notes]
    assert kinds == ["1 without a suffix", "1 .pdf", "1 .txt"]
    for name in ("a.WAV", "b.WAVE", "c.Flac"):
        (tmp_path / "of" / name).unlink()
    with pytest.raises(UserError, match=r"d\.m4a.*1 \.pdf"):
        find(tmp_path / "of", labels=False)


GZIPPED = gzip.compress(b'{"audio": "a.wav"}\n' * 1_000, mtime=0)
KALDI = "kaldi/wav.scp"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("m.tsv", "gone\na.wav\t8000\n", r"m\.tsv:1: .*gone is no folder; a fairseq manifest's first line names"),
        ("m.tsv", "x" * 300 + "\na.wav\t8000\n", r"m\.tsv:1: .*is no folder"),
        ("m.tsv", "x\0" * 300 + "\na.wav\t8000\n", r"m\.tsv:1: .{1,400}is no folder"),
        ("m.tsv", ".\na.wav\n", r"m\.tsv:2: a row is a path, a tab and a number of frames, not 'a\.wav'"),
        ("m.tsv", ".\na.wav\tmany\n", r"m\.tsv:2: a row is a path, a tab and a number"),
        ("m.tsv", ".\na.wav\t8000\nb.wav\t1\n", r"m\.tsv:3: b\.wav is not there \(looked in "),
        ("m.tsv", "", r"no readable audio in it$"),
        ("m.tsv", "id\tname\n1\ta.wav\n", r"m\.tsv:2: the row names no audio; it needs one of file_name"),
        ("m.csv", "ID,wav\nx,$data_root/gone.wav\n", r"m\.csv:2: .*gone\.wav is not there .*; data_root was taken to"),
        ("m.csv", "ID,wav,start,stop\nx,a.wav,500,400\n", r"m\.csv:2: a segment from sample 500 to 400"),
        ("m.csv", "ID,wav,start,stop\nx,a.wav,x,\n", r"m\.csv:2: start='x' is not a number of samples"),
        ("m.csv", "file_name\n" + "x" * 140_000, r"m\.csv: not CSV that can be read"),
        ("m.jsonl", '{"audio": ""}', r"m\.jsonl:1: the row names no audio; it needs one of file_name, audio_filepath"),
        ("m.jsonl", '\n{"audio": "gone.wav"}', r"m\.jsonl:2: gone\.wav is not there \(looked in "),
        ("m.jsonl", '{"audio": "a.wav"}\n{"audio": ', r"m\.jsonl:2: not JSON"),
        ("m.jsonl", "[1]", r"m\.jsonl:1: a row must be an object"),
        ("m.jsonl", '{"audio": "a.wav", "offset": "soon"}', r"m\.jsonl:1: offset='soon' is not a number of seconds"),
        ("m.jsonl", '{"audio": "a.wav", "offset": NaN}', r"m\.jsonl:1: offset=nan is not"),
        ("m.jsonl", '{"audio": "a.wav", "offset": 0, "duration": -1}', r"m\.jsonl:1: duration=-1 is not"),
        ("m.jsonl", b'{"audio": "a.wav", "text": "\xff"}', r"m\.jsonl: not UTF-8 text"),
        ("m.jsonl", '{"audio": "a.wav", "offset": 9}', r"1 skipped, the first: .*a\.wav: no audio in it"),
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
        (KALDI, "a ../a.wav\na ../a.wav\n", r"wav\.scp:2: a .* twice"),
        (KALDI, "a\n", r"wav\.scp:1: nothing .* a"),
        ("kaldi/segments", "x a 0\n", r"segments:1: a segment is an utterance, a recording, a start and an end"),
        ("kaldi/segments", "x b 0 1\n", r"segments:1: recording b is not in wav\.scp"),
        ("kaldi/segments", "x a 0.4 0.4\n", r"segments:1: .*0\.4 to 0\.4"),
        ("kaldi/segments", "x a 0 soon\n", r"segments:1: end='soon' is not a number of seconds"),
        ("kaldi/segments", "x a 9 10\n", r"1 skipped, the first: .*a\.wav: no audio in it from 9 s on.*ts:1"),
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


def test_the_documentations_table_has_every_reader() -> None:
    assert [line.split(" | ")[0] for line in table().splitlines()[2:]] == [f"| {reader.name}" for reader in READERS]
    assert len({reader.name for reader in READERS}) == len(READERS)
