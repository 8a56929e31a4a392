"""Texts and labels arrive as they are written in every kind of table, or are refused with file and line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from mixvec import UserError
from tests.readers import find, write, write_text

NAN = float("nan")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in "abcd":
        write(tmp_path / f"{name}.wav")
    return tmp_path


def read(path: Path) -> list[tuple[str | None, str | None]]:
    return [(u.text, u.label) for u in find(path).utterances]


@pytest.mark.parametrize("form", ["jsonl", "array", "object", "parquet"])
def test_nothing_is_no_word_and_no_class(folder: Path, form: str) -> None:
    """NaN, null and the empty text; and one class for 1 and 1.0, spaces and unseen marks around, composed or not."""
    rows: list[dict[str, Any]] = [
        {"file_name": "a.wav", "text": NAN if form != "parquet" else None, "label": None},
        {"file_name": "b.wav", "text": "", "label": "1.0" if form == "parquet" else 1.0},
        {"file_name": "c.wav", "text": "nan bread", "label": "1" if form == "parquet" else 1},
        {"file_name": "d.wav", "text": " as it is ", "label": " \ufeffcafe\u0301  noir\u200b "},
    ]
    if form == "jsonl":
        path = write_text(folder / "m.jsonl", *map(json.dumps, rows))
    elif form == "parquet":
        path = folder / "m.parquet"
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path = write_text(folder / "m.json", json.dumps(rows if form == "array" else {"data": rows}, indent=1))
    assert read(path) == [(None, None), (None, "1"), ("nan bread", "1"), (" as it is ", "café noir")]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_a_csv_however_it_was_saved(folder: Path, encoding: str, end: str, delimiter: str) -> None:
    rows = ["file_name,text,label", 'a.wav,"one; two, |three",yes ', "b.wav,,", "c.wav,nan,1.0", "d.wav,4.0,1"]
    text = "".join(row.replace(",", delimiter).replace(f"{delimiter} |three", ", |three") + end for row in rows)
    (folder / "m.csv").write_bytes(text.encode(encoding))
    assert read(folder / "m.csv") == [("one; two, |three", "yes"), (None, None), (None, "1"), ("4.0", "1")]


@pytest.mark.parametrize("name", ["m.csv", "m.tsv"])
def test_a_row_with_more_cells_than_its_header_is_refused(folder: Path, name: str) -> None:
    cut = "\t" if name == "m.tsv" else ","
    rows = [["file_name", "text"], ["a.wav", "fine"], ["b.wav", "turn on the light", " please"]]
    with pytest.raises(UserError, match=rf"{name}:3: 3 cells under a header of 2"):
        find(write_text(folder / name, *(cut.join(row) for row in rows)))


def test_quotes_of_a_tsv(folder: Path) -> None:
    """As pandas writes them, and as they are in a corpus that knows no quoting."""
    rows = ["path\tlabel\ttext", 'a.wav\tx\t"he said ""no"""', 'b.wav\tx\t"Hello."', 'c.wav\tx\ta "b" c', "d.wav\tx\t'"]
    texts = [text for text, _ in read(write_text(folder / "m.tsv", *rows))]
    assert texts == ['he said "no"', '"Hello."', 'a "b" c', "'"]


def test_a_value_that_is_no_text_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"m\.jsonl:1: text="):
        find(write_text(folder / "m.jsonl", '{"file_name": "a.wav", "text": {"en": "yes"}}'))
    with pytest.raises(UserError, match=r"m\.json\[1\]: a row"):
        find(write_text(folder / "m.json", '[{"file_name": "a.wav", "text": ["two", "words"]}, 3]'))
