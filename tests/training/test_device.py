"""The precision that a run gets."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mixvec.training.config import RunConfig
from mixvec.training.device import start_accelerator


@pytest.mark.parametrize(("in_hardware", "expected"), [(True, "bf16"), (False, "no")])
def test_auto_takes_bf16_where_the_hardware_has_it(
    monkeypatch: pytest.MonkeyPatch, in_hardware: bool, expected: str
) -> None:
    """A GPU before Ampere only emulates bf16, many times slower; a fake, since there is no such GPU here."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(
        "torch.cuda.is_bf16_supported", lambda including_emulation=True: in_hardware or including_emulation
    )
    monkeypatch.setattr("mixvec.training.device.Accelerator", SimpleNamespace)
    assert start_accelerator(RunConfig()).mixed_precision == expected
