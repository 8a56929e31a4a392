"""fairseq2's wav2vec 2.0 (arXiv 2006.11477) behind the encoder protocol; the one module that imports fairseq2.

Symbols: B batch, S samples, T frames, F feature channels, D model width, H heads, L layers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .errors import UserError
from .model.blocks import build_mixer, zero_gradient
from .model.config import EncoderConfig
from .model.frontend import SAMPLE_RATE_HZ, Length, WaveformFrontEnd, conv_length, normalise
from .model.output import EncoderOutput
from .model.padding import padding_mask, zero_padding

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
        f"encoder.kind=wav2vec2 is fairseq2's wav2vec 2.0: pip install 'mixvec[train]' (now: {reason})"
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
        """seqs, keys and values are one tensor (B, T, D), the layout says which frames are real; to (B, T, D)."""
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


class Wav2Vec2Encoder(nn.Module):
    """wav2vec 2.0 BASE or LARGE, built by fairseq2's factory, with its attention or with SummaryMixing in its place.

    Extractor → LayerNorm → linear → mask embedding → convolutional positions → L Transformer layers. The names in the
    state dict are fairseq2's own (``encoder_frontend``, ``encoder``), beside ``mask_embedding``. An utterance gives the
    same frames alone and in a padded batch. With BASE's extractor, whose GroupNorm normalises over time, utterances
    of different length therefore go through the extractor one length after another.
    """

    sample_rate_hz = SAMPLE_RATE_HZ
    hop_samples = 320  # 20 ms
    min_samples = 400
    """The shortest input, in samples, that gives a frame."""

    def __init__(self, config: EncoderConfig) -> None:
        """
        Raises:
            ValueError: ``config`` is not one of fairseq2's encoders; the message names the key.
        """
        super().__init__()
        self.config = config
        self.dim, self.feature_dim, self.num_layers = config.dim, config.conv_channels, config.num_layers
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
        """The front end alone: waveforms (B, S), lengths (B,) to features (B, T, F) and frame lengths (B,).

        The waveforms are normalised per utterance, the features by a LayerNorm; frames beyond a length are zero.

        Raises:
            ValueError: the batch is shorter than one frame, or lengths do not fit the waveforms.
        """
        if waveforms.dim() != 2 or (lengths is not None and lengths.shape != waveforms.shape[:1]):
            given = tuple(waveforms.shape), None if lengths is None else tuple(lengths.shape)
            raise ValueError(f"waveforms must be (B, S) and lengths (B,), not {given[0]} and {given[1]}")
        if waveforms.shape[1] < self.min_samples:
            raise ValueError(
                f"{waveforms.shape[1]} samples are shorter than one frame; pad to at least {self.min_samples}"
            )
        waveforms = normalise(waveforms, lengths).to(self.mask_embedding.dtype)
        if lengths is None:
            x = self.encoder_frontend.post_extract_layer_norm(self._extract(waveforms))  # (B, T, F)
            return x, torch.full(x.shape[:1], x.shape[1], device=x.device)
        per_length = self.config.front_end == "waveform-groupnorm"
        x = self._extract_per_length(waveforms, lengths) if per_length else self._extract(waveforms)
        x = self.encoder_frontend.post_extract_layer_norm(x)
        frame_lengths = self.frame_lengths(lengths)
        return zero_padding(x, padding_mask(frame_lengths, x.shape[1])), frame_lengths

    def _extract(self, waveforms: Tensor) -> Tensor:
        """(B, S), all of it real, to (B, T, F)."""
        extractor = self.encoder_frontend.feature_extractor
        assert extractor is not None
        return extractor(waveforms, BatchLayout.of(waveforms))[0]

    def _extract_per_length(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        """(B, S) to (B, T, F), the utterances of each length apart and cropped to it; zero beyond."""
        frames = self.frame_lengths(waveforms.shape[1])
        rows, pieces = [], []
        for length in sorted(set(lengths.tolist())):
            index = (lengths == length).nonzero().flatten()  # (N,)
            if length < self.min_samples:
                piece = waveforms.new_zeros(len(index), frames, self.feature_dim)
            else:
                x = self._extract(waveforms[index, :length])  # (N, T', F)
                piece = nn.functional.pad(x, (0, 0, 0, frames - x.shape[1]))  # (N, T, F)
            rows.append(index)
            pieces.append(piece)
        return torch.cat(pieces)[torch.cat(rows).argsort()]

    def encode(
        self, features: Tensor, frame_lengths: Tensor, mask: Tensor | None = None, *, every_layer: bool = True
    ) -> EncoderOutput:
        """Everything behind the front end.

        Args:
            features: (B, T, F) from ``features``.
            frame_lengths: (B,).
            mask: (B, T), True at frames to hide: the mask embedding stands in their place.
            every_layer: False where the last layer's frames are enough; ``layers`` then holds them alone.
        """
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

    def forward(self, waveforms: Tensor, lengths: Tensor | None = None, *, every_layer: bool = True) -> EncoderOutput:
        """Waveforms (B, S) at 16 kHz and lengths (B,) in samples to frames, their lengths and every layer's output.

        Without ``lengths`` every utterance fills its row. ``layers`` holds L + 1 tensors (B, T, D): the input
        embedding, then each layer's output, the last after the final norm; or that alone without ``every_layer``.

        Raises:
            ValueError: the batch is shorter than one frame, or lengths do not fit the waveforms.
        """
        return self.encode(*self.features(waveforms, lengths), every_layer=every_layer)
