"""What answers behind the commands: a published model, whatever runs it.

Symbols: S samples, T frames, V vocabulary size, L layers, D model width.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ..errors import UserError
from ..hub import load_model, read_config
from ..locate import resolve
from ..model import HEADS, TaskModel
from ..model.ctc import CtcModel
from ..model.pretrained import ENCODER
from ..model.protocol import Encoder


class Prediction(NamedTuple):
    """The answer to one waveform."""

    answer: dict[str, Any]
    """Plain JSON values: ``text``, ``label`` with ``probabilities``, ``intent`` with ``slots``, or ``embedding``."""
    output: Tensor | None = None
    """On the CPU in fp32: log-probabilities (T, V) of a model with CTC, frames (L, T, D) of ``features``."""


class Predictor(Protocol):
    """A model that ``mixvec`` commands use."""

    sample_rate_hz: int
    """Of the waveforms that it takes."""
    hop_samples: int
    """Samples between the starts of two frames."""
    frame_samples: int
    """Samples that a frame sees."""
    vocabulary: list[str]
    """The tokens of CTC, of which 0 is the blank; none in a model without CTC."""
    labels: list[str]
    """What a classifier ranks; none in other models."""

    def predict(self, waveforms: list[Tensor]) -> list[Prediction]:
        """The answer to each waveform (S,) on the CPU; a short one is padded with silence."""


class TorchPredictor:
    """A hub folder's model with its head, on a device."""

    def __init__(self, model: TaskModel, device: torch.device) -> None:
        self.model, self.device = model.to(device), device
        self.sample_rate_hz, self.hop_samples = model.encoder.sample_rate_hz, model.encoder.hop_samples
        self.frame_samples = model.encoder.min_samples
        self.vocabulary: list[str] = model.vocabulary if isinstance(model, CtcModel) else []
        self.labels: list[str] = getattr(model, "labels", [])

    @torch.inference_mode()
    def predict(self, waveforms: list[Tensor]) -> list[Prediction]:
        encoder = self.model.encoder
        encoded = encoder(*_batch(waveforms, encoder, self.device), every_layer=self.model.every_layer)
        answers = self.model.answers(encoded)
        if not isinstance(self.model, CtcModel):
            return [Prediction(answer) for answer in answers]
        rows = zip(answers, self.model.head(encoded).cpu(), encoded.lengths.tolist(), strict=True)
        return [Prediction(answer, log_probs[:length]) for answer, log_probs, length in rows]


class LayerPredictor:
    """The frames of an encoder's layers, each a prediction's ``output``."""

    vocabulary: list[str] = []  # noqa: RUF012
    labels: list[str] = []  # noqa: RUF012

    def __init__(self, encoder: Encoder, layers: list[int], device: torch.device) -> None:
        self.encoder, self.layers, self.device = encoder.to(device), layers, device
        self.sample_rate_hz, self.hop_samples = encoder.sample_rate_hz, encoder.hop_samples
        self.frame_samples = encoder.min_samples

    @torch.inference_mode()
    def predict(self, waveforms: list[Tensor]) -> list[Prediction]:
        last = self.layers == [self.encoder.num_layers]
        encoded = self.encoder(*_batch(waveforms, self.encoder, self.device), every_layer=not last)
        chosen = torch.stack([encoded.layers[-1 if last else n] for n in self.layers]).float().cpu()  # (L, B, T, D)
        return [Prediction({}, chosen[:, row, :length]) for row, length in enumerate(encoded.lengths.tolist())]


def _batch(waveforms: list[Tensor], encoder: Encoder, device: torch.device) -> tuple[Tensor, Tensor]:
    """Waveforms (S_i,) as a padded batch (B, S) with lengths (B,), none shorter than a frame."""
    lengths = torch.tensor([max(len(waveform), encoder.min_samples) for waveform in waveforms])
    padded = torch.zeros(len(waveforms), int(lengths.max()))
    for row, waveform in zip(padded, waveforms, strict=True):
        row[: len(waveform)] = waveform
    return padded.to(device), lengths.to(device)


def load_predictor(command: str, name: str, device: torch.device, layers: str = "last") -> Predictor:
    """What ``command`` uses of the model ``name``, a hub folder, a run directory or ``org/name[@revision]``.

    Raises:
        UserError: there is no such model, it is one for something else, or it has no such layer.
    """
    if name.endswith(".onnx"):
        return _onnx_predictor(command, name, layers)
    folder = resolve(name)
    if command == "features":
        model = load_model(folder)
        encoder = model.encoder if isinstance(model, TaskModel) else model
        return LayerPredictor(encoder, _layers(layers, encoder.num_layers), device)
    _check(command, read_config(folder)["architecture"], name)
    model = load_model(folder)
    assert isinstance(model, TaskModel)
    return TorchPredictor(model, device)


def _onnx_predictor(command: str, name: str, layers: str) -> Predictor:
    """The model in a file of ``mixvec export``, computed on the CPU."""
    from ..onnx_model import load_onnx

    model = load_onnx(name)
    if command == "features":
        if isinstance(model, TaskModel) or layers != "last":
            raise UserError(f"{name}: of an ONNX file only an encoder's has frames, those of the last layer; give the "
                            "model folder")  # fmt: skip
        return LayerPredictor(model, [model.num_layers], torch.device("cpu"))
    _check(command, type(model).__name__ if isinstance(model, TaskModel) else ENCODER, name)
    assert isinstance(model, TaskModel)
    return TorchPredictor(model, torch.device("cpu"))


def _check(command: str, architecture: str, name: str) -> None:
    """
    Raises:
        UserError: the model ``name`` is one for something else than ``command``.
    """
    head = HEADS.get(architecture)
    if head is None or head.command != command:
        remedy = f"use it with `mixvec {head.command}`" if head else "fine-tune it first, with `python -m finetune`"
        wanted = " or ".join(name for name, head in HEADS.items() if head.command == command)
        raise UserError(f"{name}: a {architecture}, and {command} needs a {wanted}: {remedy}")


def _layers(asked: str, count: int) -> list[int]:
    """The numbers of the layers that ``last``, ``all`` or a number from 0 (the input of the first) to L names."""
    if asked in ("last", "all"):
        return [count] if asked == "last" else list(range(count + 1))
    if not asked.isdecimal() or int(asked) > count:
        raise UserError(f"--layer {asked}: choose a number from 0 to {count}, last or all")
    return [int(asked)]


def device_named(name: str | None) -> torch.device:
    """The device of ``--device``; without one a GPU where there is one, else the CPU.

    Raises:
        UserError: torch knows no such device, or this machine has none.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        if device.type == "meta":
            raise ValueError("it holds no values")
    except (RuntimeError, AssertionError, ValueError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--device {name}: not usable here ({reason}); choose cpu, cuda, cuda:1, …") from error
    return device
