"""Our systems, as they train and as they are used."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.optim import AdamW

from mixvec import CtcRecognizer, SpeechEncoder, build_encoder
from mixvec.data.batches import Clip, Updates
from mixvec.data.utterances import Utterance
from mixvec.hub import load_model, save_folder
from mixvec.kernels.select import choose_branches
from mixvec.model.context import Context
from mixvec.model.frontend import SAMPLE_RATE_HZ
from mixvec.model.mixing import build_mixer
from mixvec.onnx_export import export_onnx
from mixvec.onnx_model import load_onnx
from mixvec.training.config import load_config
from mixvec.training.optim import seed_update
from pretrain.config import PretrainConfig
from pretrain.objectives import build_objective

from .measure import Work

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
FRAME_RATE_HZ = 50
CHUNK_S, PIECE_S = 0.64, 9.6
VOCABULARY = ["[PAD]", "|", *"abcdefghijklmnopqrstuvwxyz'.?!"]


class Learner(NamedTuple):
    """A system in pretraining."""

    model: nn.Module
    lr: float
    """The highest learning rate."""
    collate: Callable[[list[Clip]], Any]
    """Clips to a batch, a NamedTuple of tensors."""
    losses: Callable[[list[Any], int, float], Iterator[Tensor]]
    """The batches of an update, its number and the progress in (0, 1], to the loss of each."""
    save: Callable[[Path], None]
    """Write a folder from which ``load_encoder`` reads the encoder."""
    start: Callable[[Updates[Any]], None] = lambda updates: None
    """Called once, with the data, while the clock runs."""


def learner(config: PretrainConfig) -> Learner:
    """Ours, with its own objective, as ``python -m pretrain`` trains it."""
    objective: Any = build_objective(config.objective, build_encoder(config.encoder))

    def start(updates: Updates[Any]) -> None:
        if objective.due(1e-9):
            objective.fit(updates.sample, config.run.seed, print)

    def losses(batches: list[Any], update: int, progress: float) -> Iterator[Tensor]:
        prepared = [objective.prepare(batch, recompute=False) for batch in batches]
        totals = torch.stack([ready.totals for ready in prepared]).sum(0)
        for ready in prepared:
            seed_update(objective.encoder, config.run.seed, update, ready.batch.keys)
            yield objective(ready, totals, progress).loss

    return Learner(objective, config.optim.lr, objective.collate, losses,
                   lambda folder: save_folder(objective.encoder, folder), start)  # fmt: skip


def update(build: Callable[..., Learner], arguments: tuple[Any, ...], clips: int, length_s: float, device: str) -> Work:
    """Whole updates of pretraining on noise, each of one batch: forward, backward, clipping, AdamW."""
    torch.manual_seed(0)
    own = build(*arguments)
    model = own.model.to(device).train()
    frames = round(length_s * FRAME_RATE_HZ)
    chosen = choose_branches(model, (clips, frames), torch.bfloat16)  # as a run on a GPU does
    given = [Clip(Utterance("noise", length_s), waveform, np.random.default_rng(number))
             for number, waveform in enumerate(noise(clips, length_s, "cpu"))]  # fmt: skip
    batch = send_to_device(own.collate(given), torch.device(device))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = AdamW(trained, 1e-5, weight_decay=0.05, fused=device == "cuda")

    def step() -> None:
        with precision(device):
            (loss,) = own.losses([batch], 1, 0.5)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(trained, 100.0)
        optimizer.step()
        optimizer.zero_grad()

    return Work(step, "; ".join(filter(None, [parameters(model), chosen])))


def load(config: str, keys: Sequence[str]) -> PretrainConfig:
    """A pretraining's configuration, by the name of its YAML, as ``python -m pretrain`` reads it.

    LayerDrop is off, so that every repeat does the same work.
    """
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


def recogniser(keys: Sequence[str]) -> CtcRecognizer:
    """A recogniser with random weights."""
    torch.manual_seed(0)
    return CtcRecognizer(build_encoder(load("base", keys).encoder), VOCABULARY)


def inference(keys: Sequence[str], clips: int, length_s: float, device: str) -> Work:
    """Waveforms to text with greedy CTC."""
    model, audio = recogniser(keys).to(device).eval(), noise(clips, length_s, device)

    def step() -> None:
        with precision(device), torch.inference_mode():
            model.transcribe(audio)

    return Work(step, parameters(model))


def published(file: str, length_s: float) -> Work:
    """A waveform to text with greedy CTC, by a model folder or an ONNX file, on the CPU."""
    model: Any = load_onnx(file) if file.endswith(".onnx") else load_model(file)
    audio = noise(1, length_s, "cpu")
    stored = Path(file) if file.endswith(".onnx") else Path(file) / "model.safetensors"
    return Work(lambda: model.transcribe(audio), f"{stored.stat().st_size / 1e6:.1f} MB")


def publish(folder: Path, keys: Sequence[str], files: Iterable[str]) -> None:
    """A recogniser with random weights, as these files: the folder ``eager``, ``fp32.onnx`` and ``int8.onnx``."""
    save_folder(recogniser(keys), folder / "eager")
    for name in set(files) - {"eager"}:
        export_onnx(folder / "eager", folder / name, int8=name == "int8.onnx")


def streaming_encoder(keys: Sequence[str], left_chunks: int | None) -> tuple[SpeechEncoder, Context]:
    """``small``, without dropout, and its context in chunks of ``CHUNK_S``."""
    encoder = SpeechEncoder(load("small", (*keys, "encoder.streaming=true", "encoder.dropout=0")).encoder)
    return encoder, Context(round(CHUNK_S * SAMPLE_RATE_HZ) // encoder.hop_samples, left_chunks)


def chunk(keys: Sequence[str], left_chunks: int | None, age_s: float) -> Work:
    """The next chunk of a stream that is ``age_s`` old; the note is the size of its state."""
    encoder, context = streaming_encoder(keys, left_chunks)
    encoder.eval()
    state: dict[str, Tensor] = {}
    piece = noise(1, PIECE_S, "cpu")
    for _ in range(max(1, round(age_s / PIECE_S))):
        state = encoder.stream(piece, state or None, context, every_layer=False)[1]
    size = sum(value.numel() * value.element_size() for value in state.values())
    samples = piece[:, : round(CHUNK_S * SAMPLE_RATE_HZ)]
    return Work(lambda: encoder.stream(samples, state, context, every_layer=False), f"state of {size / 1000:.0f} kB")


def streaming_training(keys: Sequence[str], left_chunks: int | None, length_s: float) -> Work:
    """Forward and backward of an encoder that learns to stream."""
    encoder, context = streaming_encoder(keys, left_chunks)
    encoder.train()
    encoder.drawn_context = context
    waveforms = noise(1, length_s, "cpu")
    return Work(lambda: encoder(waveforms, every_layer=False).frames.square().mean().backward(), "forward and backward")


def noise(clips: int, length_s: float, device: str) -> Tensor:
    """(B, S) at 16 kHz, the same for every system."""
    made = torch.randn(clips, round(length_s * SAMPLE_RATE_HZ), generator=torch.Generator().manual_seed(0))
    return (0.1 * made).to(device)


def precision(device: str) -> AbstractContextManager[object]:
    """bf16 autocast on a GPU, for every system alike."""
    return torch.autocast(device, torch.bfloat16, enabled=device == "cuda")


def parameters(model: nn.Module) -> str:
    return f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters"
