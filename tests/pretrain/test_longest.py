"""data.longest_share: the longest utterances of a corpus, and no others."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixvec import UserError
from mixvec.data.utterances import Utterance, Utterances
from tests.runs import pretrain

durations = st.lists(st.floats(0.1, 60).map(lambda s: round(s, 1)), min_size=1, max_size=30)


@settings(max_examples=200, deadline=None)
@given(seconds=durations, share=st.floats(0.01, 1.0))
def test_the_longest_make_up_their_share_and_not_one_more(seconds: list[float], share: float) -> None:
    """They keep their order, none could be left out, and the choice is the same each time."""
    everything = Utterances(Utterance(str(number), s) for number, s in enumerate(seconds))
    longest = everything.longest(share)
    assert longest == everything.longest(share)
    kept = [int(utterance.source) for utterance in longest]
    assert kept == sorted(set(kept)) and kept
    own = [seconds[number] for number in kept]
    left = [s for number, s in enumerate(seconds) if number not in kept]
    assert max(left, default=0) <= min(own)
    assert sum(own) >= share * sum(seconds) * (1 - 1e-6)
    assert sum(own) - min(own) < share * sum(seconds)


def test_among_equally_long_ones_no_folder_comes_first() -> None:
    equal = Utterances(Utterance(str(number), 30.0) for number in range(1000))
    kept = [int(utterance.source) for utterance in equal.longest(0.5)]
    assert len(kept) == 500 and 200 < sum(number < 500 for number in kept) < 300


def test_the_longest_utterances_alone(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pretrain(corpus, tmp_path / "run", "data.longest_share=0.5", "run.updates=1") == 0
    printed = re.search(r"the longest (\d+) of (\d+) ", capsys.readouterr().out)
    assert printed is not None and 0 < int(printed[1]) < int(printed[2]) / 2
    with pytest.raises(UserError, match=r"data\.longest_share \(0\.5 → 1\.0\)"):
        pretrain(corpus, tmp_path / "run", "run.updates=1")
