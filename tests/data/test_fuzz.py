"""Whatever is done to a file, it is read, skipped or refused: no crash, no hang, no memory without bound."""

from __future__ import annotations

from pathlib import Path

import pytest

from mixvec.data.sources import find_utterances
from tests.fuzz import fault_of, offences
from tests.mutants import AUDIO, AV, Original, mutant, originals, own_forms
from tests.readers import FORMS

MUTANTS = 1_500


@pytest.mark.parametrize(
    ("count", "seed"), [(MUTANTS, 0), pytest.param(50_000, 1, marks=pytest.mark.soak)]
)  # fmt: skip
def test_whatever_is_done_to_a_file(tmp_path: Path, count: int, seed: int) -> None:
    assert list(offences(count, seed, tmp_path)) == []


def test_every_kind_of_file_is_damaged_and_was_whole(tmp_path: Path) -> None:
    among = originals(tmp_path)
    assert len(among) == len(AUDIO) + len(AV) + len(FORMS) + len(own_forms())
    for original in among:
        corpus = find_utterances(str(original.source), "data.train", labels=original.labels)
        assert corpus.skipped == []
        for utterance in corpus.utterances:
            assert len(utterance.read()) == pytest.approx(utterance.duration_s * 16_000, abs=2)
    hit, same = set(), 0
    for number in range(MUTANTS):
        _, path, content = mutant(among, 0, number)
        hit.add(path)
        same += content == path.read_bytes()
    assert all(hit & set(original.files) for original in among)
    assert same < MUTANTS / 20


@pytest.mark.parametrize(("content", "what"), [(b"", "not a line"), (b"x" * 9, "names no file")])
def test_an_offence_is_found(tmp_path: Path, content: bytes, what: str) -> None:
    path = tmp_path / ("a\nline.wav" if not content else "a.wav")
    path.write_bytes(content)
    assert what in (fault_of(Original("a", path, [path], labels=False)) or "")
