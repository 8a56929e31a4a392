"""SpeechEncoder: waveforms in, frames out, in time and memory linear in their length.

Symbols: B batch, S samples, T frames, F feature channels, D model width, L layers.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from .blocks import BranchformerBlock, ConformerBlock, zero_gradient
from .config import BASE, EncoderConfig
from .context import Context
from .frontend import Length, MelFrontEnd, WaveformFrontEnd
from .noise import Dropout
from .padding import padding_mask, zero_padding
from .pretrained import Pretrained
from .protocol import Encoder, EncoderOutput


class SpeechEncoder(Pretrained, Encoder):
    """Front end → linear → mask embedding → sinusoidal positions → Conformer or Branchformer blocks → LayerNorm: the
    encoder of arXiv 2407.13377. ``mixvec.build_encoder`` builds those of another ``kind``.

    Example::

        encoder = SpeechEncoder.from_pretrained("runs/small/hub").eval()
        frames, lengths, layers = encoder(waveforms, lengths)
    """

    context: Context | None = None
    """Of inference: what a frame may see; None: the whole utterance."""
    drawn_context: Context | None = None
    """The same of training, drawn for each update where the encoder learns to stream."""
    layer_drop_draws: list[float] | None = None
    """A number in [0, 1) for each layer, by which LayerDrop skips it in training; None draws from torch's generator."""

    def __init__(self, config: EncoderConfig = BASE) -> None:
        super().__init__()
        if config.kind != "mixvec":
            raise ValueError(f"SpeechEncoder is encoder.kind=mixvec; for {config.kind} use build_encoder(config)")
        self.config = config
        self.dim, self.feature_dim, self.num_layers = config.dim, config.conv_channels, config.num_layers
        self.heads = config.heads
        channels, fixed = config.conv_channels, config.normalise == "fixed"
        if config.front_end == "mel":
            self.front_end: MelFrontEnd | WaveformFrontEnd = MelFrontEnd(
                config.mel_bins, channels, config.conv_strides, fixed=fixed
            )
            self.tables = self.front_end.tables
        else:
            self.front_end = WaveformFrontEnd(channels, fixed=fixed)
        self.hop_samples, self.mel_view = self.front_end.hop_samples, self.front_end.mel_view
        self.project = nn.Linear(channels, config.dim)
        self.dropout = Dropout(config.dropout)
        self.mask_embedding = nn.Parameter(torch.empty(config.dim).uniform_())
        block = ConformerBlock if config.block == "conformer" else BranchformerBlock
        self.layers = nn.ModuleList(block(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.dim, eps=1e-6)

    def frame_lengths(self, samples: Length) -> Length:
        """Frames that ``samples`` samples at 16 kHz give: an int, or a tensor (B,)."""
        return self.front_end.frame_lengths(samples)

    def features(self, waveforms: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Run the front end alone: waveforms (B, S), lengths (B,) to features (B, T, F) and frame lengths (B,).

        Raises:
            ValueError: the batch is shorter than one frame, or ``lengths`` does not fit ``waveforms``.
        """
        self.check_batch(waveforms, lengths)
        frames = self.front_end(waveforms, lengths)
        return frames, self.valid_frames(lengths, frames)

    def encode(
        self, features: Tensor, frame_lengths: Tensor, mask: Tensor | None = None, *, every_layer: bool = True
    ) -> EncoderOutput:
        """Run everything after the front end; the arguments are those of ``Encoder.encode``."""
        x = self.dropout(self.project(features))  # (B, T, D)
        x = x.to(self.norm.weight.dtype)  # under autocast too, as all blocks have it
        if mask is not None:
            x = torch.where(mask.unsqueeze(-1), self.mask_embedding.to(x.dtype), x)
        elif self.training:
            x = x + 0.0 * self.mask_embedding.to(x.dtype)  # a zero gradient, not an unused parameter
        x = x + sinusoidal_positions(x.shape[1], self.dim, x.device).to(x.dtype)
        real = padding_mask(frame_lengths, x.shape[1])
        context = self.drawn_context if self.training else self.context
        layers = self._layers(zero_padding(x, real), real, [context] * self.num_layers, every_layer=every_layer)
        return EncoderOutput(layers[-1], frame_lengths, layers)

    def _layers(
        self, x: Tensor, real: Tensor | None, contexts: list[Context | None], *, every_layer: bool
    ) -> list[Tensor]:
        """The embedding x (B, T, D) and each layer's output, the last after the final norm; or that alone."""
        layers = [x] if every_layer else []
        drop, draws = self.config.layer_drop if self.training else 0.0, self.layer_drop_draws
        for number, (layer, context) in enumerate(zip(self.layers, contexts, strict=True)):
            if drop and (float(torch.rand(())) if draws is None else draws[number]) < drop:
                x = x + zero_gradient(layer).to(x.dtype)
            else:
                x = layer(x, real, context)
            if every_layer:
                layers.append(x)
        return [zero_padding(layer, real) for layer in [*layers[:-1], self.norm(x)]]

    @torch.no_grad()
    def stream(
        self,
        samples: Tensor,
        state: dict[str, Tensor] | None = None,
        context: Context | None = None,
        *,
        final: bool = False,
        every_layer: bool = True,
    ) -> tuple[EncoderOutput, dict[str, Tensor]]:
        """Encode what can be encoded of B streams that advance together, in memory and time that do not grow.

        The frames, one after another, are those of the whole utterances with the same ``context``.

        Args:
            samples: (B, S) the next samples, of any number, at 16 kHz.
            state: what the call before returned, a dict of tensors (B, ...); None at the start. It is not changed.
            context: chunk and past; None: the attribute ``context``.
            final: whether the streams end here, so that the frames of a chunk that is not whole are returned too.

        Returns:
            Frames (B, T, D) of the chunks that have become whole, possibly none, and the state for the next call.

        Raises:
            ValueError: the encoder normalises over whole utterances, or there is no context, or its chunk is shorter
                than what the front end sees ahead.
        """
        front, context = self.front_end, self._stream_context(context)
        chunk = context.chunk_frames * front.hop_samples
        if state is None:
            zero = torch.zeros(len(samples), dtype=torch.int64, device=samples.device)
            state = {"samples": samples.new_zeros(len(samples), front.lead_samples, dtype=torch.float32)}
            state |= {"received": zero, "encoded": zero}
        pending = torch.cat([state["samples"], samples.float()], dim=1)
        received, encoded = state["received"] + samples.shape[1], state["encoded"]
        whole = pending.shape[1] - (front.window_samples - front.hop_samples)  # samples of hops that can be encoded
        frames = max(0, whole // chunk) * context.chunk_frames
        if final:
            frames = int(self.frame_lengths(received)[0] - encoded[0])
            pending = torch.nn.functional.pad(pending, (0, front.window_samples + chunk))
        if frames <= 0:
            empty = pending.new_zeros(len(pending), 0, self.dim)
            layers = [empty] * (self.num_layers + 1 if every_layer else 1)
            return EncoderOutput(empty, encoded * 0, layers), state | {"samples": pending, "received": received}
        seen = pending[:, : (frames - 1) * front.hop_samples + front.window_samples]
        x = self.project(front.local(seen * front.gain.float()))  # (B, T, D)
        x = x + sinusoidal_positions(frames, self.dim, x.device, encoded).to(x.dtype)
        kept: list[dict[str, Tensor]] = [{} for _ in self.layers]  # of each layer
        for number, name in (key.split(".") for key in state if "." in key):
            kept[int(number)][name] = state[f"{number}.{name}"]
        layers = self._layers(x, None, [replace(context, state=layer) for layer in kept], every_layer=every_layer)
        state = {f"{number}.{name}": value for number, layer in enumerate(kept) for name, value in layer.items()}
        state |= {"samples": pending[:, frames * front.hop_samples :], "received": received}
        state["encoded"] = encoded + frames
        return EncoderOutput(layers[-1], encoded * 0 + frames, layers), state

    def _stream_context(self, context: Context | None) -> Context:
        context, ahead = self.context if context is None else context, self.front_end.look_ahead_samples
        if self.config.normalise != "fixed":
            raise ValueError("the encoder normalises over whole utterances and cannot stream: train it with "
                             "encoder.streaming=true, or fine-tune it with streaming=true")  # fmt: skip
        if context is None:
            raise ValueError("a stream needs a context, such as Context(chunk_frames=16, left_chunks=8)")
        if context.chunk_frames * self.hop_samples < ahead:
            raise ValueError(f"chunk_frames={context.chunk_frames} is shorter than the front end's look-ahead of "
                             f"{ahead} samples; use at least {-(-ahead // self.hop_samples)}")  # fmt: skip
        return context


def sinusoidal_positions(frames: int, dim: int, device: torch.device, first: Tensor | None = None) -> Tensor:
    """Fixed positions (T, D): sin in the even channels, cos in the odd ones (arXiv 1706.03762), for any length.

    With the numbers ``first`` (B,) of the first frames they are (B, T, D).
    """
    position = torch.arange(frames, device=device, dtype=torch.float32).unsqueeze(1)
    if first is not None:
        position = position + first.view(-1, 1, 1)  # (B, T, 1)
    rate = torch.exp(torch.arange(0, dim, 2, device=device, dtype=torch.float32) * (-math.log(10_000.0) / dim))
    angle = position * rate  # (T, D/2)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2)
