"""Units that the encoder itself makes, part-way through a run: k-means on a layer of a frozen copy of it.

As in HuBERT's later iterations (arXiv 2106.07447, section II-D), without starting again.

Symbols: B batch, S samples, T frames, D model width, V units.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from mixvec.errors import UserError

from .targets import Codebooks, collect


class OwnUnits(nn.Module):
    """A frozen copy of an encoder's lower layers, the units of its frames, and the layer that predicts them.

    All of it is a part of the state from the start, so that a checkpoint before a relabelling fits one after it.
    """

    def __init__(self, encoder: Any, layer: int | None, count: int) -> None:
        """
        Args:
            layer: from which units are made, from 1 on; None for the middle one.
            count: V.

        Raises:
            UserError: the encoder is not ours, or has no such layer.
        """
        super().__init__()
        if not hasattr(encoder, "layers"):
            raise UserError("objective.relabel needs encoder.kind=mixvec")
        self.layer = math.ceil(encoder.num_layers / 2) if layer is None else layer
        if not 1 <= self.layer <= encoder.num_layers:
            raise UserError(f"objective.relabel_layer={layer}: the encoder has layers 1 to {encoder.num_layers}")
        self._encoder = [encoder]  # a list hides it: it is not a part of this module
        self.teacher = copy.deepcopy(encoder)
        self.teacher.layers = self.teacher.layers[: self.layer]
        self.teacher.num_layers = self.layer
        self.teacher.requires_grad_(False).eval()
        self.codebooks = Codebooks(encoder.dim, (count,))
        self.head = nn.Linear(encoder.dim, count)

    def train(self, mode: bool = True) -> OwnUnits:
        """Set the mode of all but the teacher, which never drops anything."""
        super().train(mode)
        self.teacher.eval()
        return self

    @torch.no_grad()
    def labels(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        """Waveforms (B, S) and lengths (B,) to units (B, T, 1)."""
        return self.codebooks(self.teacher(waveforms, lengths, every_layer=False).frames.float())  # type: ignore[no-any-return]

    def fit(self, sample: Iterator[Any], seed: int) -> tuple[bool, str]:
        """Copy the encoder as it is now, and fit units on its frames; whether they are of use, and a line.

        Degenerate units are refused, and everything stays as it was.
        """
        encoder, device = self._encoder[0], self.head.weight.device
        snapshot = copy.deepcopy(self.teacher)  # of the encoder itself it would copy what torch.compile made of it
        now = encoder.state_dict()
        snapshot.load_state_dict({name: now[name] for name in snapshot.state_dict()})

        def frames_of(waveforms: Tensor, lengths: Tensor) -> Tensor:
            frames: Tensor = snapshot(waveforms, lengths, every_layer=False).frames
            return frames.float()

        new = copy.deepcopy(self.codebooks)
        frames = collect(sample, frames_of, encoder, new.units, device)
        where = f"layer {self.layer} of {encoder.num_layers}"
        try:
            (perplexity,) = new.fit(frames, seed)
        except UserError as error:  # frames that are all alike, or too few: no reason to end a run
            return False, f"relabel: refused, on {where}: {error}; the old units stay"
        count = new.units[0]
        if perplexity < count / 2:
            return False, (f"relabel: refused, as the new units are degenerate: k-means on {where} has perplexity "
                           f"{perplexity:.1f} of {count}; the old units stay")  # fmt: skip
        self.teacher.load_state_dict(snapshot.state_dict())
        self.codebooks.load_state_dict(new.state_dict())
        generator, bound = torch.Generator().manual_seed(seed), 1 / math.sqrt(encoder.dim)
        with torch.no_grad():
            for parameter in self.head.parameters():
                drawn = (2 * torch.rand(parameter.shape, generator=generator) - 1) * bound
                parameter.copy_(drawn)
        return True, (f"relabel: {count} new units by k-means on {len(frames)} frames of {where}; perplexity "
                      f"{perplexity:.1f}")  # fmt: skip
