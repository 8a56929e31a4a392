"""What every model with a head has: an encoder, the choice of its layers, and a hub folder.

Symbols: B batch, S samples, T frames, D model width, L layers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor, nn

from .config import EncoderConfig
from .encoder import build_encoder
from .output import EncoderOutput

Layers = Literal["last", "weighted"]
Head = TypeVar("Head", bound="TaskModel")


class LayerChoice(nn.Module):
    """The frames a head reads: the last layer's, or a softmax-weighted sum of all L + 1 (SUPERB, arXiv 2105.01051)."""

    def __init__(self, num_layers: int, layers: Layers) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(num_layers + 1)) if layers == "weighted" else None

    def forward(self, output: EncoderOutput) -> Tensor:
        """To (B, T, D)."""
        if self.weights is None:
            return output.frames
        return torch.einsum("l,lbtd->btd", self.weights.softmax(0), torch.stack(output.layers))


class TaskModel(nn.Module):
    """An encoder with a head. A kind of head is a subclass in a file of its own, and stands in ``mixvec.heads.HEADS``.

    The class says what its hub folder holds and how it is used, so that saving, loading, the model card and the
    command line know no head by name.
    """

    stored_as: ClassVar[str]
    """The file that stands beside the weights, such as ``vocab.json``."""
    does: ClassVar[str]
    """What it is fine-tuned for, in messages: speech recognition."""
    title: ClassVar[str]
    pipeline: ClassVar[str]
    """The hub's name for the task."""
    command: ClassVar[str]
    """The ``mixvec`` subcommand that uses it."""
    example: ClassVar[str]
    """The last line of the card's Python example, which has a ``model`` and a ``waveform`` (1, S)."""

    def __init__(self, config: EncoderConfig, layers: Layers, dropout: float) -> None:
        super().__init__()
        self.encoder = build_encoder(config)
        self.layers = layers
        self.choice = LayerChoice(config.num_layers, layers)
        self.every_layer = layers == "weighted"
        """Whether the head reads every layer of the encoder, or the last alone."""
        self.dropout = nn.Dropout(dropout)

    def settings(self) -> dict[str, Any]:
        """The head's own arguments, plain JSON values; ``restored`` gets them back."""
        return {"layers": self.layers, "dropout": self.dropout.p}

    def stored(self) -> Any:
        """What ``stored_as`` holds: plain JSON values."""
        raise TypeError(f"{type(self).__name__} has to say what {self.stored_as} holds")

    @classmethod
    def restored(cls, config: EncoderConfig, stored: Any, settings: dict[str, Any]) -> TaskModel:
        """The model that ``stored`` and ``settings`` describe, its weights not yet loaded.

        Raises:
            UserError: ``stored`` is not what this head writes; the message begins with ``stored_as``.
            TypeError: ``settings`` has an unknown key.
        """
        raise TypeError(f"{cls.__name__} has to say how {cls.stored_as} is read")

    def answer(self, waveforms: Tensor) -> dict[str, Any]:
        """What the command line prints for one file (1, S): ``text`` or ``label`` first, plain JSON values."""
        raise TypeError(f"{type(self).__name__} has no answer for the command line")

    @classmethod
    def from_pretrained(cls: type[Head], name_or_path: str | Path, revision: str | None = None) -> Head:
        """The model of a hub folder or hub repository, in eval mode; errors as ``SpeechEncoder``'s."""
        from ..hub import load_as

        return load_as(cls, name_or_path, revision)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a hub folder with the model, what its head needs, preprocessor config and model card."""
        from ..hub import save_folder

        save_folder(self, folder)
