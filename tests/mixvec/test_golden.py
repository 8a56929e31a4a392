"""Published models keep their numbers: the folders of tests/golden, written by mixvec 0.1.0 (commit 7d72237)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mixvec.hub import FORMAT, load_model, save_folder
from mixvec.model import TaskModel

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
NAMES = sorted(path.parent.name for path in GOLDEN.glob("*/golden.safetensors"))


@torch.inference_mode()
def outputs(model: Any, waveforms: Tensor, lengths: Tensor) -> dict[str, Tensor]:
    """Every tensor that the golden files hold: the encoder's layers, the head's output, the decoder's logits."""
    found = model(waveforms, lengths)
    encoded = model.encoder(waveforms, lengths) if isinstance(model, TaskModel) else found
    tensors = {f"layer.{number}": layer for number, layer in enumerate(encoded.layers)}
    tensors["frame_lengths"] = encoded.lengths
    if isinstance(model, TaskModel):
        tensors["output"] = found[0] if isinstance(found, tuple) else found
    if hasattr(model, "attend"):
        tensors["decoder"] = model.attend(encoded, torch.tensor([[3, 4], [5, 2]]))
    return tensors


def test_every_folder_is_there() -> None:
    assert len(NAMES) == 14 and {"encoder", "ctc", "classifier", "tagger", "decoder", "speaker"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_folders_of_0_1_0_give_what_they_gave(name: str, tmp_path: Path) -> None:
    """And, saved in today's format and loaded again, the same to the last bit."""
    golden = load_file(GOLDEN / name / "golden.safetensors")
    waveforms, lengths = golden.pop("waveforms"), golden.pop("lengths")
    model = load_model(GOLDEN / name)
    found = outputs(model, waveforms, lengths)
    assert found.keys() == golden.keys()
    for key, expected in golden.items():
        torch.testing.assert_close(found[key], expected, rtol=0, atol=2e-5, msg=lambda text, key=key: f"{key}: {text}")
    save_folder(model, tmp_path / "again")
    assert json.loads((tmp_path / "again/config.json").read_text())["format"] == FORMAT == 2
    again = outputs(load_model(tmp_path / "again"), waveforms, lengths)
    assert all(torch.equal(again[key], value) for key, value in found.items())
