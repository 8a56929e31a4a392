"""Tars and Parquet: read where they lie, with damage named and what is whole kept."""

from __future__ import annotations

import io
import json
import resource
import tarfile
from pathlib import Path

import datasets
import pyarrow
import pytest
from pyarrow import parquet

from mixvec import UserError
from tests.fuzz import address_space
from tests.mutants import tar_mended
from tests.readers import assert_reads, find, write


def tar(path: Path, *members: tuple[str, bytes | str | Path]) -> Path:
    with tarfile.open(path, "w") as file:
        for name, content in members:
            data = content.read_bytes() if isinstance(content, Path) else content
            data = data.encode() if isinstance(data, str) else data
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def test_members_of_one_name_are_one_utterance(tmp_path: Path) -> None:
    """Grouped up to the first dot of the last part, however the members are mixed; hidden and foreign ones ignored."""
    a, b, c = write(tmp_path / "a.flac"), write(tmp_path / "b.wav", 0.75), write(tmp_path / "c.opus")
    shard = tar(
        tmp_path / "s.tar", ("x.1/utt.txt", "hello\n"), ("x.1/utt.speaker.flac", a), ("x.2/utt.wav", b),
        ("x.2/utt.cls", "7"), ("x.2/utt.JSON", json.dumps({"text": "from json", "label": "no"})), ("utt.Opus", c),
        ("./._utt.wav", b), ("x.2/utt.pth", b"?"), ("alone.txt", "nothing heard"), ("README", "read me"),
    )  # fmt: skip
    corpus = find(shard)
    assert corpus.skipped == []
    assert [u.source for u in corpus.utterances] == [
        f"{shard}/{n}" for n in ("x.1/utt.speaker.flac", "x.2/utt.wav", "utt.Opus")
    ]
    assert [(u.text, u.label) for u in corpus.utterances] == [("hello", None), ("from json", "7"), (None, None)]
    assert_reads(corpus.utterances[0], a)
    assert_reads(corpus.utterances[1], b)
    assert len(corpus.utterances[2].read()) == 8_000


def test_faults_of_members_are_counted(tmp_path: Path) -> None:
    a = write(tmp_path / "a.wav")
    shard = tar(
        tmp_path / "s.tar", ("a.wav", a), ("a.wav", a), ("b.wav", "no audio"), ("c.wav", a), ("c.txt", b"\xff"),
        ("d.wav", a), ("d.json", "{"), ("e.wav", a), ("e.flac", a), ("f.wav", a), ("f.txt", "x" * (1 << 20) + "x"),
        ("g.wav", b""), ("h.wav", a), ("h.json", "[1]"),
    )  # fmt: skip
    corpus = find(shard)
    assert [u.source for u in corpus.utterances] == [f"{shard}/{name}.wav" for name in "aeh"]
    for row, (source, reason) in zip(corpus.skipped, [
        ("a.wav", "a.wav and a.wav"),
        ("e.flac", "e.flac and e.wav"),
        ("b.wav", "b.wav: not audio that libsndfile can read"),
        ("c.wav", "c.wav: the members beside it cannot be read ('utf-8'"),
        ("d.wav", "d.wav: the members beside it cannot be read (Expecting"),
        ("f.wav", "f.wav: the members beside it cannot be read (f.txt is too large"),
        ("g.wav", "g.wav: not audio that libsndfile can read"),
    ], strict=True):  # fmt: skip
        assert row["source"] == f"{shard}/{source}"
        assert reason in row["reason"]


@pytest.mark.parametrize("name", ["../a.wav", "/etc/a.wav", "x/../../a.wav"])
def test_a_member_outside_of_its_tar_is_refused(tmp_path: Path, name: str) -> None:
    shard = tar(tmp_path / "s.tar", ("a.wav", write(tmp_path / "a.wav")), (name, b"?"))
    with pytest.raises(UserError, match=r"s\.tar: its member .*a\.wav is outside"):
        find(shard)


def test_a_damaged_tar_keeps_what_is_whole(tmp_path: Path) -> None:
    a = write(tmp_path / "a.wav")
    whole = tar(tmp_path / "s.tar", *((f"{name}.wav", a) for name in "abc")).read_bytes()
    each = 512 + (a.stat().st_size + 511) // 512 * 512

    def found(content: bytes) -> tuple[int, list[str]]:
        (tmp_path / "s.tar").write_bytes(content)
        corpus = find(tmp_path / "s.tar")
        assert_reads(corpus.utterances[0], a)
        return len(corpus.utterances), [row["reason"] for row in corpus.skipped]

    number, (reason,) = found(whole[: 2 * each + 5_000])
    assert number == 2 and reason.endswith("s.tar: cut off within c.wav; copy it again")
    number, (reason,) = found(whole[: 2 * each] + b"?" * 512 + whole[2 * each + 512 :])
    assert number == 2 and reason.endswith(f"s.tar: damaged at byte {2 * each}; what follows could not be read")
    number, (reason,) = found(whole[: 2 * each + 100])
    assert number == 2 and "damaged at byte" in reason
    assert found(whole[: 2 * each]) == (2, [])  # without the two blocks that end a tar, as some tools write it
    for content in (b"", b"no tar" * 200, whole[:100]):
        (tmp_path / "s.tar").write_bytes(content)
        with pytest.raises(UserError, match=r"s\.tar: (not an uncompressed tar|no readable)|no readable audio in it"):
            find(tmp_path / "s.tar")


@pytest.mark.parametrize("size", [-512, 1 << 33, 1 << 80])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_a_member_that_lies_about_its_size(tmp_path: Path, size: int, kind: bytes) -> None:
    """Backwards, which would be for ever; as the length of a name, which would be read into memory; beyond any file."""
    a = write(tmp_path / "a.wav")
    content = bytearray(tar(tmp_path / "s.tar", ("a.wav", a), ("b.wav", a), ("c.wav", a)).read_bytes())
    at = 512 + (a.stat().st_size + 511) // 512 * 512
    content[at + 124 : at + 136] = (b"\xff" if size < 0 else b"\x80") + size.to_bytes(11, "big", signed=size < 0)
    content[at + 156 : at + 157] = kind
    (tmp_path / "s.tar").write_bytes(tar_mended(bytes(content)))
    limit = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (address_space() + (1 << 30), limit[1]))
    try:
        corpus = find(tmp_path / "s.tar")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limit)
    assert_reads(corpus.utterances[0], a)
    assert "s.tar: cut off within b.wav" in corpus.reasons(1) or f"s.tar: damaged at byte {at}" in corpus.reasons(1)


def test_links_in_a_tar_are_not_followed(tmp_path: Path) -> None:
    a = write(tmp_path / "a.wav")
    with tarfile.open(tmp_path / "s.tar", "w") as file:
        file.add(a, "a.wav")
        for kind, name in ((tarfile.SYMTYPE, "b.wav"), (tarfile.LNKTYPE, "c.wav"), (tarfile.FIFOTYPE, "d.wav")):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, str(a)
            file.addfile(link)
    assert [u.source for u in find(tmp_path / "s.tar").utterances] == [f"{tmp_path}/s.tar/a.wav"]


def test_compressed_tars_and_splits_in_one_folder(tmp_path: Path) -> None:
    (tmp_path / "s.tar.gz").write_bytes(b"")
    with pytest.raises(UserError, match=r"data\.train=.*s\.tar\.gz: a compressed tar cannot be read in place"):
        find(tmp_path / "s.tar.gz")
    a = write(tmp_path / "x/a.wav")
    for name in ("train-000000.tar", "train-000001.tar", "test-000000.tar"):
        tar(tmp_path / name, ("a.wav", a))
    a.unlink()
    for labels in (False, True):
        with pytest.raises(UserError, match=r"several splits \(test, train\); name one, such as .*/train-\*\.tar$"):
            find(tmp_path, labels=labels)
    assert len(find(tmp_path / "train-*.tar").utterances) == 2


def test_a_tar_that_is_gone_or_has_changed(tmp_path: Path) -> None:
    shard = tar(tmp_path / "s.tar", ("a.wav", write(tmp_path / "a.wav")))
    (utterance,) = find(shard).utterances
    shard.write_bytes(b"?" * 20_000)
    with pytest.raises(UserError, match=r"s\.tar/a\.wav: not audio that libsndfile can read"):
        utterance.read()
    shard.unlink()
    with pytest.raises(UserError, match=r"s\.tar/a\.wav: cannot be opened \(No such file or directory\)"):
        utterance.read()


def test_parquet_rows_groups_and_class_names(tmp_path: Path) -> None:
    """Bytes or a path, any column name, named classes; faults by row; every row found again in its group."""
    audio = [write(tmp_path / f"{number}.flac", 0.3 + number / 100) for number in range(21)]
    stored = [{"bytes": path.read_bytes(), "path": path.name} for path in audio]
    stored[3], stored[20] = {"bytes": None, "path": str(audio[3])}, {"bytes": b"no audio", "path": None}
    made = datasets.Dataset.from_dict(
        {"id": list(range(21)), "speech": stored, "label": [0] * 20 + [1], "text": [str(n) for n in range(21)]}
    )
    made = made.cast_column("speech", datasets.Audio()).cast_column("label", datasets.ClassLabel(names=["off", "on"]))
    made.to_parquet(str(tmp_path / "t.parquet"), batch_size=10)
    assert parquet.ParquetFile(tmp_path / "t.parquet").num_row_groups == 3
    corpus = find(tmp_path / "t.parquet")
    assert [u.source for u in corpus.utterances] == [f"{tmp_path}/t.parquet[{row}]" for row in range(20)]
    assert [(u.text, u.label) for u in corpus.utterances] == [(str(n), "off") for n in range(20)]
    for utterance, path in zip(corpus.utterances, audio, strict=False):
        assert_reads(utterance, path)
    assert "t.parquet[20]: not audio that libsndfile can read" in corpus.skipped[0]["reason"]


def test_plain_parquet_and_arrow_files(tmp_path: Path) -> None:
    """A table that no Hugging Face tool wrote; rows without audio; an ``.arrow`` file alone."""
    a = write(tmp_path / "a.wav")
    rows = [{"bytes": a.read_bytes(), "path": "a.wav"}, None, {"bytes": None, "path": None},
            {"bytes": None, "path": "/gone.wav"}]  # fmt: skip
    parquet.write_table(pyarrow.table({"audio": rows, "transcript": ["a", "b", None, None]}), tmp_path / "t.parquet")
    corpus = find(tmp_path / "t.parquet")
    assert [u.text for u in corpus.utterances] == ["a"]
    assert_reads(corpus.utterances[0], a)
    assert [r["reason"].partition("t.parquet")[2] for r in corpus.skipped[:2]] == [
        "[1]: none in this row",
        "[2]: none in this row",
    ]
    assert "/gone.wav" in corpus.skipped[2]["reason"]
    made = datasets.Dataset.from_dict({"audio": rows[:1], "text": ["a"]}).cast_column("audio", datasets.Audio())
    made.save_to_disk(tmp_path / "set")
    (utterance,) = find(next((tmp_path / "set").glob("*.arrow"))).utterances
    assert utterance.text == "a"
    assert_reads(utterance, a)


def test_parquet_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    parquet.write_table(pyarrow.table({"text": ["a"]}), path)
    with pytest.raises(UserError, match=r"t\.parquet: no audio column in text; it needs a struct of bytes and path"):
        find(path)
    for content in (b"", b"PAR1", path.read_bytes()[:-20]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"t\.parquet: not Parquet that can be read \(") as caught:
            find(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("labelled", [True, False])
def test_parquet_that_claims_more_rows_than_it_holds(tmp_path: Path, labelled: bool) -> None:
    """Some more, which are skipped; so many that nothing could hold them."""
    rows = [{"bytes": write(tmp_path / "a.wav").read_bytes(), "path": "a.wav"}] * 40
    columns = {"audio": rows, "text": ["a"] * 40} if labelled else {"audio": rows}
    parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet", compression="none")
    whole = (tmp_path / "t.parquet").read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    forty = b"\x16\x50"  # a field of 64 bits that holds 40, as thrift writes it
    for claim, faults in ((b"\x16\x54", 0 if labelled else 2), (b"\x16\xff\xff\xff\xff\xff\xff\xff\xff\x7e", None)):
        lied = whole[: whole.rindex(forty)] + claim + whole[whole.rindex(forty) + 2 :]
        (tmp_path / "t.parquet").write_bytes(lied[:-8] + (len(lied) - 8 - footer).to_bytes(4, "little") + b"PAR1")
        if faults is None:
            with pytest.raises(UserError, match=r"t\.parquet: "):
                find(tmp_path / "t.parquet", labels=False)
        else:
            corpus = find(tmp_path / "t.parquet", labels=False)
            assert len(corpus.utterances) == 40
            assert [row["reason"].partition("t.parquet")[2] for row in corpus.skipped] == [
                "[40]: none in this row", "[41]: none in this row"
            ][:faults]  # fmt: skip
