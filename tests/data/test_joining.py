"""data.join_s: which utterances are joined, what a joined one reads, and runs on joined utterances."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from mixvec import UserError
from mixvec.data.joining import join_neighbours
from mixvec.data.sources import Corpus, find_utterances
from mixvec.data.utterances import Utterance, Utterances
from tests.runs import finetune, identical, pretrain, weights

RATE_HZ = 16_000


def corpus_of(*utterances: Utterance) -> Corpus:
    return Corpus("corpus", Utterances(utterances))


def joined(join_s: float, *utterances: Utterance) -> list[tuple[str, float]]:
    """The names of the sources of each joined utterance, and its seconds."""
    corpus = corpus_of(*utterances)
    join_neighbours(corpus, join_s)
    return [("+".join(part.source for part in (u, *u.followed_by)), round(u.duration_s, 3)) for u in corpus.utterances]


def spoken(source: str, seconds: float, **values: object) -> Utterance:
    return Utterance(source, seconds, **values)  # type: ignore[arg-type]


def test_files_of_a_folder_are_joined_up_to_the_length() -> None:
    files = [spoken(f"d/{folder}/{n}.flac", 4.0) for folder in "ab" for n in range(3)]
    assert joined(8.0, *files) == [
        ("d/a/0.flac+d/a/1.flac", 8.0), ("d/a/2.flac", 4.0), ("d/b/0.flac+d/b/1.flac", 8.0), ("d/b/2.flac", 4.0),
    ]  # fmt: skip
    assert joined(7.9, *files) == [(file.source, 4.0) for file in files]
    assert joined(0.0, *files) == [(file.source, 4.0) for file in files]


def test_only_neighbours_are_joined() -> None:
    """A speaker that rows name decides; so does the order within a recording, and whether there is a text."""
    anna, ben = {"speaker": "anna"}, {"speaker": "ben"}
    pairs = [
        ((spoken("d/1", 1, fields=anna), spoken("d/2", 1, fields=ben)), 2),
        ((spoken("d/1", 1, fields=anna), spoken("e/2", 1, fields=anna)), 1),
        ((spoken("d/1", 1, fields=anna), spoken("d/2", 1)), 2),
        ((spoken("d/1", 1, start_s=0), spoken("d/1", 1, start_s=3)), 1),
        ((spoken("d/1", 1, start_s=3), spoken("d/1", 1, start_s=0)), 2),
        ((spoken("d/1", 1, corpus_number=0), spoken("d/2", 1, corpus_number=1)), 2),
        ((spoken("d/1", 1, text="a"), spoken("d/2", 1)), 2),
    ]
    for pair, count in pairs:
        assert len(joined(10.0, *pair)) == count, pair


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six files of a speaker each three, with texts. Read-only."""
    folder = tmp_path_factory.mktemp("joining")
    rows = []
    for n in range(6):
        noise = 0.1 * np.random.default_rng(n).standard_normal(RATE_HZ + 100 * n)
        soundfile.write(folder / f"{n}.wav", noise, RATE_HZ, subtype="FLOAT")
        rows.append({"file_name": f"{n}.wav", "text": f"word{n}", "speaker": f"s{n // 3}"})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_joined_utterance_reads_its_parts_end_to_end(folder: Path) -> None:
    corpus = find_utterances(str(folder), "data.train", labels=True)
    single = [utterance.read() for utterance in corpus.utterances]
    before = corpus.utterances.checksums()
    message = join_neighbours(corpus, 2.5)
    assert message is not None and "6 utterances are joined to 4" in message and "2.5" in message
    assert [u.text for u in corpus.utterances] == ["word0 word1", "word2", "word3 word4", "word5"]
    assert corpus.utterances.durations_s.sum() == pytest.approx(sum(map(len, single)) / RATE_HZ)
    assert corpus.utterances.checksums()["times"] != before["times"]
    third = corpus.utterances.where(np.array([False, False, True, False]))[0]
    whole = torch.cat(single[3:5])
    assert torch.equal(third.read(), whole)
    for start_s, duration_s in ((0.0, 0.5), (0.9, 0.4), (1.5, None), (1.01875, 0.5), (0.0, 1.01875)):
        begin = round(start_s * RATE_HZ)
        end = len(whole) if duration_s is None else begin + round(duration_s * RATE_HZ)
        assert torch.equal(third.read(start_s, duration_s), whole[begin:end]), start_s


def test_a_part_that_cannot_be_read_is_named(folder: Path, tmp_path: Path) -> None:
    utterance = Utterance(str(folder / "0.wav"), 2.0, followed_by=(Utterance(str(tmp_path / "gone.wav"), 1.0),))
    with pytest.raises(UserError, match=r"gone\.wav: no such file"):
        utterance.read()


def test_pretraining_on_joined_utterances_resumes_to_the_same_bits(
    folder: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the second of two updates an epoch."""
    keys = [f"data.train={folder}", "data.join_s=2.5", "run.save_every=1", "batch.update_s=3"]
    assert pretrain(corpus, tmp_path / "whole", *keys, "run.updates=4") == 0
    printed = capsys.readouterr().out
    assert "6 utterances are joined to 3" in printed and "2 updates an epoch" in printed, printed
    assert pretrain(corpus, tmp_path / "cut", *keys, "run.updates=4", "run.max_hours=1e-9") != 0
    assert pretrain(corpus, tmp_path / "cut", *keys, "run.updates=4") == 0
    assert identical(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    with pytest.raises(UserError, match=r"data\.join_s \(2\.5 → 4\.0\)"):
        pretrain(corpus, tmp_path / "cut", *keys, "data.join_s=4", "run.updates=4")


def test_fine_tuning_joins_texts_of_recognition_alone(corpus: Path, tmp_path: Path) -> None:
    keys = ["size=tiny", "encoder.dim=32", "encoder.num_layers=1", "run.updates=1", "run.eval_every=1"]
    assert finetune("asr", corpus, tmp_path / "asr", *keys, "data.join_s=20", "batch.max_s=40") == 0
    for task, name in (("intent", "join_s=5"), ("asr", "join_s=31"), ("asr", "join_s=-1")):
        with pytest.raises(UserError, match=rf"data\.{name}"):
            finetune(task, corpus, tmp_path / "no", *keys, f"data.{name}")
    with pytest.raises(UserError, match=r"data\.join_s .*data\.stream"):
        pretrain(corpus, tmp_path / "no", "data.join_s=5", "data.stream=true")
