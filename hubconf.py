"""mixvec's models through ``torch.hub``: ``torch.hub.load("PATH", "encoder", "runs/small", source="local")``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mixvec.model import TaskModel
    from mixvec.model.protocol import Encoder

dependencies = ["torch", "torchaudio", "numpy", "safetensors", "huggingface_hub", "soundfile"]


def encoder(model: str, revision: str | None = None) -> Encoder:
    """The encoder of a model folder, a run directory or ``org/name`` on the hub, in eval mode."""
    from mixvec.hub import load_encoder

    return load_encoder(model, revision)


def model(model: str, revision: str | None = None) -> Encoder | TaskModel:
    """The model, with its head where it has one, in eval mode."""
    from mixvec.hub import load_model

    return load_model(model, revision)
