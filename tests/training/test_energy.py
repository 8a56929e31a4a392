"""Energy, against counters that the tests turn themselves: a tree such as the kernel's, and an NVML of five lines."""

from __future__ import annotations

import ctypes
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from mixvec.training import energy
from mixvec.training.energy import Energy
from tests.runs import finetune, fresh, pretrain, rows


def zone(folder: Path, name: str, kind: str, microjoules: int, most: int = 10**12) -> Path:
    """A zone of /sys/class/powercap; the file of its counter."""
    (folder / name).mkdir(parents=True)
    for file, content in (("name", kind), ("energy_uj", microjoules), ("max_energy_range_uj", most)):
        (folder / name / file).write_text(f"{content}\n")
    return folder / name / "energy_uj"


@pytest.fixture
def powercap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the tests' zones lie; with none in it, a processor that tells nothing."""
    monkeypatch.setattr(energy, "POWERCAP", tmp_path / "powercap")
    return tmp_path / "powercap"


def measured(device: str = "cpu", rank: int = 0) -> Energy:
    fresh()
    found: Any = Accelerator(cpu=True)
    return Energy(SimpleNamespace(device=torch.device(device), process_index=rank, num_processes=found.num_processes))


def test_packages_are_added_and_their_parts_are_not(powercap: Path) -> None:
    one, other = zone(powercap, "intel-rapl:0", "package-0", 5_000_000), zone(powercap, "intel-rapl:1", "package-1", 7)
    part = zone(powercap, "intel-rapl:0:0", "core", 1)  # counted in its package already
    whole, again = zone(powercap, "intel-rapl:2", "psys", 1), zone(powercap, "intel-rapl-mmio:0", "package-0", 1)
    found = measured()
    assert found.drawn_j() == 0.0
    for file, microjoules in ((one, 8_000_000), (other, 2_000_007), (part, 10**9), (whole, 10**9), (again, 10**9)):
        file.write_text(str(microjoules))
    assert found.drawn_j() == pytest.approx(5.0)
    assert found.drawn_j() == pytest.approx(5.0), "asking costs nothing"


def test_a_counter_that_has_run_over_went_on(powercap: Path) -> None:
    file = zone(powercap, "intel-rapl:0", "package-0", 60_000_000, most=65_000_000)
    found = measured()
    for microjoules in (4_000_000, 64_000_000, 3_000_000):  # 9 + 60 + 4 J
        file.write_text(str(microjoules))
        found.follow()
    assert found.drawn_j() == pytest.approx(73.0)


def test_where_nothing_tells_there_is_no_number(powercap: Path) -> None:
    assert math.isnan(measured().drawn_j())
    file = zone(powercap, "intel-rapl:0", "package-0", 1)
    found = measured()
    file.unlink()  # as it is for all but root
    found.follow()
    assert math.isnan(found.drawn_j())


class Nvml:
    """What the driver's library would do."""

    def __init__(self, millijoules: list[int], fails: str = "") -> None:
        self.millijoules, self.fails, self.asked = millijoules, fails, b""

    def __getattr__(self, name: str) -> Any:
        return (lambda *arguments: 3) if name == self.fails else getattr(self, "_" + name)

    def _nvmlInit_v2(self) -> int:
        return 0

    def _nvmlDeviceGetHandleByUUID(self, uuid: bytes, handle: Any) -> int:
        self.asked, handle._obj.value = uuid, 2**40
        return 0

    def _nvmlDeviceGetTotalEnergyConsumption(self, handle: Any, found: Any) -> int:
        assert handle.value == 2**40
        found._obj.value = self.millijoules.pop(0)
        return 0


def test_a_gpu_is_asked_by_its_uuid(powercap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever CUDA_VISIBLE_DEVICES makes its number."""
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="1a2b-3c"))
    library = Nvml([2**33, 2**33 + 1500, 2**33 + 2500])
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    found = measured("cuda:0")
    found.follow()  # its counter does not run over, and is left alone
    assert [found.drawn_j(), found.drawn_j()] == [1.5, 2.5]
    assert library.asked == b"GPU-1a2b-3c"


@pytest.mark.parametrize("fails", ["library", "nvmlInit_v2", "nvmlDeviceGetHandleByUUID",
                                   "nvmlDeviceGetTotalEnergyConsumption"])  # fmt: skip
def test_a_gpu_that_does_not_tell(fails: str, powercap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the library, or with a device older than Volta, or a part of one; the processor does not stand in."""

    def library(name: str) -> Any:
        if fails == "library":
            raise OSError(f"{name}: cannot open shared object file")
        return Nvml([1, 2, 3], fails)

    zone(powercap, "intel-rapl:0", "package-0", 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="1a2b-3c"))
    monkeypatch.setattr(ctypes, "CDLL", library)
    assert math.isnan(measured("cuda:0").drawn_j())


def test_a_device_counts_once(powercap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks of one machine share its processors: the first of them counts."""
    file = zone(powercap, "intel-rapl:0", "package-0", 0)
    mine = energy.BOOT_ID.read_text().strip()
    for ranks, rank, joules in (([mine, mine], 0, 2.0), ([mine, mine], 1, 0.0), (["another", mine], 1, 2.0)):
        monkeypatch.setattr(energy, "gather_object", lambda _, ranks=ranks: ranks)
        file.write_text("0")
        found = measured(rank=rank)
        file.write_text("2000000")
        assert found.drawn_j() == pytest.approx(joules)


def turning(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that draws 3600 J from one look at its counter to the next."""
    looks = iter(range(10**6))
    monkeypatch.setattr(energy, "_processor", lambda: ("here", [energy.Counter(lambda: 3600.0 * next(looks), 1e9)]))


def test_it_is_in_the_log_and_on_the_line_and_goes_on(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    turning(monkeypatch)
    keys = ("run.updates=4", "run.save_every=2", "run.log_every=2")
    assert pretrain(corpus, tmp_path / "whole", *keys) == 0
    whole = [row["energy_kwh"] for row in rows(tmp_path / "whole")]
    assert 0 < whole[0] < whole[1] and f"  {whole[1]:.3g} kWh  " in capsys.readouterr().out
    state = json.loads((tmp_path / "whole/checkpoints/update_00000002/state.json").read_text())["state"]
    (tmp_path / "whole/checkpoints/update_00000004/state.json").write_text("damaged")
    assert pretrain(corpus, tmp_path / "whole", *keys) == 0
    assert rows(tmp_path / "whole")[-1]["energy_kwh"] > state["energy_j"] / 3.6e6 >= whole[0]


def test_what_is_not_known_for_a_part_is_not_known(
    corpus: Path, tmp_path: Path, powercap: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = ("size=tiny", "run.updates=4", "run.save_every=2", "run.eval_every=4", "run.max_hours=1e-9")
    assert finetune("intent", corpus, tmp_path / "run", *keys) == 75
    turning(monkeypatch)
    assert finetune("intent", corpus, tmp_path / "run", *keys[:-1]) == 0
    assert not [row for row in rows(tmp_path / "run") if "energy_kwh" in row]
    assert finetune("intent", corpus, tmp_path / "other", *keys[:-1]) == 0
    assert all(row["energy_kwh"] > 0 for row in rows(tmp_path / "other") if "loss" in row)
