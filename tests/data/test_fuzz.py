"""Whatever is done to a file, it is read, skipped or refused: no crash, no hang, no memory without bound."""

from __future__ import annotations

from pathlib import Path

import pytest

from mixvec.data.sources import find_utterances
from tests.fuzz import offences
from tests.mutants import AUDIO, mutant, originals
from tests.readers import FORMS
from tests.runs import ROOT

MUTANTS = 2_400

SICK = """
import os, time
from tests import fuzz

harms = [lambda: None, lambda: os.kill(os.getpid(), 11), lambda: time.sleep(60), lambda: "samples"]
whole, few, at = fuzz.mutant, fuzz.originals, []
fuzz.HANG_S = 1
fuzz.originals = lambda folder: few(folder, [])
fuzz.mutant = lambda among, seed, number: at.append(number) or whole(among, seed, number)
fuzz.fault_of = lambda original: harms[at[-1]]() if at else None
fuzz.main()
"""


@pytest.mark.parametrize(
    ("count", "seed"), [(MUTANTS, 0), pytest.param(50_000, 1, marks=pytest.mark.soak)]
)  # fmt: skip
def test_whatever_is_done_to_a_file(tmp_path: Path, count: int, seed: int) -> None:
    assert list(offences(range(count), seed, tmp_path)) == []


def test_what_ends_the_process_is_named_and_kept_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sick.py").write_text(SICK)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    found = list(offences(range(4), 3, tmp_path / "kept", [str(tmp_path / "sick.py")]))
    for number, (path, what) in zip((1, 2, 3), found, strict=True):
        assert path == tmp_path / f"kept/3-{number}-{AUDIO[number][0]}" and path.is_file()
        assert ("Segmentation fault", "Timeout (0:00:01)!", "samples")[number - 1] in what


def test_every_kind_of_file_is_damaged_and_was_whole(tmp_path: Path) -> None:
    among = originals(tmp_path)
    assert len(among) == len(AUDIO) + len(FORMS) + 1
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
    assert hit == {path for original in among for path in original.files}
    assert same < MUTANTS / 20
