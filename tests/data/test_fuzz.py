"""Whatever is done to a file, it is read, skipped or refused: no crash, no hang, no memory without bound."""

from __future__ import annotations

from pathlib import Path

import pytest

from mixvec.data.sources import find_utterances
from tests import fuzz
from tests.mutants import AUDIO, mutant, originals
from tests.readers import FORMS
from tests.runs import ROOT

MUTANTS = 2_400

SICK = """
import os, sys, time
from tests import fuzz

harms = [
    lambda: os.write(1, b"chatter\\n") * 0 or None, lambda: os.kill(os.getpid(), 11), lambda: time.sleep(60),
    lambda: "told",
]
whole, few, at = fuzz.mutant, fuzz.originals, []
fuzz.HANG_S = 1
fuzz.originals = lambda folder: few(folder, [])
fuzz.mutant = lambda among, seed, number: at.append(number) or whole(among, seed, number)
fuzz.fault_of = lambda original: harms[at[-1]]() if at else None
fuzz.main()
"""


def test_whatever_is_done_to_a_file(tmp_path: Path) -> None:
    assert list(fuzz.offences(range(MUTANTS), 0, tmp_path)) == []


@pytest.mark.soak
def test_whatever_is_done_to_many_files(tmp_path: Path) -> None:
    assert fuzz.fuzz(50_000, 1, tmp_path) == 0


def test_what_ends_the_process_is_named_and_kept_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sick.py").write_text(SICK)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    crash, hang, told = fuzz.offences(range(4), 3, tmp_path / "kept", [str(tmp_path / "sick.py")])
    assert (crash.number, hang.number, told.number) == (1, 2, 3)
    assert "exit code -11" in crash.what and "Segmentation fault" in crash.what
    assert "exit code 1" in hang.what and "Timeout (0:00:01)!" in hang.what
    assert told.what == "told"
    for offence in (crash, hang, told):
        name = AUDIO[offence.number][0]
        assert offence.kept == tmp_path / f"kept/3-{offence.number}-{name}-{name}"
        *_, content = mutant(originals(tmp_path / f"{offence.number}", []), 3, offence.number)
        assert offence.kept.read_bytes() == content


def test_the_originals_are_whole(tmp_path: Path) -> None:
    for original in originals(tmp_path):
        corpus = find_utterances(str(original.source), "data.train", labels=original.labels)
        assert corpus.skipped == []
        for utterance in corpus.utterances:
            assert len(utterance.read()) == pytest.approx(utterance.duration_s * 16_000, abs=2)


def test_every_kind_of_file_is_damaged_and_mutants_can_be_had_again(tmp_path: Path) -> None:
    among = originals(tmp_path)
    assert len(among) == len(AUDIO) + len(FORMS) + 1
    hit, same = set(), 0
    for number in range(MUTANTS):
        original, path, content = mutant(among, 0, number)
        hit.add(path)
        same += content == path.read_bytes()
        if number < 100:
            assert mutant(among, 0, number) == (original, path, content)
    assert hit == {path for original in among for path in original.files}
    assert same < MUTANTS / 20
