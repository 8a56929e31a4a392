"""A frozen encoder's frames on disk: the same scores bit for bit, computed once, for every head."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune.config import FinetuneConfig
from finetune.sections import AugmentConfig, LabelledData
from mixvec import SpeechEncoder, UserError
from mixvec.data.config import WaveformAugmentConfig
from tests.runs import SMALLEST, finetune, identical, weights

PLAIN = ("augment.time_prob=0", "augment.channel_prob=0", "freeze=1", "run.updates=2", "run.eval_every=2")


@pytest.fixture
def start(source: Path) -> str:
    return f"pretrained={source}"


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows the encoder computes."""
    calls: list[int] = []
    forward = SpeechEncoder.forward

    def count(self, waveforms, lengths=None, *, every_layer=True):  # type: ignore[no-untyped-def]
        calls.append(len(waveforms))
        return forward(self, waveforms, lengths, every_layer=every_layer)

    monkeypatch.setattr(SpeechEncoder, "forward", count)
    return calls


def test_scores_are_bitwise_the_same_with_and_without(
    corpus: Path, tmp_path: Path, start: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = (start, *PLAIN, "run.updates=4", "head.layers=weighted", f"data.test={corpus}/asr/test")
    calls, cache = counted(monkeypatch), f"cache.dir={tmp_path / 'cache'}"
    assert finetune("asr", corpus, tmp_path / "plain", *keys) == 0
    without = len(calls)
    assert finetune("asr", corpus, tmp_path / "filling", *keys, cache) == 0
    filling = len(calls) - without
    assert finetune("asr", corpus, tmp_path / "taking", *keys, cache, "batch.max_s=30.5") == 0
    assert len(calls) == without + filling and filling == 6 + 3 + 4 < without, "each utterance is computed once"
    for name in ("filling", "taking"):
        for file in ("valid.jsonl", "test.jsonl"):
            assert (tmp_path / name / file).read_text() == (tmp_path / "plain" / file).read_text()
    assert identical(weights(tmp_path / "plain"), weights(tmp_path / "filling"))
    results = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("plain", "filling", "taking")]
    assert results[0] == results[1] == results[2]
    (folder,) = (tmp_path / "cache").iterdir()
    assert len(list(folder.glob("*/*.safetensors"))) == 13
    assert finetune("intent", corpus, tmp_path / "other", start, *PLAIN, "head.layers=weighted", cache) == 0
    assert list((tmp_path / "cache").iterdir()) == [folder], "another head takes from the same place"


def test_another_encoder_or_choice_finds_nothing_and_damage_is_repaired(
    corpus: Path, tmp_path: Path, start: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = f"cache.dir={tmp_path / 'cache'}"
    assert finetune("intent", corpus, tmp_path / "a", start, *PLAIN, cache) == 0
    assert finetune("intent", corpus, tmp_path / "b", start, "baseline=random", *PLAIN, cache) == 0
    assert finetune("intent", corpus, tmp_path / "c", start, "cache.dtype=fp16", *PLAIN, cache) == 0
    sizes = [sum(f.stat().st_size for f in at.glob("*/*")) for at in (tmp_path / "cache").iterdir()]
    assert len(sizes) == 3 and min(sizes) < 0.6 * max(sizes)
    for file in (tmp_path / "cache").glob("*/*/*"):
        file.write_bytes(file.read_bytes()[:100])
    calls = counted(monkeypatch)
    assert finetune("intent", corpus, tmp_path / "d", start, *PLAIN, cache) == 0
    assert calls and (tmp_path / "a/valid.jsonl").read_text() == (tmp_path / "d/valid.jsonl").read_text()


def test_when_utterances_are_encoded_alone() -> None:
    still = AugmentConfig(time_prob=0, channel_prob=0)
    plain = FinetuneConfig(pretrained="run", freeze=1, augment=still)
    assert plain.encodes_alone(training=True)
    noisy = LabelledData(augment=WaveformAugmentConfig(speed=(0.9, 1.1)))
    for other in (
        FinetuneConfig(pretrained="run", freeze=1),
        FinetuneConfig(pretrained="run", freeze=1, augment=still, data=noisy),
    ):
        assert other.encodes_alone(training=False) and not other.encodes_alone(training=True)
    thawed = FinetuneConfig(pretrained="run", freeze=0.9, augment=still)
    assert not thawed.encodes_alone(training=False)


def test_a_cache_that_cannot_be_used_or_written_is_named(corpus: Path, tmp_path: Path, start: str) -> None:
    for keys in ((start, *PLAIN, "freeze=0.5"), ("size=tiny", *SMALLEST, *PLAIN[1:])):
        with pytest.raises(UserError, match=r"cache\.dir.*freeze=1"):
            finetune("intent", corpus, tmp_path / "none", *keys, f"cache.dir={tmp_path / 'cache'}")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cache\.dir=.*file"):
        finetune("intent", corpus, tmp_path / "run", start, *PLAIN, f"cache.dir={tmp_path / 'file'}")
