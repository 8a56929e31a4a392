"""Checkpoints: complete or not loaded, however they were damaged; all state is restored; which ones are kept."""

from __future__ import annotations

import json
import random
import tempfile
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from mixvec import UserError
from mixvec.training import checkpoint
from mixvec.training.checkpoint import Background, RunState, damage
from mixvec.training.config import RunConfig
from tests.runs import identical, pretrain, rows, weights

KEEP = RunConfig()
EVERY_TWO = ("run.updates=6", "run.save_every=2", "run.keep=3")


def write(folder: Path, *updates: int, run: RunConfig = KEEP) -> tuple[nn.Module, torch.optim.AdamW, Accelerator]:
    """A checkpoint of a small model after each of ``updates``."""
    accelerator, model = Accelerator(cpu=True), nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    for update in updates:
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        save(folder, update, model, optimizer, accelerator, run)
    return model, optimizer, accelerator


def save(
    folder: Path, update: int, model: nn.Module, optimizer: Any, accelerator: Accelerator, run: RunConfig = KEEP
) -> None:
    """A checkpoint, written to its end."""
    background = Background()
    checkpoint.save(folder, RunState(update=update), model, optimizer, accelerator, run, background)
    background.wait()


def cut(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("harm", [cut, flip, Path.unlink])
@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.safetensors", "rng.safetensors", "state.json", "manifest.json"]
)
def test_any_damage_to_any_file_is_found_and_named(tmp_path: Path, harm: Callable[[Path], None], name: str) -> None:
    write(tmp_path, 1, 2)
    assert checkpoint.newest(tmp_path) == (tmp_path / "update_00000002", [])
    harm(tmp_path / "update_00000002" / name)
    found, (line,) = checkpoint.newest(tmp_path)
    assert found == tmp_path / "update_00000001" and "\n" not in line
    assert "update_00000002: " in line
    assert name in line or (harm is flip and name == "manifest.json")  # a flipped digit there accuses another file


def test_where_none_is_whole_the_newest_and_its_damage_are_named(tmp_path: Path) -> None:
    write(tmp_path, 1, 2)
    for number in (1, 2):
        (tmp_path / f"update_0000000{number}/manifest.json").unlink()
    with pytest.raises(UserError, match=r"2 tried.*update_00000002: manifest\.json.*remove "):
        checkpoint.newest(tmp_path)
    assert len(checkpoint.listed(tmp_path)) == 2, "nothing is moved"


def test_no_checkpoint_is_no_error(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path / "nowhere") == (None, [])


def test_which_ones_are_kept(tmp_path: Path) -> None:
    write(tmp_path, *range(2, 15, 2), run=replace(KEEP, keep=2, keep_every=6))
    assert [path.name[-2:] for path in checkpoint.listed(tmp_path)] == ["06", "12", "14"]


def test_a_damaged_one_is_not_counted_and_is_removed_after_the_next_save(tmp_path: Path) -> None:
    model, optimizer, accelerator = write(tmp_path, 2, 4, 6)
    cut(tmp_path / "update_00000006/model.safetensors")
    checkpoint.newest(tmp_path)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["damaged_update_00000006", "update_00000004"]
    save(tmp_path, 5, model, optimizer, accelerator)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["update_00000004", "update_00000005"]


def test_a_kill_while_an_old_one_is_removed_leaves_none_in_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(folder: Path, ignore_errors: bool = False) -> None:
        if folder.exists():  # and not what a finished save no longer finds
            (folder / "model.safetensors").unlink()
            raise KeyboardInterrupt

    write(tmp_path, 1, 2)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("shutil.rmtree", half)
        write(tmp_path, 3, run=KEEP)
    assert [damage(path) for path in checkpoint.listed(tmp_path)] == [None, None]
    write(tmp_path, 4)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["update_00000003", "update_00000004"]


def test_every_generator_is_restored(tmp_path: Path) -> None:
    def draw() -> list[float]:
        drawn = [random.random(), random.gauss(0, 1), float(np.random.rand()), float(np.random.randn())]
        return [*drawn, float(torch.rand(()))]

    draw()  # an odd number of normal draws: each library holds one back
    model, optimizer, accelerator = write(tmp_path, 1)
    expected = [draw(), draw()]
    random.seed(9)
    np.random.seed(9)
    torch.manual_seed(9)
    checkpoint.load(tmp_path / "update_00000001", model, optimizer, accelerator)
    assert [draw(), draw()] == expected


NUMBERS = st.floats(allow_nan=False) | st.none()


@given(st.builds(RunState, update=st.just(1), place=st.lists(st.integers(0, 2**40)), seconds_seen=st.floats(0, 1e12),
                 energy_j=NUMBERS, grad_norms=st.lists(st.floats(0, 1e30), max_size=3), best=NUMBERS, best_loss=NUMBERS,
                 loss=NUMBERS, best_update=st.integers(0), outlier_updates=st.integers(0),
                 outlier_windows=st.integers(0), skipped_updates=st.integers(0), wall_s=st.floats(0, 1e9),
                 data=st.just({"data.train": {"utterances": 2}})),
       st.lists(st.booleans(), max_size=8))  # fmt: skip
@settings(deadline=None, max_examples=15)
def test_state_and_loss_scaler_are_restored(state: RunState, overflows: list[bool]) -> None:
    """The scaler after updates with and without an overflow, and in what it does next."""

    def scaled(scaler: torch.amp.GradScaler, overflow: bool) -> dict[str, Any]:
        parameter = nn.Parameter(torch.ones(1))
        optimizer = torch.optim.SGD([parameter], 1.0)
        (scaler.scale(parameter).sum() * (torch.inf if overflow else 1.0)).backward()
        scaler.step(optimizer)
        scaler.update()
        return scaler.state_dict()

    def started() -> Any:
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
        scaled(scaler, False)
        return SimpleNamespace(is_main_process=True, num_processes=1, process_index=0, scaler=scaler)

    before, after, background = started(), started(), Background()
    for overflow in overflows:
        scaled(before.scaler, overflow)
    with tempfile.TemporaryDirectory() as folder:
        model, optimizer, _ = write(Path(folder) / "other", 1)
        checkpoint.save(Path(folder), state, model, optimizer, before, KEEP, background)
        background.wait()
        found, ranks = checkpoint.load(Path(folder) / "update_00000001", model, optimizer, after)
    assert (found, ranks) == (state, 1)
    assert after.scaler.state_dict() == before.scaler.state_dict()
    assert scaled(after.scaler, False) == scaled(before.scaler, False)


def test_what_comes_after_a_save_does_not_change_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing is held up until weights, moments and generators have moved on."""
    moved, write_tensors = threading.Event(), checkpoint.save_tensors

    def late(tensors: dict[str, torch.Tensor], path: Path) -> None:
        assert moved.wait(60)
        write_tensors(tensors, path)

    monkeypatch.setattr(checkpoint, "save_tensors", late)
    moved.set()
    model, optimizer, accelerator = write(tmp_path / "at once", 1)
    moved.clear()
    background, state = Background(), RunState(update=1, grad_norms=[1.0])
    checkpoint.save(tmp_path / "late", state, model, optimizer, accelerator, KEEP, background)
    state.grad_norms.append(2.0)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    moved.set()
    background.wait()
    for name in ("model", "optimizer"):
        one, other = (load_file(tmp_path / f"{f}/update_00000001/{name}.safetensors") for f in ("at once", "late"))
        assert identical(one, other)
    assert json.loads((tmp_path / "late/update_00000001/state.json").read_text())["state"]["grad_norms"] == [1.0]


def test_background_work_is_done_in_order_and_its_errors_are_raised() -> None:
    background, order, go = Background(), [], threading.Event()

    def fails() -> None:
        raise UserError("no room")

    background.add(lambda: (go.wait(60), order.append(1)))
    background.add(lambda: order.append(2))
    background.wait(left=2)
    assert order == []
    go.set()
    background.wait()
    assert order == [1, 2]
    background.add(fails)
    background.add(lambda: order.append(3))
    with pytest.raises(UserError, match="no room"):
        background.wait()
    assert order == [1, 2], "what comes after an error is not done"
    background.add(lambda: order.append(4))
    background.wait()
    assert order == [1, 2, 4], "it is raised once"


def test_a_run_resumes_from_the_one_before_a_damaged_one_to_the_same_end(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert pretrain(corpus, run, *EVERY_TWO) == 0
    whole, log = weights(run), [row["contrastive_loss"] for row in rows(run)]
    for name, harm in (("06", cut), ("04", flip)):
        harm(run / f"checkpoints/update_000000{name}/optimizer.safetensors")
    capsys.readouterr()
    assert pretrain(corpus, run, *EVERY_TWO) == 0
    output = capsys.readouterr().out
    for name in ("update_00000006: optimizer.safetensors", "update_00000004: optimizer.safetensors"):
        assert name in output
    assert f"resuming from {run}/checkpoints/update_00000002\n" in output
    assert identical(whole, weights(run)) and log == [row["contrastive_loss"] for row in rows(run)]
    assert all(damage(path) is None for path in checkpoint.listed(run / "checkpoints"))
