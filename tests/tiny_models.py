"""Models small enough to write, load and run in a blink, and a hub on loopback that the real client talks to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import soundfile
import torch
from huggingface_hub import constants
from torch import Tensor, nn

from mixvec import Classifier, CtcRecognizer, EncoderConfig, build_encoder, encoder_config
from mixvec.model import Layers
from tests.hub_server import HubServer

VOCABULARY = ["[PAD]", "|", "'", "a", "b", "é"]
LABELS = ["lights on", "lights off", "musik läuter"]
TOKEN = "hf_SECRETofTHEtest"

Model = TypeVar("Model", bound=nn.Module)

MEL = replace(
    encoder_config("tiny"), mel_bins=20, conv_channels=16, dim=32, num_layers=2, ffn_dim=64, heads=4, conv_kernel=7
)
WAVEFORM = replace(MEL, front_end="waveform")
WAV2VEC2 = replace(
    encoder_config("wav2vec2-large"), mixer="summary", conv_channels=16, dim=32, num_layers=2, ffn_dim=64, heads=4
)


def encoder(config: EncoderConfig = MEL) -> nn.Module:
    return scattered(build_encoder(config))


def recogniser(config: EncoderConfig = MEL, layers: Layers = "last") -> CtcRecognizer:
    return scattered(CtcRecognizer(build_encoder(config), VOCABULARY, layers, dropout=0.2))


def classifier(config: EncoderConfig = MEL, layers: Layers = "last") -> Classifier:
    return scattered(Classifier(build_encoder(config), LABELS, layers))


def scattered(model: Model) -> Model:
    """In eval mode, no parameter at a round value, so that one left behind would show."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def speech(rows: int = 2, samples: int = 12_000) -> tuple[Tensor, Tensor]:
    """Waveforms (rows, samples) of noise and their lengths (rows,), each shorter than the one before."""
    lengths = torch.tensor([samples - 2_000 * row for row in range(rows)])
    return torch.randn(rows, samples, generator=torch.Generator().manual_seed(5)), lengths


def write_wav(path: Path, seconds: float = 0.5, rate_hz: int = 16_000, channels: int = 1) -> Path:
    """A file of quiet noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(3).standard_normal((round(seconds * rate_hz), channels)) * 0.1
    soundfile.write(path, noise, rate_hz)
    return path


@contextmanager
def loopback_hub(monkeypatch: pytest.MonkeyPatch, cache: Path, token: str | None = TOKEN) -> Iterator[HubServer]:
    """A hub that the hub client of this process uses, with a cache of its own, logged in with ``token``."""
    with HubServer(token=TOKEN) as hub:
        hub.attach(monkeypatch)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        if token is None:
            monkeypatch.delenv("HF_TOKEN", raising=False)
        else:
            monkeypatch.setenv("HF_TOKEN", token)
        yield hub
