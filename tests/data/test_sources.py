"""Finding audio: every shape that people keep it in, and one clear line for everything that is wrong with it."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import datasets
import pytest

from mixvec import UserError
from mixvec.data.sources import Corpus, SourceSpec, find_utterances
from tests import readers
from tests.readers import RATE, write, write_text


def find(source: Any, *, labels: bool = False) -> Corpus:
    return readers.find(source, labels=labels)


def names(corpus: Corpus) -> list[str]:
    return [Path(utterance.source).name for utterance in corpus.utterances]


def test_folder_at_any_depth_and_format(tmp_path: Path) -> None:
    kept = ["a.wav", "deep/er/b.flac", "deep/c.ogg", "deep/d.mp3", "e.opus", "F.WAV", "deep/g.Flac", "h i/ñandú 鳥.wav"]
    for name in [*kept, ".hidden.wav", ".cache/x.wav", "deep/.x/y.wav"]:
        write(tmp_path / name, 0.75)
    (tmp_path / "deep" / "notes.txt").write_text("no audio")
    (tmp_path / "metadata.jsonl").write_text("{}\n")
    corpus = find(tmp_path)
    assert sorted(utterance.source for utterance in corpus.utterances) == sorted(str(tmp_path / n) for n in kept)
    assert corpus.skipped == []
    assert [u.source for u in corpus.utterances] == [u.source for u in find(f"{tmp_path}/").utterances]
    for utterance in corpus.utterances:
        assert utterance.duration_s == pytest.approx(0.75, abs=0.05)
        waveform = utterance.read()
        assert len(waveform) == pytest.approx(12_000, abs=800)
        assert float(waveform[4_000:8_000].square().mean()) > 0.03
        assert (utterance.text, utterance.label) == (None, None)
    assert corpus.hours == pytest.approx(len(kept) * 0.75 / 3600, rel=0.05)


def test_unreadable_files_are_counted_with_their_reason(tmp_path: Path) -> None:
    write(tmp_path / "good.wav")
    (tmp_path / "noise.wav").write_bytes(b"this is no audio " * 20)
    (tmp_path / "zero.flac").write_bytes(b"")
    write(tmp_path / "empty.wav", 0.0)
    corpus = find(tmp_path)
    assert names(corpus) == ["good.wav"]
    reasons = {Path(row["source"]).name: row["reason"] for row in corpus.skipped}
    assert set(reasons) == {"noise.wav", "zero.flac", "empty.wav"}
    assert "noise.wav: not audio that libsndfile can read" in reasons["noise.wav"]
    assert "zero.flac: not audio that libsndfile can read" in reasons["zero.flac"]
    assert "empty.wav: no audio in it" in reasons["empty.wav"]
    corpus.keep(lambda u: u.duration_s > 9, "{u.source}: {u.duration_s:.2f} s is under")
    assert corpus.utterances == []
    assert corpus.skipped[-1]["reason"].endswith("good.wav: 0.50 s is under")


def test_audiofolder_with_metadata(tmp_path: Path) -> None:
    write(tmp_path / "json" / "train" / "a b.wav")
    rows = [{"file_name": "train/a b.wav", "transcription": "Grüße", "intent": "greet"}]
    (tmp_path / "json" / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    (found,) = find(tmp_path / "json", labels=True).utterances
    assert (found.text, found.label) == ("Grüße", "greet")
    write(tmp_path / "csv" / "a.wav")
    (tmp_path / "csv" / "metadata.csv").write_text(
        'file_name,text,label\na.wav,"yes, two\nlines",7\n', encoding="utf-8-sig"
    )
    (found,) = find(tmp_path / "csv", labels=True).utterances
    assert (found.text, found.label) == ("yes, two\nlines", "7")
    write(tmp_path / "bare" / "a.wav")
    with pytest.raises(UserError, match=r"bare: no metadata\.jsonl .*wav\.scp.*folder for each class"):
        find(tmp_path / "bare", labels=True)
    for split in ("train", "test"):
        write(tmp_path / "split" / split / "a.wav")
        (tmp_path / "split" / split / "metadata.csv").write_text("file_name\na.wav\n")
    with pytest.raises(UserError, match=r"several splits \(test, train\).*split/train"):
        find(tmp_path / "split", labels=True)


def table(path: Path, *, column: str = "audio", **columns: list[Any]) -> Path:
    """A ``save_to_disk`` directory of two rows: a path, and stored bytes."""
    wav, flac = write(path.parent / "one.wav", 0.5), write(path.parent / "two.flac", 0.25)
    made = datasets.Dataset.from_dict(
        {column: [{"bytes": None, "path": str(wav)}, {"bytes": flac.read_bytes(), "path": None}], **columns}
    )
    made = made.cast_column(column, datasets.Audio(sampling_rate=RATE))
    if "label" in columns:
        made = made.cast_column("label", datasets.ClassLabel(names=["off", "on"]))
    made.save_to_disk(path)
    return path


@pytest.mark.parametrize("column", ["audio", "speech"])
@pytest.mark.parametrize("labelled", [False, True])
def test_datasets_directory(tmp_path: Path, column: str, labelled: bool) -> None:
    columns = {"text": ["hello", None], "label": [1, -1]} if labelled else {}
    corpus = find(table(tmp_path / "set", column=column, **columns))
    assert [u.source for u in corpus.utterances] == [f"{tmp_path}/set[0]", f"{tmp_path}/set[1]"]
    assert [len(u.read()) for u in corpus.utterances] == [8_000, 4_000]
    assert len(corpus.utterances[0].read(0.25, 0.125)) == 2_000
    expected = [("hello", "on"), (None, None)] if labelled else [(None, None)] * 2
    assert [(u.text, u.label) for u in corpus.utterances] == expected


def test_datasets_directory_that_will_not_do(tmp_path: Path) -> None:
    made = datasets.load_from_disk(str(table(tmp_path / "set", text=["a", "b"])))
    datasets.DatasetDict({"train": made, "test": made}).save_to_disk(tmp_path / "splits")
    with pytest.raises(UserError, match=r"has splits \(train, test\); name one, such as data\.train=.*/splits/train"):
        find(tmp_path / "splits")
    assert len(find(tmp_path / "splits" / "test").utterances) == 2
    made.remove_columns(["audio"]).save_to_disk(tmp_path / "mute")
    with pytest.raises(UserError, match="mute: no audio column among text"):
        find(tmp_path / "mute")
    whole = {name: (tmp_path / "set" / name).read_bytes() for name in ("state.json", "dataset_info.json")}
    for name, text in ("state.json", "{"), ("state.json", "{}"), ("dataset_info.json", '{"features": "a"}'):
        (tmp_path / "set" / name).write_text(text)
        with pytest.raises(UserError, match=r"data\.train=.*set: not a data set that can be loaded \(") as caught:
            find(tmp_path / "set")
        assert "\n" not in str(caught.value)
        (tmp_path / "set" / name).write_bytes(whole[name])


def test_a_table_whose_columns_are_damaged_is_refused(tmp_path: Path) -> None:
    """Text that is no UTF-8, and text that begins beyond its end, which would crash the process."""
    (arrow,) = table(tmp_path / "set", text=["hello", "world"]).glob("*.arrow")
    whole = arrow.read_bytes()
    ends = struct.pack("<3i", 0, 5, 10)  # where each text begins, and the last ends
    for good, bad in (b"helloworld", b"hell\xffworld"), (ends, struct.pack("<3i", 0, 2_000_000_000, 10)):
        assert whole.count(good) == 1
        arrow.write_bytes(whole.replace(good, bad))
        for source in (tmp_path / "set", arrow):
            with pytest.raises(UserError, match=r"data\.train=.*set.*: not a data set that can be loaded \("):
                find(source, labels=True)


def test_glob_list_and_single_file(tmp_path: Path) -> None:
    for name in ("x/a.wav", "x/b.flac", "y/c.wav", "y/[odd].wav"):
        write(tmp_path / name)
    assert names(find(tmp_path / "*" / "*.wav")) == ["a.wav", "[odd].wav", "c.wav"]
    assert names(find(tmp_path / "y" / "[odd].wav")) == ["[odd].wav"]
    assert names(find(tmp_path / "?")) == ["a.wav", "b.flac", "[odd].wav", "c.wav"]
    corpus = find([str(tmp_path / "y"), str(tmp_path / "x" / "a.wav")])
    assert names(corpus) == ["[odd].wav", "c.wav", "a.wav"]
    assert corpus.name == "y, a.wav"


def test_missing_and_empty_sources(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "read.me").write_text("nothing here")
    for source, message in (
        (tmp_path / "gone", "data.train=.*gone: no such file or folder"),
        (tmp_path / "empty", "data.train=.*empty: no readable audio in it"),
        (tmp_path / "*.flac", r"data.train=.*\*\.flac: nothing matches"),
        ("gone", "data.train=gone: no such file or folder"),
        ("./gone/too", "data.train=./gone/too: no such file or folder"),
        ([], "data.train is not set: give it a folder of audio"),
        ("", "data.train is not set"),
        ([str(tmp_path), "gone"], "data.train=gone: no such file or folder"),
    ):
        with pytest.raises(UserError, match=message):
            find(source)
    with pytest.raises(UserError, match="is not set"):
        find_utterances(None, "data.train")


def test_a_hub_name_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub of the tests is a closed port; huggingface_hub tries again a few times, here without waiting."""
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    with pytest.raises(
        UserError, match=r"data\.train=nobody/nothing: no such folder, and no data set of that name"
    ) as caught:
        find("nobody/nothing")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "name"),
    [("corpus/train", "corpus/train"), ("cv/de/test.tsv", "de/test.tsv"), ("my/recordings", "recordings"),
     ("train", "train"), ("training.wav", "training.wav")],
)  # fmt: skip
def test_a_split_is_named_with_its_corpus(path: str, name: str) -> None:
    assert SourceSpec(path).short_name == name


def test_a_folder_is_suggested_before_files(tmp_path: Path) -> None:
    """The files beside it may be of another split, or of nothing at all."""
    for name in ("train/stm/a.stm", "dev_of_train.csv", "test_of_train.tsv"):
        write_text(tmp_path / name, "a")
    with pytest.raises(UserError, match=rf"did you mean data\.train={tmp_path}/train\?$"):
        find(tmp_path, labels=True)
