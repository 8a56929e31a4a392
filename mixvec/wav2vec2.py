"""fairseq2's wav2vec 2.0 (arXiv 2006.11477) as an ``Encoder``; the only module that imports fairseq2.

Symbols: B batch, S samples, T frames, F feature channels, D model width, H heads, L layers.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .by_length import by_length
from .errors import UserError
from .model.blocks import zero_gradient
from .model.config import EncoderConfig
from .model.frontend import Length, WaveformFrontEnd, centred_view, conv_length
from .model.mel import normalise
from .model.mixing import build_mixer
from .model.padding import padding_mask, zero_padding
from .model.protocol import Encoder, EncoderOutput

try:
    import soundfile  # noqa: F401  (before fairseq2, which finds libsndfile only once this has loaded it)
    from fairseq2.models.transformer import (
        AttentionBiasCache,
        MultiheadAttention,
        StandardTransformerEncoder,
        TransformerNormOrder,
    )
    from fairseq2.models.wav2vec2 import Wav2Vec2EncoderConfig, Wav2Vec2EncoderFactory
    from fairseq2.nn import BatchLayout, IncrementalStateBag
except (ImportError, OSError) as error:  # OSError: a shared library of fairseq2's is missing
    reason = str(error).strip().split("\n")[0]
    raise UserError(
        f"encoder.kind=wav2vec2 is fairseq2's wav2vec 2.0: pip install 'mixvec[fairseq2]' (now: {reason})"
    ) from None

POSITION_GROUPS = 16  # fairseq2's position encoder is a grouped convolution over D
LAYERS = tuple(zip(WaveformFrontEnd.KERNELS, WaveformFrontEnd.STRIDES, strict=True))


def fairseq2_config(config: EncoderConfig) -> Wav2Vec2EncoderConfig:
    """``config`` in fairseq2's words: BASE's style for ``waveform-groupnorm``, LARGE's (LV-60k) for ``waveform``.

    BASE: GroupNorm and no bias in the extractor, a LayerNorm after the positions, post-norm layers. LARGE: LayerNorm
    and bias in the extractor, pre-norm layers. Both scale the extractor's gradient by 0.1 in training. What the two
    do not have (``block``, ``conv_kernel``, ``mel_bins``, ``conv_strides``) is not read; their feed-forward is GELU.

    Raises:
        ValueError: ``config`` is not one of fairseq2's encoders; the message names the key.
    """
    if config.kind != "wav2vec2":
        raise ValueError(f"Wav2Vec2Encoder is encoder.kind=wav2vec2, not {config.kind}; use build_encoder(config)")
    if config.dim % POSITION_GROUPS:
        raise ValueError(f"encoder.dim={config.dim} must be a multiple of {POSITION_GROUPS} for encoder.kind=wav2vec2")
    large = config.front_end == "waveform"
    return Wav2Vec2EncoderConfig(
        model_dim=config.dim,
        feature_dim=config.conv_channels,
        layer_norm_features=not large,
        feature_extractor_layer_descs=[(config.conv_channels, kernel, stride) for kernel, stride in LAYERS],
        feature_extractor_bias=large,
        feature_extractor_layer_norm_convs=large,
        num_encoder_layers=config.num_layers,
        num_encoder_attn_heads=config.heads,
        ffn_inner_dim=config.ffn_dim,
        dropout_p=config.dropout,
        attn_dropout_p=config.dropout,
        layer_drop_p=0.0,  # LayerDrop is ours, in `encode`: fairseq2's computes the layers that it drops
        norm_order=TransformerNormOrder.PRE if large else TransformerNormOrder.POST,
    )


class SummaryMixingAttention(MultiheadAttention):
    """SummaryMixing in the place of self-attention, linear in T: it mixes the values and reads no queries or keys."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.mixer = build_mixer(config)

    def forward(
        self,
        seqs: Tensor,
        seqs_layout: BatchLayout,
        keys: Tensor,
        keys_layout: BatchLayout,
        values: Tensor,
        bias_cache: AttentionBiasCache,
        *,
        state_bag: IncrementalStateBag | None = None,
    ) -> Tensor:
        """seqs, keys and values are one tensor (B, T, D), the layout has the valid frames; to (B, T, D)."""
        mask = keys_layout.position_indices >= 0 if keys_layout.padded else None
        return self.mixer(values, mask)  # type: ignore[no-any-return]


class Factory(Wav2Vec2EncoderFactory):
    """fairseq2's factory, with the mixer that ``config.mixer`` names."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(fairseq2_config(config))
        self.mixvec_config = config

    def create_self_attention(self, lazy_rel_pos_encoding: object) -> MultiheadAttention:
        if self.mixvec_config.mixer == "attention":
            return super().create_self_attention(lazy_rel_pos_encoding)  # type: ignore[arg-type]
        return SummaryMixingAttention(self.mixvec_config)


class Wav2Vec2Encoder(Encoder):
    """wav2vec 2.0 BASE or LARGE, built by fairseq2's factory, with its attention or with SummaryMixing in its place.

    Extractor → LayerNorm → linear → mask embedding → convolutional positions → L Transformer layers. The names in the
    state dict are fairseq2's own (``encoder_frontend``, ``encoder``), beside ``mask_embedding``. An utterance gives the
    same frames alone and in a padded batch. With BASE's extractor, whose GroupNorm normalises over time, utterances
    of different length therefore go through the extractor one length after another.
    """

    hop_samples = 320  # 20 ms
    mel_view = centred_view(400, 320)

    def __init__(self, config: EncoderConfig) -> None:
        """
        Raises:
            ValueError: ``config`` is not one of fairseq2's encoders; the message names the key.
        """
        super().__init__()
        self.config = config
        self.dim, self.feature_dim, self.num_layers = config.dim, config.conv_channels, config.num_layers
        self.heads = config.heads
        factory = Factory(config)
        self.encoder_frontend = factory.create_encoder_frontend()
        encoder = factory.create_encoder()
        assert isinstance(encoder, StandardTransformerEncoder)
        self.encoder = encoder
        self.mask_embedding = nn.Parameter(torch.empty(config.dim).uniform_())

    def frame_lengths(self, samples: Length) -> Length:
        """Frames that ``samples`` samples at 16 kHz give: an int, or a tensor (B,)."""
        for kernel, stride in LAYERS:
            samples = conv_length(samples, kernel, stride)
        return samples

    def features(self, waveforms: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Run the front end alone: waveforms (B, S), lengths (B,) to features (B, T, F) and frame lengths (B,).

        The waveforms are normalised per utterance, the features by a LayerNorm; frames beyond a length are zero.

        Raises:
            ValueError: the batch is shorter than one frame, or lengths do not fit the waveforms.
        """
        self.check_batch(waveforms, lengths)
        waveforms = normalise(waveforms, lengths).to(self.mask_embedding.dtype)
        if lengths is None:
            x = self.encoder_frontend.post_extract_layer_norm(self._extract(waveforms))  # (B, T, F)
            return x, self.valid_frames(None, x)
        if self.config.front_end == "waveform-groupnorm":
            most = self.frame_lengths(waveforms.shape[1])
            x = by_length(self._extract, waveforms, lengths, most, self.min_samples)
        else:
            x = self._extract(waveforms)
        x = self.encoder_frontend.post_extract_layer_norm(x)
        frame_lengths = self.frame_lengths(lengths)
        return zero_padding(x, padding_mask(frame_lengths, x.shape[1])), frame_lengths

    def _extract(self, waveforms: Tensor) -> Tensor:
        """(B, S), all of it real, to (B, T, F)."""
        extractor = self.encoder_frontend.feature_extractor
        assert extractor is not None
        return extractor(waveforms, BatchLayout.of(waveforms))[0]

    def encode(
        self, features: Tensor, frame_lengths: Tensor, mask: Tensor | None = None, *, every_layer: bool = True
    ) -> EncoderOutput:
        """Run everything after the front end; the arguments are those of ``Encoder.encode``."""
        x = features if self.encoder_frontend.model_dim_proj is None else self.encoder_frontend.model_dim_proj(features)
        if mask is not None:
            x = torch.where(mask.unsqueeze(-1), self.mask_embedding.to(x.dtype), x)  # (B, T, D)
        elif self.training:
            x = x + 0.0 * self.mask_embedding.to(x.dtype)  # a zero gradient, not an unused parameter
        lengths = frame_lengths.tolist()
        padded = min(lengths) < x.shape[1]
        real = padding_mask(frame_lengths, x.shape[1]) if padded else None
        layout = BatchLayout.of(x, [max(length, 1) for length in lengths])  # fairseq2 takes no empty utterance
        x = zero_padding(self._positions(x, layout), real)
        layers = [x] if every_layer else []
        bias_cache = AttentionBiasCache()
        for layer in self.encoder.layers:
            if self.training and self.config.layer_drop and torch.rand(()).item() < self.config.layer_drop:
                x = x + zero_gradient(layer).to(x.dtype)
            elif self.training and self.config.checkpointing:
                x = checkpoint(layer, x, layout, bias_cache, use_reentrant=False)
            else:
                x = layer(x, layout, bias_cache)
            x = zero_padding(x, real)
            if every_layer:
                layers.append(x)
        if self.encoder.layer_norm is not None:  # pre-norm layers leave the last norm to the end
            x = zero_padding(self.encoder.layer_norm(x), real)
        return EncoderOutput(x, frame_lengths, [*layers[:-1], x])

    def _positions(self, x: Tensor, layout: BatchLayout) -> Tensor:
        """x (B, T, D) plus its convolutional positions; then BASE's LayerNorm, and dropout."""
        frontend = self.encoder_frontend
        assert frontend.pos_encoder is not None
        x = frontend.pos_encoder(x, layout)
        x = x if frontend.layer_norm is None else frontend.layer_norm(x)
        return x if frontend.dropout is None else frontend.dropout(x)

    def settings(self) -> dict[str, Any]:
        """The configuration as plain JSON values, for ``config.json``."""
        return asdict(self.config)
