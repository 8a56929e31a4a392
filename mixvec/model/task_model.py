"""What every model with a head has: an encoder, a choice of its layers, and a description for its hub folder.

Symbols: B batch, S samples, T frames, D model width, L layers.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from .noise import Dropout
from .pretrained import Pretrained
from .protocol import Encoder, EncoderOutput
from .trunks import Kind, build_trunk
from .vocabulary import names_of
from .waveforms import Waveforms

Layers = Literal["last", "weighted"]


class LayerChoice(nn.Module):
    """The frames a head reads: the last layer's, or a softmax-weighted sum of all L + 1 (SUPERB, arXiv 2105.01051),
    through the trunk of a probing head where there is one."""

    def __init__(self, num_layers: int, layers: Layers, trunk: nn.Module | None = None) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(num_layers + 1)) if layers == "weighted" else None
        self.trunk = trunk

    def forward(self, output: EncoderOutput) -> Tensor:
        """To (B, T, D), or as wide as the trunk is."""
        x = output.frames
        if self.weights is not None:
            x = torch.einsum("l,lbtd->btd", self.weights.softmax(0), torch.stack(output.layers))
        return x if self.trunk is None else self.trunk(x, output.lengths)


class TaskModel(Pretrained, nn.Module):
    """An encoder with a head. A kind of head is a subclass, listed in ``mixvec.model.HEADS``.

    The class states what its hub folder holds and how it is used, so that saving, loading, the model card and the
    command line know no head by name.
    """

    stored_as: ClassVar[str]
    """The file beside the weights, such as ``vocab.json``."""
    does: ClassVar[str]
    """What it is fine-tuned for, in messages: speech recognition."""
    title: ClassVar[str]
    pipeline: ClassVar[str | None]
    """The hub's name for the task, and transformers' for the pipeline that runs it; None where there is none."""
    auto: ClassVar[str | None] = None
    """The Auto class of transformers that loads it; None where only mixvec does."""
    command: ClassVar[str]
    """The ``mixvec`` subcommand that uses it."""
    example: ClassVar[str]
    """The last line of the card's Python example, which has a ``model`` and a ``waveform`` (1, S)."""
    kind: Kind = "own"
    """The trunk of a probing head between the frames and the output; own: none."""
    asked_width: int | None = None
    """The trunk's own width; None: that of its paper."""

    def __init__(self, encoder: Encoder, layers: Layers, dropout: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.layers = layers
        self.choice = LayerChoice(encoder.num_layers, layers)
        self.every_layer = layers == "weighted"
        """Whether the head reads every layer of the encoder, or the last alone."""
        self.dropout = Dropout(dropout)

    def read_through(self, kind: Kind, width: int | None) -> int:
        """Put a trunk between the frames and the head; return the width of what the head reads.

        Raises:
            ValueError: there is no such kind, or ``width`` does not suit it.
        """
        self.kind, self.asked_width = kind, width
        trunk, channels = build_trunk(kind, self.encoder.dim, width)
        self.choice = LayerChoice(self.encoder.num_layers, self.layers, trunk)
        return channels

    def encoded(
        self, waveforms: Waveforms, lengths: Tensor | None = None, sampling_rate: int | None = None
    ) -> EncoderOutput:
        """The encoder's output for what may be given as waveforms, with the layers that the head reads."""
        return self.encoder(waveforms, lengths, every_layer=self.every_layer, sampling_rate=sampling_rate)  # type: ignore[no-any-return]

    def forward(self, waveforms: Waveforms, lengths: Tensor | None = None, sampling_rate: int | None = None) -> Any:
        """Waveforms (B, S) and lengths (B,) to what ``head`` gives."""
        return self.head(self.encoded(waveforms, lengths, sampling_rate))

    def head(self, encoded: EncoderOutput) -> Tensor:
        """The head's output, in fp32, from the encoder's."""
        raise NotImplementedError(f"{type(self).__name__}.head")

    def settings(self) -> dict[str, Any]:
        """The head's own arguments, plain JSON values; ``restored`` gets them back."""
        trunk = {} if self.kind == "own" else {"kind": self.kind, "width": self.asked_width}
        return {"layers": self.layers, "dropout": self.dropout.p} | trunk

    def stored(self) -> Any:
        """What ``stored_as`` holds, plain JSON values: by default the names in the attribute that is called like it."""
        return getattr(self, self.stored_as.removesuffix(".json"))

    @classmethod
    def restored(cls, encoder: Encoder, stored: Any, settings: dict[str, Any]) -> TaskModel:
        """The head that ``stored`` and ``settings`` describe on ``encoder``, its weights not yet loaded.

        Raises:
            MalformedError: ``stored`` is not what this head writes.
            ValueError: ``settings`` has an impossible value.
            TypeError: ``settings`` has an unknown key.
        """
        head: Any = cls
        return head(encoder, names_of(stored, cls.stored_as.removesuffix(".json")), **settings)  # type: ignore[no-any-return]

    def answers(self, encoded: EncoderOutput) -> list[dict[str, Any]]:
        """What the command line prints for each utterance (B): ``text`` or ``label`` first, plain JSON values."""
        raise NotImplementedError(f"{type(self).__name__}.answers")
