"""Energy, counted by a fake ``pynvml`` of a few lines."""

from __future__ import annotations

import math
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mixvec.training import device
from mixvec.training.device import Energy
from tests.runs import pretrain, rows


def on_gpu(patch: pytest.MonkeyPatch, millijoules: list[int], rank: int = 0, uuids: tuple[str, ...] = ("a",)) -> Energy:
    """The meter of a rank, whose GPU is the one of ``uuids`` at its number and shows ``millijoules`` in turn."""
    counter = {f"GPU-{uuids[rank]}": iter(millijoules)}
    nvml = SimpleNamespace(nvmlInit=lambda: None, nvmlDeviceGetHandleByUUID=counter.__getitem__,
                           nvmlDeviceGetTotalEnergyConsumption=next)  # fmt: skip
    patch.setitem(sys.modules, "pynvml", nvml)
    patch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid=uuids[rank]))
    patch.setattr(device, "gather_object", lambda _: [f"GPU-{uuid}" for uuid in uuids])
    accelerator: Any = SimpleNamespace(device=torch.device("cuda"), process_index=rank)
    return Energy(accelerator)


def test_a_gpu_is_found_by_its_uuid_and_counted_by_its_first_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = on_gpu(monkeypatch, [2**33, 2**33 + 1500, 2**33 + 2500])
    assert [meter.drawn_j(), meter.drawn_j()] == [1.5, 2.5]
    for rank, uuids, drawn_j in ((0, ("a", "a"), 1.0), (1, ("a", "a"), 0.0), (1, ("b", "a"), 1.0)):
        assert on_gpu(monkeypatch, [0, 1000], rank, uuids).drawn_j() == drawn_j


def test_without_a_counter_the_energy_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu: Any = SimpleNamespace(device=torch.device("cpu"), process_index=0)
    assert math.isnan(Energy(cpu).drawn_j())
    assert math.isnan(on_gpu(monkeypatch, []).drawn_j()), "NVML raises"
    meter = on_gpu(monkeypatch, [1, 2])
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert math.isnan(meter.drawn_j()), "not installed"


def test_energy_is_logged_and_added_up_over_sessions(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def resumed_kwh() -> list[float | None]:
        shutil.rmtree(run / "checkpoints/update_00000004", ignore_errors=True)
        assert pretrain(corpus, run, "run.updates=4", "run.save_every=2", "run.log_every=2") == 0
        return [row.get("energy_kwh") for row in rows(run)]

    run, drawn = tmp_path / "run", iter(range(10**6))
    with monkeypatch.context() as patch:
        patch.setattr(Energy, "drawn_j", lambda _: 3600.0 * next(drawn))
        first, last = resumed_kwh()
        assert (
            first is not None and last is not None and first < last and f"  {last:.3g} kWh  " in capsys.readouterr().out
        )
        assert resumed_kwh()[1] > last
    assert resumed_kwh() == [first, None], "this session has no counter"
