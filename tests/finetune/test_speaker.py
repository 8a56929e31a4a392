"""Speaker verification: error rates against brute force, trial lists, VoxCeleb1's layout."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from finetune.config import FinetuneConfig
from finetune.sections import LabelledData
from finetune.tasks import Scored
from finetune.tasks.speaker import (
    SpeakerConfig,
    Task,
    all_pairs,
    equal_error_rate,
    min_dcf,
    placed,
    read_trials,
    with_margin,
)
from mixvec import SpeakerEmbedder, UserError
from mixvec.data.sources import Corpus
from mixvec.data.utterances import Utterance, Utterances
from tests.runs import SMALLEST, finetune
from tests.voice_corpora import trial_list, voxceleb


def test_error_rates_are_those_of_all_thresholds() -> None:
    """The equal error rate is where misses and false alarms cross, minDCF the least cost; every other case has ties."""
    rng = np.random.default_rng(0)
    for number in range(200):
        count = int(rng.integers(2, 40))
        same = rng.random(count) < rng.uniform(0.1, 0.9)
        same[0], same[1] = True, False
        scores = (rng.normal(size=count) + rng.uniform(-1, 3) * same).round(1 if number % 2 else 9)
        thresholds = [math.inf, *sorted(set(scores.tolist()), reverse=True)]
        rates = [(float(np.mean(scores[same] < t)), float(np.mean(scores[~same] >= t))) for t in thresholds]
        for (miss, alarm), (next_miss, next_alarm) in itertools.pairwise(rates):
            if miss >= alarm and next_miss <= next_alarm:
                gap, next_gap = miss - alarm, next_alarm - next_miss
                expected = (alarm * next_gap + next_alarm * gap) / (gap + next_gap)
        assert equal_error_rate(scores, same) == pytest.approx(expected, abs=1e-12)
        counts = np.where(np.arange(count) % 3, 1, 2)
        twice = np.repeat(scores, counts), np.repeat(same, counts)
        assert equal_error_rate(scores, same, counts) == pytest.approx(equal_error_rate(*twice), abs=1e-12)
        for p_target in (0.01, 0.05, 0.7):
            least = min(p_target * miss + (1 - p_target) * alarm for miss, alarm in rates)
            assert min_dcf(scores, same, p_target) == pytest.approx(least / min(p_target, 1 - p_target), abs=1e-12)


def test_pairs() -> None:
    pairs = all_pairs(["a", "b", "a"], 10)
    assert list(zip(pairs.first, pairs.second, pairs.same, strict=True)) == [(0, 1, False), (0, 2, True), (1, 2, False)]
    speakers = [f"s{i % 7}" for i in range(100)]
    drawn, again = all_pairs(speakers, 300), all_pairs(speakers, 300)
    assert len({*zip(drawn.first, drawn.second, strict=True)}) == 300 and (drawn.first < drawn.second).all()
    assert (drawn.first == again.first).all() and 0 < drawn.same.mean() < 0.5
    assert len(all_pairs(speakers, 4949).same) == 4949


def test_trial_lists(tmp_path: Path) -> None:
    file = trial_list(tmp_path / "trials.txt", extra="1 ./id10009/x/00001.wav ./id10001/vid0/00001.wav\n")
    sources = [f"/data/wav/id1000{s}/vid{v}/0000{n}.wav" for s in (1, 2) for v in (0, 1) for n in (1, 2)]
    trials, missing = placed(read_trials(file), sources)
    assert missing == ["id10009/x/00001.wav"] and trials.same.tolist() == [True, False, True, False]
    assert [sources[i][-21:] for i in trials.first[:2]] == ["id10001/vid0/00001.wav"[-21:]] * 2
    for text, message in (("2 a b\n", r"trials\.txt:1: .*'2 a b'"), ("\n", r"speaker\.trials=.*trials\.txt")):
        file.write_text(text)
        with pytest.raises(UserError, match=message):
            read_trials(file)
    with pytest.raises(UserError, match=r"speaker\.trials=.*nothing"):
        read_trials(tmp_path / "nothing")


def test_the_margin_turns_the_target_by_its_angle() -> None:
    angles = torch.linspace(0.05, math.pi - 0.05, 40)
    cosines = torch.stack([angles.cos(), torch.full_like(angles, 0.3)], dim=1)
    turned = with_margin(cosines, torch.zeros(40, dtype=torch.int64), 0.2)
    before = angles < math.pi - 0.2
    torch.testing.assert_close(turned[before, 0], (angles[before] + 0.2).cos())
    assert (turned[1:, 0] < turned[:-1, 0]).all(), "it falls everywhere"
    assert torch.equal(turned[:, 1], cosines[:, 1])
    torch.testing.assert_close(with_margin(cosines, torch.ones(40, dtype=torch.int64), 0.0), cosines)


def scored(points: dict[str, list[list[float]]]) -> list[Scored]:
    return [Scored(Utterance("a.wav", 1.0), name, point) for name, own in points.items() for point in own]


def test_scores_of_embeddings() -> None:
    train = Corpus("t", Utterances(Utterance(f"{i}", 1.0, fields={"speaker": str(i)}) for i in range(2)))
    task = Task(FinetuneConfig(task="speaker"), train)
    apart = scored({"a": [[1.0, 0.0], [0.9, 0.1]], "b": [[0.0, 1.0], [0.1, 0.9]]})
    assert task.score(apart) == {"eer": 0.0, "min_dcf_p01": 0.0, "min_dcf_p05": 0.0}
    assert task.report(apart, {}) == ["    6 trials, 2 of them of one speaker"]
    unread = [row._replace(prediction="" if number == 3 else row.prediction) for number, row in enumerate(apart)]
    assert task.score(unread)["eer"] == pytest.approx(0.5), "of 2 and 4 trials, 1 and 2 cannot be right"
    none = [row._replace(prediction="") for row in apart]
    assert task.score(none)["eer"] == 1.0
    crossed = scored({"a": [[1.0, 0.0], [0.0, 1.0]], "b": [[0.0, 1.0], [1.0, 0.0]]})
    assert task.score(crossed)["eer"] > 0.5


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training speakers 1 to 3, the test's 21 and 22, unpacked into one folder as people do."""
    root = tmp_path_factory.mktemp("vox")
    voxceleb(root, speakers=3)
    voxceleb(root, speakers=2, first=21)
    return root


def test_a_run_on_a_trial_list(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trials = trial_list(tmp_path / "veri_test.txt", first=21, extra="0 id10021/vid9/1.wav id10022/vid0/00001.wav\n")
    keys = ("task=speaker", f"data.train={archive}", "data.valid=null", f"data.test={archive}", "size=tiny", *SMALLEST,
            f"speaker.trials={trials}", "speaker.embedding=16", "speaker.crop_s=0.4", "run.updates=2")  # fmt: skip
    assert finetune("intent", archive, tmp_path / "run", *keys) == 0
    said = capsys.readouterr().out
    assert "WARNING data.test: 1 files of speaker.trials" in said and "1 of 5 trials" in said
    assert "4 trials, 2 of them of one speaker" in said
    results = json.loads((tmp_path / "run/results.json").read_text())["test"]
    assert set(results) == {"eer", "min_dcf_p01", "min_dcf_p05"} and 0 <= results["eer"] <= 1
    model = SpeakerEmbedder.from_pretrained(tmp_path / "run")
    assert model.speakers == ["id10001", "id10002", "id10003"], "the trials' speakers are not trained on"
    row = json.loads((tmp_path / "run/test.jsonl").read_text().splitlines()[0])
    assert len(row["prediction"]) == 16 and row["speaker"].startswith("id100")


def test_speakers_of_the_trials_are_left_out_by_the_label_that_is_asked_for(tmp_path: Path) -> None:
    trials = trial_list(tmp_path / "trials.txt", first=21)
    names = ["id10001", "id10002", "id10021", "id10022"]
    train = Corpus("t", Utterances(Utterance(f"{name}.wav", 1.0, fields={"id": name}) for name in names))
    config = FinetuneConfig(task="speaker", data=LabelledData(label="id"), speaker=SpeakerConfig(str(trials)))
    assert Task(config, train).labels == names[:2] and len(train.skipped) == 2


def test_bad_input_is_one_clear_line(archive: Path, tmp_path: Path) -> None:
    keys = ("task=speaker", f"data.train={archive}", "data.valid=null", "size=tiny", *SMALLEST)
    elsewhere = trial_list(tmp_path / "other.txt", first=50)
    with pytest.raises(UserError, match=r"speaker\.trials=.*data\.test.*id10050/"):
        finetune("intent", archive, tmp_path / "a", *keys, f"data.test={archive}", f"speaker.trials={elsewhere}")
    one = tmp_path / "one"
    (one / "id10001/v").mkdir(parents=True)
    (one / "id10001/v/1.wav").write_bytes((archive / "wav/id10001/vid0/00001.wav").read_bytes())
    for key in ("data.train", "data.test"):
        with pytest.raises(UserError, match=rf"{key}.*1 speakers"):
            finetune("intent", archive, tmp_path / key, *keys, f"{key}={one}")
