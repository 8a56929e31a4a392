"""Yardsticks of frozen frames: each against a plain definition, and the whole on a model, log-mel and noise."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import mutual_info_score
from torch import Tensor

from mixvec import UserError, build_encoder, encoder_config
from mixvec.model.config import LOG_MEL
from tests.golden import abx as golden_abx
from tests.runs import pretrain
from tools.espeak import SAMPLE_RATE_HZ, Phone, synthesise
from tools.probe import frames
from tools.probe.frames import abx_error, dtw_distances, labelled_frames, linear_accuracy, phones_at, speech


def test_phonemes_and_their_times() -> None:
    """In order, without gaps, to the end of the audio; vowels are louder than pauses; the audio stays as it is."""
    phones: list[Phone] = []
    waveform = synthesise("see me now", "en-us", phones=phones)
    assert np.array_equal(waveform, synthesise("see me now", "en-us"))
    names = [phone.name for phone in phones if not phone.name.startswith("_")]
    assert names == ["s", "i:", "m", "i:", "n", "aU"]
    assert all(a.end_s == b.start_s for a, b in itertools.pairwise(phones))
    assert phones[-1].end_s == pytest.approx(len(waveform) / SAMPLE_RATE_HZ, abs=0.01)

    def level(phone: Phone) -> float:
        part = waveform[int(phone.start_s * SAMPLE_RATE_HZ) : int(phone.end_s * SAMPLE_RATE_HZ)]
        return float(np.sqrt(np.square(part).mean())) if len(part) else 0.0

    pauses = [level(phone) for phone in phones if phone.name.startswith("_")]
    assert min(level(phone) for phone in phones if phone.name in ("i:", "aU")) > 3 * max(pauses, default=0.0)


def test_frames_get_the_phoneme_in_their_middle() -> None:
    """At 25 frames/s frame t sees the 10 ms frames 4t to 4t + 6, so its middle is at 40 t + 30 ms."""
    phones = [Phone("a", 0.0, 0.05), Phone("_", 0.05, 0.1), Phone("b", 0.1, 0.2)]
    encoder = build_encoder(encoder_config("tiny"))
    assert phones_at(phones, encoder, 6) == ["a", None, "b", "b", "b", None]
    assert phones_at(phones, build_encoder(LOG_MEL), 7) == ["a"] * 5 + [None] * 2


def test_linear_accuracy_is_that_of_softmax_regression() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(5, 8)) * 2
    labels = rng.integers(0, 5, 1200)
    x = centres[labels] + rng.normal(size=(1200, 8)) * 2
    train, test = torch.tensor(x[:800]).float(), torch.tensor(x[800:]).float()
    own, other = torch.tensor(labels[:800]), torch.tensor(labels[800:])
    expected = LogisticRegression(max_iter=1000).fit(x[:800], labels[:800]).score(x[800:], labels[800:])
    assert linear_accuracy(train, own, test, other) == pytest.approx(expected, abs=0.02)


def test_purity_and_pnmi_are_those_of_their_definitions() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 6, 3000)
    units = np.where(rng.random(3000) < 0.7, labels * 2 + rng.integers(0, 2, 3000), rng.integers(0, 12, 3000))
    purity, pnmi = frames.purity_and_pnmi(torch.tensor(units), torch.tensor(labels))
    best = sum(np.bincount(labels[units == unit]).max() for unit in range(12)) / 3000
    shares = np.bincount(labels) / 3000
    assert purity == pytest.approx(best)
    assert pnmi == pytest.approx(mutual_info_score(labels, units) / -(shares * np.log(shares)).sum())
    assert frames.purity_and_pnmi(torch.tensor(labels), torch.tensor(labels)) == pytest.approx((1.0, 1.0))


def test_rankme_counts_dimensions_in_use() -> None:
    assert frames.rankme(torch.eye(6).repeat(4, 1)) == pytest.approx(6)
    assert frames.rankme(torch.linspace(1, 2, 30).unsqueeze(1) * torch.ones(6)) == pytest.approx(1, abs=1e-6)


def path_cost(a: Tensor, b: Tensor) -> float:
    """Dynamic time warping, one cell at a time."""
    unit = torch.nn.functional.normalize(a, dim=1) @ torch.nn.functional.normalize(b, dim=1).T
    cost = np.arccos(unit.numpy().clip(-1, 1)) / math.pi
    best: dict[tuple[int, int], tuple[float, int]] = {}
    for i in range(len(a)):
        for j in range(len(b)):
            before = [best[p] for p in ((i - 1, j - 1), (i - 1, j), (i, j - 1)) if p in best]
            total, steps = min(before, key=lambda found: found[0]) if before else (0.0, 0)
            best[i, j] = total + float(cost[i, j]), steps + 1
    total, steps = best[len(a) - 1, len(b) - 1]
    return total / steps


def test_distances_are_those_of_dynamic_time_warping() -> None:
    generator = torch.Generator().manual_seed(0)
    words = [torch.randn(length, 5, generator=generator) for length in (4, 7, 3, 6)]
    found = dtw_distances(words)
    assert torch.equal(found, found.T)
    for a in range(4):
        for b in range(a, 4):
            assert float(found[a, b]) == pytest.approx(path_cost(words[a], words[b]), abs=1e-4)
    slow = words[0].repeat_interleave(3, dim=0)
    assert float(dtw_distances([words[0], slow])[0, 1]) == pytest.approx(0.0, abs=1e-3), "speed does not matter"


def test_abx_is_that_of_its_definition() -> None:
    generator = torch.Generator().manual_seed(3)
    labels, speakers = ["a", "b", "a", "b", "c", "c"], ["x", "x", "y", "y", "x", "y"]
    words = [torch.randn(3, 4, generator=generator) for _ in labels]
    distance = dtw_distances(words)
    pairs: dict[tuple[str, str], list[float]] = {}
    for a in range(6):
        for b in range(6):
            for x in range(6):
                if labels[a] == labels[x] != labels[b] and speakers[a] == speakers[b] != speakers[x]:
                    pairs.setdefault((labels[a], labels[b]), []).append(float(distance[a, x] > distance[b, x]))
    expected = np.mean([np.mean(found) for found in pairs.values()])
    assert abx_error(words, labels, speakers) == pytest.approx(expected)
    own = [torch.eye(4)["abc".index(label)].repeat(3, 1) for label in labels]
    assert abx_error(own, labels, speakers) == 0.0
    with pytest.raises(UserError, match="--words"):
        abx_error(words[:2], labels[:2], speakers[:2])


def test_log_mel_tells_phonemes_better_than_chance_and_worse_than_perfectly() -> None:
    encoder, names = build_encoder(LOG_MEL), {}
    train = labelled_frames(encoder, speech(20, ("en-us+f1", "en-us+m1"), 0), names)
    test = labelled_frames(encoder, speech(10, ("en-us+f3",), 1), names)
    accuracy = linear_accuracy(train[0][0], train[1], test[0][0], test[1])
    assert 2 * float(np.bincount(test[1]).max()) / len(test[1]) < accuracy < 0.9


@pytest.mark.slow
def test_the_command(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pretrain(corpus, tmp_path / "run", "run.updates=1") == 0
    rows = []
    for voice, word in itertools.product(("en-us+f1", "en-us+m1"), ("yes", "no", "seven")):
        soundfile.write(tmp_path / f"{word}-{voice}.wav", synthesise(word, voice), SAMPLE_RATE_HZ)
        rows.append({"file_name": f"{word}-{voice}.wav", "label": word, "speaker": voice})
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run, out = str(tmp_path / "run"), str(tmp_path / "out")
    monkeypatch.setattr("sys.argv", ["frames", run, "--seconds", "8", "--out", out, "--words", str(tmp_path)])
    frames.main()
    table = (tmp_path / "out/frames.md").read_text()
    assert table in capsys.readouterr().out
    models = [line.split("|")[1].strip() for line in table.splitlines()[2:]]
    assert models == [run] * 3 + ["random"] * 3 + ["log-mel"]
    with pytest.raises(UserError, match="--words"):
        frames.find_words(str(corpus / "asr/test"), 10)


def test_abx_equals_fastabx() -> None:
    frames, labels, speakers = golden_abx.words()
    assert abx_error([torch.from_numpy(word) for word in frames], labels, speakers) == pytest.approx(
        golden_abx.ERROR, abs=1e-7
    )
