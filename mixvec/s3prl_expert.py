"""A model folder as an upstream of s3prl, whose interface is a class of this name; s3prl itself is not imported.

docs/publishing.md has the lines that use it.

Symbols: S samples, T frames, D model width, L layers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from mixvec.hub import load_encoder


class UpstreamExpert(nn.Module):
    """The encoder of any hub folder, run directory or hub repository."""

    def __init__(self, ckpt: str, model_config: str | None = None, refresh: bool = False) -> None:
        """``model_config`` and ``refresh`` are what s3prl passes, and are not needed: the folder holds its own.

        Raises:
            UserError: ``ckpt`` is no such model.
        """
        super().__init__()
        self.encoder = load_encoder(ckpt)

    def get_downsample_rates(self, key: str) -> int:
        """Samples per frame."""
        return self.encoder.hop_samples

    def forward(self, wavs: list[Tensor]) -> dict[str, Any]:
        """Waveforms (S_i,) at 16 kHz to L + 1 hidden states (B, T, D), and the last of them."""
        lengths = torch.tensor([max(len(wav), self.encoder.min_samples) for wav in wavs], device=wavs[0].device)
        padded = pad_sequence(list(wavs), batch_first=True)
        padded = nn.functional.pad(padded, (0, int(lengths.max()) - padded.shape[1]))
        frames, _, layers = self.encoder(padded, lengths)
        return {"hidden_states": layers, "last_hidden_state": frames}
