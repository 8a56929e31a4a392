"""Our systems, as they train and as they are used. LayerDrop is off, so that every repeat does the same work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW

from mixvec import CtcRecognizer, build_encoder
from mixvec.data.batches import Clip
from mixvec.data.utterances import Utterance
from mixvec.hub import load_model, save_folder
from mixvec.kernels.select import choose_branches
from mixvec.model.frontend import SAMPLE_RATE_HZ
from mixvec.model.mixing import build_mixer
from mixvec.onnx_export import export_onnx
from mixvec.onnx_model import load_onnx
from mixvec.training.config import load_config
from mixvec.training.randomness import seed_update, to_device
from pretrain.config import PretrainConfig
from pretrain.objectives import build_objective

from .measure import Work

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
FRAME_RATE_HZ = 50
VOCABULARY = ["[PAD]", "|", *"abcdefghijklmnopqrstuvwxyz'.?!"]


def load(config: str, keys: Sequence[str]) -> PretrainConfig:
    """A pretraining's configuration, by the name of its YAML, as ``python -m pretrain`` reads it."""
    return load_config(PretrainConfig, [str(CONFIGS / f"{config}.yaml"), *keys, "encoder.layer_drop=0"], "")


def mixer(keys: Sequence[str], clips: int, length_s: float, device: str) -> Work:
    """The mixer of ``base`` alone, forward and backward; no padding.

    Without dropout, since torch's fused attention has none on the CPU: it would materialise its scores.
    """
    config = load("base", (*keys, "encoder.dropout=0")).encoder
    module = build_mixer(config).to(device)
    chosen = choose_branches(module, (clips, round(length_s * FRAME_RATE_HZ)), torch.bfloat16)
    x = torch.randn(clips, round(length_s * FRAME_RATE_HZ), config.dim, device=device, requires_grad=True)

    def step() -> None:
        with precision(device):
            output = module(x, None)
        torch.autograd.grad(output, [x, *module.parameters()], torch.ones_like(output))

    return Work(step, chosen or "forward and backward, no dropout")


def inference(keys: Sequence[str], clips: int, length_s: float, device: str) -> Work:
    """Waveforms to text with greedy CTC."""
    torch.manual_seed(0)
    model = CtcRecognizer(build_encoder(load("base", keys).encoder), VOCABULARY).to(device).eval()
    audio = noise(clips, length_s, device)

    def step() -> None:
        with precision(device), torch.inference_mode():
            model.transcribe(audio)

    return Work(step, parameters(model))


def published(file: str, clips: int, length_s: float) -> Work:
    """Waveforms to text with greedy CTC, by a model folder or an ONNX file, on the CPU."""
    model: Any = load_onnx(file) if file.endswith(".onnx") else load_model(file)
    audio = noise(clips, length_s, "cpu")
    stored = Path(file) if file.endswith(".onnx") else Path(file) / "model.safetensors"
    return Work(lambda: model.transcribe(audio), f"{stored.stat().st_size / 1e6:.1f} MB")


def publish(folder: Path, keys: Sequence[str]) -> None:
    """A recogniser with random weights, as the folder ``eager`` and as ``fp32.onnx`` and ``int8.onnx``."""
    torch.manual_seed(0)
    save_folder(CtcRecognizer(build_encoder(load("base", keys).encoder), VOCABULARY), folder / "eager")
    for name in ("fp32", "int8"):
        export_onnx(folder / "eager", folder / f"{name}.onnx", int8=name == "int8")


def update(config: str, keys: Sequence[str], clips: int, length_s: float, device: str) -> Work:
    """Whole updates of pretraining."""
    model, loss = training(load(config, keys), clips, length_s, device)
    frames = round(length_s * FRAME_RATE_HZ)
    chosen = choose_branches(model, (clips, frames), torch.bfloat16)  # as a run on a GPU does
    return Work(training_step(model, loss, device), f"{parameters(model)}{'; ' * bool(chosen)}{chosen}")


def training(
    config: PretrainConfig, clips: int, length_s: float, device: str
) -> tuple[nn.Module, Callable[[], Tensor]]:
    """The model in pretraining, and the loss of one micro-batch of noise. Its masks are drawn before."""
    torch.manual_seed(0)
    made: Any = build_objective(config.objective, build_encoder(config.encoder))
    model: nn.Module = made.to(device).train()
    waveforms = noise(clips, length_s, "cpu")
    given = [Clip(Utterance("noise", length_s), w, np.random.default_rng(i)) for i, w in enumerate(waveforms)]
    batch = to_device(made.collate(given), torch.device(device))

    def loss() -> Tensor:
        prepared = made.prepare(batch, recompute=False)
        seed_update(made.encoder, 0, 1, batch.keys)
        value: Tensor = made(prepared, prepared.totals, 0.5).loss
        return value

    return model, loss


def training_step(model: nn.Module, loss: Callable[[], Tensor], device: str) -> Callable[[], None]:
    """One update: forward, backward, clipping, AdamW."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = AdamW(parameters, 1e-5, weight_decay=0.05, fused=device == "cuda")

    def step() -> None:
        with precision(device):
            value = loss()
        torch.autograd.backward(value)
        nn.utils.clip_grad_norm_(parameters, 100.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def noise(clips: int, length_s: float, device: str) -> Tensor:
    """(B, S) at 16 kHz, the same for every system."""
    made = torch.randn(clips, round(length_s * SAMPLE_RATE_HZ), generator=torch.Generator().manual_seed(0))
    return (0.1 * made).to(device)


def precision(device: str) -> AbstractContextManager[object]:
    """bf16 autocast on a GPU, for every system alike."""
    return torch.autocast(device, torch.bfloat16, enabled=device == "cuda")


def parameters(model: nn.Module) -> str:
    return f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters"
