"""What the commands ask for answers: a published model, whatever runs it.

Symbols: S samples, T frames, V vocabulary size, L layers, D model width.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..errors import UserError
from ..folder import read_json
from ..hub import load_model
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
    tokens: list[int] | None = None
    """Of the text, where it was searched with an n-gram."""


class Predictor:
    """A model with its head, or the layers of an encoder, on a device."""

    def __init__(self, model: TaskModel | Encoder, folder: Path, layers: list[int], device: torch.device) -> None:
        """``folder`` has the model; ``layers`` are the numbers of those whose frames are the answer, none where it is
        the head's."""
        self.model, self.folder, self.layers, self.device = model.to(device), folder, layers, device
        self.encoder = model.encoder if isinstance(model, TaskModel) else model
        self.vocabulary: list[str] = model.vocabulary if isinstance(model, CtcModel) else []
        self.labels: list[str] = getattr(model, "labels", [])
        self.search: Callable[[list[Tensor]], list[list[int]]] | None = None
        """From log-probabilities (T, V) to tokens, in place of the model's own search."""

    @torch.inference_mode()
    def predict(self, waveforms: list[Tensor]) -> list[Prediction]:
        """The answer to each waveform (S,) on the CPU; one shorter than a frame is padded with silence."""
        least, deepest = self.encoder.min_samples, self.layers == [self.encoder.num_layers]
        lengths = torch.tensor([max(len(waveform), least) for waveform in waveforms])
        batch = pad_sequence([*waveforms, torch.zeros(least)], batch_first=True)[:-1]
        every = not deepest if self.layers else isinstance(self.model, TaskModel) and self.model.every_layer
        encoded = self.encoder(batch.to(self.device), lengths.to(self.device), every_layer=every)
        counts = encoded.lengths.tolist()
        if self.layers or not isinstance(self.model, TaskModel):
            frames = torch.stack([encoded.layers[-1 if deepest else n] for n in self.layers]).float().cpu()
            return [Prediction({}, frames[:, row, :count]) for row, count in enumerate(counts)]
        if not isinstance(self.model, CtcModel):
            return [Prediction(answer) for answer in self.model.answers(encoded)]
        output = [own[:count] for own, count in zip(self.model.head(encoded).cpu(), counts, strict=True)]
        if self.search is None:
            return [Prediction(*row) for row in zip(self.model.answers(encoded), output, strict=True)]
        found = self.search(output)
        return [Prediction({"text": self.model.spell(tokens)}, own, tokens)
                for tokens, own in zip(found, output, strict=True)]  # fmt: skip


def load_predictor(command: str, name: str, device: torch.device, layers: str = "last") -> Predictor:
    """What ``command`` uses of the model ``name``: a hub folder, a run directory, ``org/name[@revision]``, or a file of
    ``mixvec export``, which is computed on the CPU.

    Args:
        layers: of ``features``: ``last``, ``all``, or a number from 0 (the input of the first) to L.

    Raises:
        UserError: there is no such model, it is one for something else, or it has no such layer.
    """
    model: TaskModel | Encoder
    exported = name.endswith(".onnx")
    folder = Path(name).parent if exported else resolve(name)
    if exported:
        from ..onnx_model import load_onnx

        model, device = load_onnx(name), torch.device("cpu")
    else:
        file = folder / "config.json"
        stored = read_json(file) if command != "features" and file.is_file() else None
        if isinstance(stored, dict) and (kind := stored.get("architecture")) in (ENCODER, *HEADS):
            _check(command, kind, name)  # before the weights are loaded
        model = load_model(folder)
    if command == "features":
        if exported and (isinstance(model, TaskModel) or layers != "last"):
            raise UserError(f"{name}: of an ONNX file only an encoder's has frames, those of the last layer; give the "
                            "model folder")  # fmt: skip
        encoder = model.encoder if isinstance(model, TaskModel) else model
        return Predictor(encoder, folder, _layers(layers, encoder.num_layers), device)
    _check(command, type(model).__name__, name)
    return Predictor(model, folder, [], device)


def _check(command: str, kind: str, name: str) -> None:
    """Raise ``UserError`` where ``command`` is not that of a model of this class."""
    head = HEADS.get(kind)
    if head is None or head.command != command:
        remedy = f"use it with `mixvec {head.command}`" if head else "fine-tune it first, with `python -m finetune`"
        wanted = " or ".join(name for name, other in HEADS.items() if other.command == command)
        raise UserError(f"{name}: a {kind}, and {command} needs a {wanted}: {remedy}")


def _layers(asked: str, count: int) -> list[int]:
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
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError, ValueError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--device {name}: not usable here ({reason}); choose cpu, cuda, cuda:1, …") from error
    return torch.device(name)
