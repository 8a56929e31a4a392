"""The columns give back what was put in, in a tenth of the memory of objects."""

from __future__ import annotations

import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixvec.data.readers.archives import Tar
from mixvec.data.readers.parquet import ParquetColumn
from mixvec.data.readers.rows import Stored
from mixvec.data.readers.tables import Table
from mixvec.data.utterances import Utterance, Utterances

names = st.text(max_size=20) | st.binary(max_size=12).map(lambda name: name.decode("utf-8", "surrogateescape"))
TABLE = Table([{"audio": None}])
numbers = st.integers(0, 2**62)
holders = st.sampled_from([Tar("a.tar"), Tar("b.tar"), ParquetColumn("a.parquet", "audio"), TABLE])
stored = st.none() | st.builds(Stored, holders, numbers, numbers)
utterances = st.builds(
    Utterance, names, st.floats(0, 1e6), st.floats(0, 1e6), st.none() | names, st.none() | names,
    st.dictionaries(names, names, max_size=3), stored, numbers.map(lambda number: number % 100))  # fmt: skip


@given(made=st.lists(utterances, max_size=12), data=st.data())
def test_what_was_put_in_comes_out(made: list[Utterance], data: st.DataObject) -> None:
    table = Utterances(made)
    for own, meant in ((table, made), (table[1:-1], made[1:-1]), (table[::-2], made[::-2])):
        assert own == meant and list(own) == meant and len(own) == len(meant)
        assert [(u.stored, u.corpus_number) for u in own] == [(u.stored, u.corpus_number) for u in meant]
        assert own.durations_s.tolist() == [u.duration_s for u in meant]
        assert own.corpus_numbers.tolist() == [u.corpus_number for u in meant]
    kept = np.array(data.draw(st.lists(st.booleans(), min_size=len(made), max_size=len(made))), dtype=bool)
    again = np.array(data.draw(st.lists(st.booleans(), min_size=int(kept.sum()), max_size=int(kept.sum()))), dtype=bool)
    some = [u for u, keep in zip(made, kept, strict=True) if keep]
    assert table.where(kept) == some
    assert table.where(kept).where(again) == [u for u, keep in zip(some, again, strict=True) if keep]
    if made:
        assert table[-1] == made[-1] and table[-1].text == made[-1].text
        assert table[0].stored is None or table[0].stored == made[0].stored


def test_stretches_are_parts_of_what_they_are_taken_from() -> None:
    table = Utterances(
        [Utterance("a", 9.0, 1.0, "x", corpus_number=1), Utterance("b", 2.0), Utterance("c", 8.0, 5.0, corpus_number=2)]
    )
    some = table.where(np.array([True, False, True])).segments(
        np.array([1, 0, 1]), np.array([0.5, 2.0, 4.0]), np.array([3.0, 7.0, 4.0])
    )
    assert some == [Utterance("c", 3.0, 5.5), Utterance("a", 7.0, 3.0, "x"), Utterance("c", 4.0, 9.0)]
    assert some.durations_s.tolist() == [3.0, 7.0, 4.0] and some.corpus_numbers.tolist() == [2, 1, 2]
    assert some.where(np.array([False, True, True]))[0] == some[1] and [u.corpus_number for u in some[1:]] == [1, 2]
    assert pickle.loads(pickle.dumps(some)) == some and table[0].duration_s == 9.0


def test_a_table_stays_the_very_object() -> None:
    table = Utterances([Utterance("t[0]", 1.0, stored=Stored(TABLE, row)) for row in range(3)])
    assert [u.stored for u in table] == [(TABLE, row, -1) for row in range(3)]


def test_what_is_not_there_is_refused() -> None:
    table = Utterances([Utterance("a", 1.0), Utterance("b", 2.0)])
    for number in (2, -3):
        with pytest.raises(IndexError, match=f"utterance {number} of 2"):
            table[number]
    with pytest.raises(TypeError, match="a selection of utterances cannot grow"):
        table[:1].append(Utterance("c", 3.0))
    assert table != [Utterance("a", 1.0)] and table != 3 and Utterances() == []


@pytest.mark.slow
def test_a_hundred_thousand_take_little(tmp_path: Path) -> None:
    """At most 250 bytes each, names of 70 bytes included."""
    tracemalloc.start()
    table = Utterances(Utterance(f"/data/corpus/speaker-{n % 2000:05}/book/{n:020}.flac", 1.0) for n in range(100_000))
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(table) == 100_000 and taken < 250 * len(table)
