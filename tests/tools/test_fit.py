"""tools.fit: the search and the straight line on made-up memories, a real update on this machine's own."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

from mixvec import UserError
from mixvec.training.config import load_config
from pretrain.config import PretrainConfig
from pretrain.objectives.contrastive import MaskedBatch, MaskedPrediction, Sums
from tests.runs import PRETRAIN, command, fresh
from tools import fit
from tools.fit import PRECISION, SHARE, Trial, largest, largest_on_line, measured

SMALLEST = [*PRETRAIN, "batch.update_s=200", "batch.max_s=20"]


def config() -> PretrainConfig:
    fresh()
    return load_config(PretrainConfig, SMALLEST, "")


def test_the_search_ends_close_under_the_edge() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        least, most = sorted(rng.uniform(1, 5000, 2))
        edge = float(rng.uniform(0, 6000))
        asked: list[float] = []

        def fits(seconds: float, edge: float = edge, asked: list[float] = asked) -> bool:
            assert all(seconds < other for other in asked if other > edge), "never more than what did not fit"
            asked.append(seconds)
            return seconds <= edge

        found = largest(fits, least, most)
        if edge < least:
            assert found is None and len(asked) == 1
        elif edge >= most:
            assert found == most
        else:
            assert found is not None and found <= edge < found + max(1.0, PRECISION * found)
        assert len(asked) < 30


def test_the_line_leaves_a_tenth_free() -> None:
    def measure(seconds: float) -> float:
        return 500 + 8 * seconds

    found = largest_on_line(measure, 2000, 10, 1e4)
    assert found is not None and measure(found) == pytest.approx(SHARE * 2000)
    assert largest_on_line(measure, 2000, 10, 100) == 100
    assert largest_on_line(measure, 600, 10, 1e4) is None
    assert largest_on_line(lambda _: 500.0, 2000, 10, 1e4) == 1e4, "what does not grow fits"


def test_out_of_memory_is_an_answer_and_other_errors_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device with room for 47 seconds of audio; after each failure it is free again."""
    forward, rows = MaskedPrediction.forward, []

    def narrow(self: MaskedPrediction, batch: MaskedBatch, *rest: Any) -> Sums:
        rows.append((len(batch.lengths), float(batch.lengths[0]) / 16_000))
        if float(batch.lengths.sum()) > 47 * 16_000:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return forward(self, batch, *rest)

    monkeypatch.setattr(MaskedPrediction, "forward", narrow)
    trial = Trial(config())
    found = largest(trial.fits, 5.0, 200.0)
    assert found is not None and 45 <= found < 50, "nine utterances of 5 s, or 47 of 1 s"
    assert {each_s for _, each_s in rows} == {1.0, 5.0}
    assert (4, 5.0) in rows and (20, 1.0) in rows, "of 20 s, in the longest and in the shortest utterances"
    monkeypatch.setattr(MaskedPrediction, "forward", lambda *_: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        trial.fits(10.0)


def test_what_waits_for_its_turn_is_held_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """200 s an update in batches of 20 s: the one at work and nine others, as the training loop has them."""
    made: list[float] = []
    trial = Trial(config())
    batch = trial.batch
    monkeypatch.setattr(trial, "batch", lambda seconds, each_s: (made.append(seconds), batch(seconds, each_s))[1])
    trial.update(20.0)
    assert made.count(20.0) == 9 + 2


def test_the_command_on_this_machine() -> None:
    """Two sizes measured, each in a process of its own."""
    done = command("tools.fit", *SMALLEST)
    assert done.returncode == 0, done.stderr
    small_s, small_mb, large_s, large_mb, free_mb = map(
        float, re.findall(r"(\d+) s take (\d+) MB and (\d+) s (\d+) MB, .*; (\d+) MB are free", done.stdout)[0]
    )
    assert (small_s, large_s) == (5, 15) and 100 < small_mb <= large_mb * 1.05 < free_mb
    assert re.search(r"^batch\.max_s=200 is the largest that fits: a whole update at once; now 20$", done.stdout, re.M)


def test_a_third_size_takes_what_the_line_says() -> None:
    wider = [*SMALLEST, "encoder.dim=128", "encoder.ffn_dim=512", "encoder.conv_channels=256"]
    at = {seconds: measured(wider, seconds) for seconds in (20.0, 60.0, 180.0)}
    found = largest_on_line(at.__getitem__, at[180.0] / SHARE, 20.0, 1e4)
    assert found == pytest.approx(180, rel=0.25)


def test_where_nothing_fits_it_says_what_to_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "measured", lambda keys, seconds: 500 + seconds)
    monkeypatch.setattr(fit, "free_bytes", lambda: 1e8)
    monkeypatch.setattr("sys.argv", ["fit", *SMALLEST])
    with pytest.raises(UserError, match=r"not one utterance of data\.max_s=5 s fits: lower data\.max_s"):
        fit.main()


def test_on_a_gpu_a_tenth_of_what_is_free_is_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stand-in for the device: 80 GB, half of them another's; what is tried there is tried on the CPU above."""
    shares: list[float] = []

    class Device:
        def __init__(self, config: PretrainConfig) -> None:
            assert shares, "the bound comes before the model"

        def fits(self, seconds: float) -> bool:
            return seconds <= 131.5

    monkeypatch.setattr(fit, "Trial", Device)
    for name, answer in (("is_available", True), ("mem_get_info", (40e9, 80e9)), ("get_device_name", "a device")):
        monkeypatch.setattr(torch.cuda, name, lambda answer=answer: answer)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", shares.append)
    monkeypatch.setattr("sys.argv", ["fit", *SMALLEST])
    fit.main()
    assert shares == [pytest.approx(0.45)]
    found = re.search(r"^batch\.max_s=(\d+) is the largest that fits; now 20$", capsys.readouterr().out, re.M)
    assert found and 127 <= int(found[1]) <= 131


def test_what_its_process_says_is_told() -> None:
    with pytest.raises(UserError, match=r"fp16 needs a GPU"):
        measured([*SMALLEST, "run.precision=fp16"], 5.0)
