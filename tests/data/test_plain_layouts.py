"""Layouts that people have: lists, LJSpeech, texts beside the audio, folders of classes, nested metadata, Kaldi."""

from __future__ import annotations

from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from mixvec import UserError
from tests.readers import find, write, write_text


def found(source: Path, labels: bool = True) -> dict[str, tuple[str | None, str | None]]:
    return {Path(u.source).name: (u.text, u.label) for u in find(source, labels=labels).utterances}


@pytest.mark.parametrize("name", ["files.txt", "files.lst"])
def test_lists_of_paths(tmp_path: Path, name: str) -> None:
    """Relative and absolute, with spaces, with #, and with the text beside each file."""
    paths = [write(tmp_path / "a.wav"), write(tmp_path / "b c" / "#1, d.wav"), write(tmp_path / "e|f.wav")]
    write_text(tmp_path / "a.txt", "from beside")
    path = write_text(tmp_path / name, "a.wav", str(paths[1]), "", "e|f.wav")
    assert found(path) == {"a.wav": ("from beside", None), "#1, d.wav": (None, None), "e|f.wav": (None, None)}
    with pytest.raises(UserError, match=rf"{name}:1: gone\.wav is not there"):
        find(write_text(tmp_path / name, "gone.wav"))


def test_lists_with_texts(tmp_path: Path) -> None:
    write(tmp_path / "wavs" / "LJ-1.wav")
    write(tmp_path / "wavs" / "LJ-2.wav")
    path = write_text(tmp_path / "metadata.csv", "LJ-1|Dr. X|Doctor X", 'LJ-2|"quoted, it is"|')
    both = {"LJ-1.wav": ("Doctor X", None), "LJ-2.wav": ('"quoted, it is"', None)}
    assert found(path) == both == found(tmp_path)
    (utterance,) = find(write_text(tmp_path / "list.txt", "wavs/LJ-1.wav|spk7|hello there")).utterances
    assert (utterance.text, utterance.speaker) == ("hello there", "spk7")
    (utterance,) = find(write_text(tmp_path / "list.txt", "wavs/LJ-1.wav\thello")).utterances
    assert utterance.text == "hello"


@pytest.mark.parametrize("suffix", [".txt", ".lab", ".TXT"])
def test_a_text_beside_each_file(tmp_path: Path, suffix: str) -> None:
    for name in ("s1/a", "s2/b", "s2/c", "s2/d"):
        write(tmp_path / f"{name}.wav")
    write_text(tmp_path / f"s1/a{suffix}", "one", "two")
    write_text(tmp_path / f"s2/b{suffix}", "three")
    write_text(tmp_path / f"s2/c{suffix}", "0 1200 sil", "1200 4000 ah")
    corpus = find(tmp_path)
    assert found(tmp_path) == {"a.wav": ("one two", None), "b.wav": ("three", None)}
    assert [Path(row["source"]).name for row in corpus.skipped] == ["c.wav", "d.wav"]


def test_a_folder_for_each_class(tmp_path: Path) -> None:
    for name in ("yes/spk1/a.wav", "yes/spk2/b.wav", "no/c.wav", "d.wav"):
        write(tmp_path / name)
    assert found(tmp_path) == {"a.wav": (None, "yes"), "b.wav": (None, "yes"), "c.wav": (None, "no")}
    assert [Path(row["source"]).name for row in find(tmp_path).skipped] == ["d.wav"]
    for name in ("train/yes/a.wav", "test/yes/b.wav"):
        write(tmp_path / "splits" / name)
    with pytest.raises(UserError, match=r"several splits \(test, train\)"):
        find(tmp_path / "splits")


def test_texts_beside_the_audio_are_looked_for_in_the_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of classes has none, and there may be a million files."""
    asked, is_file = set[str](), Path.is_file
    for name in ("yes/a.wav", "yes/b.wav", "no/c.wav"):
        write(tmp_path / name)
    monkeypatch.setattr(Path, "is_file", lambda path: asked.add(path.stem + path.suffix.lower()) or is_file(path))
    assert len(found(tmp_path)) == 3
    assert not asked & {f"{stem}{suffix}" for stem in "abc" for suffix in (".txt", ".lab")}
    write_text(tmp_path / "no/c.LAB", "three")
    assert found(tmp_path) == {"c.wav": ("three", None)}


def test_metadata_at_any_depth_and_in_parquet(tmp_path: Path) -> None:
    for name in ("yes", "no"):
        write(tmp_path / "nest" / name / f"{name}.wav")
        write_text(tmp_path / "nest" / name / "metadata.csv", "file_name,text", f"{name}.wav,{name}")
    assert found(tmp_path / "nest") == {"no.wav": ("no", None), "yes.wav": ("yes", None)}
    write(tmp_path / "flat" / "a.wav")
    rows = [{"file_name": "a.wav", "text": "hi", "label": 3}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "flat" / "metadata.parquet")
    assert found(tmp_path / "flat") == found(tmp_path / "flat" / "metadata.parquet") == {"a.wav": ("hi", "3")}


def test_kaldi_speakers_and_the_file_itself(tmp_path: Path) -> None:
    write(tmp_path / "a.wav")
    write_text(tmp_path / "wav.scp", f"u1 {tmp_path / 'a.wav'}")
    write_text(tmp_path / "text", "u1 hello you")
    write_text(tmp_path / "utt2spk", "u1 anna")
    for source in (tmp_path, tmp_path / "wav.scp"):
        (utterance,) = find(source).utterances
        assert (utterance.text, utterance.speaker) == ("hello you", "anna")
    write_text(tmp_path / "wav.scp", "u1 sox a.wav -t wav - |")
    with pytest.raises(UserError, match=r"wav\.scp:1: a command"):
        find(tmp_path)


def test_where_nothing_is_known_the_hint_names_what_would_be(tmp_path: Path) -> None:
    write(tmp_path / "a.wav")
    with pytest.raises(UserError) as caught:
        find(tmp_path)
    assert all(name in str(caught.value) for name in ("metadata.jsonl", "wav.scp", ".txt", "folder for each class"))
