"""tools.fit: the search with a stand-in for the device's memory, and the command's update on the CPU."""

from __future__ import annotations

import pytest
import torch

from mixvec import UserError
from tests.runs import PRETRAIN
from tools import fit
from tools.bench import ours


def fit_on_a_device(monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    """The command with a simulated device that has room for so many utterances; the updates are real, on the CPU."""
    monkeypatch.setattr("sys.argv", ["fit", *PRETRAIN, "batch.update_s=20"])
    answers = {"is_available": True, "mem_get_info": (40e9, 80e9), "get_device_name": "a device"}
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda answer=answer: answer)
    shares: list[float] = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", shares.append)

    def update(build, arguments, clips, length_s, device):  # type: ignore[no-untyped-def]
        assert shares == [pytest.approx(0.45)] and (length_s, device) == (5.0, "cuda")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # optimizers ask too
        if clips > room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return ours.update(build, arguments, clips, length_s, "cpu")

    monkeypatch.setattr(fit, "update", update)
    fit.main()


@pytest.mark.slow
def test_the_largest_size_that_fits(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fit_on_a_device(monkeypatch, room=3)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["batch.max_s=20", "batch.max_s=15", "batch.max_s=15"]
    with pytest.raises(UserError, match=r"data\.max_s"):
        fit_on_a_device(monkeypatch, room=0)


def test_without_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["fit", *PRETRAIN])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="CUDA"):
        fit.main()
