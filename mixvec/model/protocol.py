"""What every encoder offers: ours, log-mel features, fairseq2's wav2vec 2.0 and the encoders of transformers.

Symbols: B batch, S samples, T frames, F feature channels, D model width, L layers, M mel bins.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .config import EncoderConfig
from .frontend import Length
from .mel import SAMPLE_RATE_HZ, MelTables, normalised_log_mel
from .padding import padding_mask, zero_padding
from .waveforms import Waveforms, batch_of, check_length

TARGET_BINS = 80


class EncoderOutput(NamedTuple):
    """The frames of an encoder and of its layers; frames beyond an utterance's length are zero."""

    frames: Tensor
    """(B, T, D), the last of ``layers``."""
    lengths: Tensor
    """(B,) valid frames of each utterance."""
    layers: list[Tensor]
    """L + 1 tensors (B, T, D): the input embedding, then each layer's output, the last after the final norm;
    or ``frames`` alone with ``every_layer=False``."""


class Encoder(nn.Module):
    """The protocol of encoders: what heads, objectives and tools may rely on, whoever built the network.

    Subclasses implement ``frame_lengths``, ``features`` and ``encode`` and set the attributes below. An utterance gives
    the same frames alone and in a padded batch.
    """

    sample_rate_hz = SAMPLE_RATE_HZ
    config: EncoderConfig
    hop_samples: int
    """Samples between the starts of two frames."""
    mel_view: tuple[int, int, int]
    """(first, hop, span): frame t is aligned with the log-mel frames (10 ms) from first + t·hop on, span of them."""
    dim: int
    """D, the width of the frames."""
    feature_dim: int
    """F, the width of the features."""
    num_layers: int
    heads: int
    """Heads of a mixer; a decoder on top of the encoder has as many."""
    tables: MelTables | None = None
    """The encoder's own mel filters; None: 80 bins, made when ``target_tables`` is first called."""

    def frame_lengths(self, samples: Length) -> Length:
        """Number of frames for ``samples`` samples at 16 kHz: an int, or a tensor (B,)."""
        raise NotImplementedError

    def features(self, waveforms: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Run the front end alone: waveforms (B, S), lengths (B,) to features (B, T, F) and frame lengths (B,).

        Raises:
            ValueError: the batch is shorter than one frame, or ``lengths`` does not fit ``waveforms``.
        """
        raise NotImplementedError

    def encode(
        self, features: Tensor, frame_lengths: Tensor, mask: Tensor | None = None, *, every_layer: bool = True
    ) -> EncoderOutput:
        """Run everything after the front end.

        Args:
            features: (B, T, F) from ``features``.
            frame_lengths: (B,).
            mask: (B, T), True at frames to hide, which the mask embedding replaces.
            every_layer: with False, ``layers`` holds the last layer's frames only, which saves memory.
        """
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """The configuration as plain JSON values, for ``config.json``."""
        return asdict(self.config)

    def forward(
        self, waveforms: Waveforms, lengths: Tensor | None = None, *, every_layer: bool = True,
        sampling_rate: int | None = None,
    ) -> EncoderOutput:  # fmt: skip
        """Waveforms (B, S) at 16 kHz and lengths (B,) in samples to frames, their lengths and every layer's output.

        Args:
            waveforms: or one waveform, arrays, lists, names of files (``waveforms.Waveforms``).
            lengths: None where every utterance fills its row.
            every_layer: with False, inference on an hour of audio takes the memory of one layer.
            sampling_rate: of the waveforms, in Hz, where that is not 16 kHz; they are resampled.

        Raises:
            ValueError: a row is empty, ``lengths`` does not fit ``waveforms``, or the batch is shorter than one frame;
                of arrays and lists also where one row is. In a padded tensor such a row has no frame.
        """
        batch, lengths = batch_of(waveforms, lengths, sampling_rate)
        if not self.training:
            self.check_batch(batch, lengths, 1 if isinstance(waveforms, Tensor) else self.min_samples)
        if not isinstance(waveforms, Tensor):
            device = next((parameter.device for parameter in self.parameters()), batch.device)
            batch, lengths = batch.to(device), None if lengths is None else lengths.to(device)
        return self.encode(*self.features(batch, lengths), every_layer=every_layer)

    @property
    def min_samples(self) -> int:
        """The shortest input, in samples, that gives a frame."""
        samples = 1
        while self.frame_lengths(samples) < 1:
            samples += 1
        return samples

    def check_batch(self, waveforms: Tensor, lengths: Tensor | None, least: int = 0) -> None:
        """See that ``lengths`` fit a batch; without ``least``, the shortest that is allowed, only on the CPU.

        Raises:
            ValueError: the batch is shorter than one frame, or ``lengths`` does not fit ``waveforms``.
        """
        if waveforms.dim() != 2 or (lengths is not None and lengths.shape != waveforms.shape[:1]):
            given = None if lengths is None else tuple(lengths.shape)
            raise ValueError(f"waveforms must be (B, S) and lengths (B,), not {tuple(waveforms.shape)} and {given}")
        if lengths is not None and (least or lengths.device.type == "cpu") and not torch.compiler.is_compiling():
            for row, length in enumerate(lengths.tolist()):
                check_length(length, waveforms.shape[1], least, row)
        if self.frame_lengths(waveforms.shape[1]) < 1:
            short = f"{waveforms.shape[1]} samples are shorter than one frame"
            raise ValueError(f"{short}; pad to at least {self.min_samples}")

    def valid_frames(self, lengths: Tensor | None, frames: Tensor) -> Tensor:
        """Frame lengths (B,) of features (B, T, ...): all of T without ``lengths`` in samples."""
        if lengths is None:
            return torch.full(frames.shape[:1], frames.shape[1], dtype=torch.int64, device=frames.device)
        return self.frame_lengths(lengths)

    @torch.no_grad()
    def target_features(self, waveforms: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Frame-aligned log-mel (B, T, span·M) in fp32, for objectives whose targets are not learned; no gradient.

        Frame t holds the normalised log-mel frames of ``mel_view``, one after another: those that the mel front end
        sees, or those nearest to the centre of a waveform front end's view. Frames beyond a length are zero.

        Raises:
            ValueError: the batch is shorter than one frame, or ``lengths`` does not fit ``waveforms``.
        """
        self.check_batch(waveforms, lengths)
        first, hop, span = self.mel_view
        mel = normalised_log_mel(waveforms, lengths, self.target_tables())  # (B, 100 frames/s, M)
        stacked = mel[:, first:].unfold(1, span, hop).transpose(2, 3).flatten(2)  # (B, ≥ T, span·M)
        stacked = stacked[:, : self.frame_lengths(waveforms.shape[1])]
        return zero_padding(stacked, padding_mask(self.valid_frames(lengths, stacked), stacked.shape[1]))

    def target_tables(self) -> MelTables:
        """The mel filters of ``target_features``."""
        if self.tables is None:
            self.tables = MelTables(TARGET_BINS)
        return self.tables
