"""tools.fit: the search with a stand-in for the device's memory, and the command's update on the CPU."""

from __future__ import annotations

import pytest
import torch

from mixvec import UserError
from tests.runs import PRETRAIN
from tools import fit
from tools.bench import ours


def test_the_search_ends_at_the_largest_size_that_fits() -> None:
    tried = []

    def update(clips: int) -> None:
        tried.append(clips)
        if clips > 47:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    found = fit.largest(update, 100)
    assert 42 <= found <= 47 and tried == sorted(tried, reverse=True) and tried[-1] == found
    assert fit.largest(update, 12) == 12


def test_nothing_fits_and_other_errors() -> None:
    def update(clips: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(UserError, match=r"data\.max_s"):
        fit.largest(update, 10)
    with pytest.raises(RuntimeError, match="size"):
        fit.largest(lambda clips: torch.zeros(2) @ torch.zeros(3), 10)


def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A stand-in for the device, with room for three utterances of 5 s; the updates are real and on the CPU."""
    monkeypatch.setattr("sys.argv", ["fit", *PRETRAIN, "batch.update_s=20"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="no CUDA device"):
        fit.main()
    shares: list[float] = []
    answers = {"is_available": True, "mem_get_info": (40e9, 80e9), "get_device_name": "a device"}
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda answer=answer: answer)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", shares.append)

    def training(config, clips, length_s, device):  # type: ignore[no-untyped-def]
        assert shares == [pytest.approx(0.45)] and (length_s, device) == (5.0, "cuda")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # optimizers ask too
        if clips > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return ours.training(config, clips, length_s, "cpu")

    monkeypatch.setattr(fit, "training", training)
    monkeypatch.setattr(fit, "training_step", lambda model, loss, device: ours.training_step(model, loss, "cpu"))
    fit.main()
    assert "batch.max_s=15 is the largest that fits; now 20" in capsys.readouterr().out
