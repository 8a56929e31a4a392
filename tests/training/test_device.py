"""The precision that a run gets."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mixvec.training.config import RunConfig
from mixvec.training.device import start_accelerator
from tests.runs import ROOT


@pytest.mark.parametrize(("in_hardware", "expected"), [(True, "bf16"), (False, "no")])
def test_auto_takes_bf16_where_the_hardware_has_it(
    monkeypatch: pytest.MonkeyPatch, in_hardware: bool, expected: str
) -> None:
    """A GPU before Ampere only emulates bf16, many times slower; a stand-in, since there is no such GPU here."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(
        "torch.cuda.is_bf16_supported", lambda including_emulation=True: in_hardware or including_emulation
    )
    monkeypatch.setattr("mixvec.training.device.Accelerator", SimpleNamespace)
    assert start_accelerator(RunConfig()).mixed_precision == expected


def test_the_group_of_ranks_is_left_and_never_freed(tmp_path: Path) -> None:
    """Freed with the interpreter's lock in hand, it would wait for threads that want that lock."""
    script = """
import sys, torch.distributed as ranks
from mixvec.training.device import leave_process_group
ranks.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=0, world_size=1)
ranks.barrier()
group = ranks.group.WORLD
leave_process_group()
assert not ranks.is_initialized() and sys.getrefcount(group) >= 3, sys.getrefcount(group)  # ours, the call's, one more
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "store")], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
