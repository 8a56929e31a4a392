"""The shape of an encoder, as data. The defaults are `base`, the encoder of arXiv 2407.13377."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Mixer = Literal["summary", "summary-lite", "attention"]
FrontEnd = Literal["mel", "waveform", "waveform-groupnorm"]


@dataclass(frozen=True)
class EncoderConfig:
    """The configuration of an encoder, which determines its tensors and what it computes.

    ``kind`` is the one key that switches between our encoder (``mixvec``), fairseq2's wav2vec 2.0 (``wav2vec2``) and
    bare log-mel features (``log-mel``: no parameters, ``dim`` mel bins, no layers), the baseline of a head.

    Raises:
        ValueError: two values contradict each other; the message names both keys.
    """

    kind: Literal["mixvec", "wav2vec2", "log-mel"] = "mixvec"
    """mixvec: our encoder. wav2vec2: fairseq2's. log-mel: features without an encoder."""
    front_end: FrontEnd = "mel"
    """mel: log-mel and two convolutions. waveform: the seven convolutions of wav2vec 2.0 with LayerNorm (LARGE's).
    waveform-groupnorm: BASE's, whose GroupNorm sees the whole utterance; for ``kind=wav2vec2`` only."""
    mel_bins: int = 80
    """Bins of the log-mel spectrogram of the mel front end."""
    conv_channels: int = 512
    """Width of the front end's convolutions, and of the features that are the pretraining targets."""
    conv_strides: tuple[int, ...] = (2, 1)
    """Strides of the mel front end's convolutions over 10 ms frames: (2, 1) gives 20 ms, (2, 2) 40 ms."""
    normalise: Literal["utterance", "fixed"] = "utterance"
    """utterance: log-mel, or the waveform, at zero mean and unit variance over each utterance. fixed: by constants
    measured once on the training audio and stored with the weights, as a stream needs."""
    streaming: bool = False
    """Train to stream as well (arXiv 2409.07165): ``normalise=fixed``, and six updates in ten hide the future: they
    draw chunks of 0.32 to 1.28 s, three in four of these with 2 to 32 chunks of past, the others with all of it."""
    dim: int = 768
    """Width of the model."""
    num_layers: int = 12
    """Number of blocks."""
    block: Literal["conformer", "branchformer"] = "conformer"
    """The form of a block."""
    ffn_dim: int = 3072
    """Width of the Conformer's feed-forward layers, or of the Branchformer's convolutional gating."""
    conv_kernel: int = 31
    """Kernel of the depthwise convolution in a block, in frames; odd."""
    mixer: Mixer = "summary"
    """summary: SummaryMixing. summary-lite: its mean alone, for the Branchformer. attention: self-attention."""
    heads: int = 8
    """Blocks of SummaryMixing's block-diagonal layers, or heads of self-attention."""
    mixer_norm: bool = True
    """LayerNorm on f's output and on the mean of s (arXiv 2407.13377; the ASR paper has none)."""
    activation: Literal["swish", "gelu"] = "swish"
    """The activation in SummaryMixing and in feed-forward layers."""
    dropout: float = 0.1
    """Dropout in every block and after the front end."""
    layer_drop: float = 0.05
    """Probability that a block is skipped in an update."""
    checkpointing: Literal[False, True, "selective"] = False
    """Recompute each layer in the backward pass: memory of one layer instead of all, for a third more time. With
    selective, results of matrix products and convolutions are kept, and only the operations between are recomputed."""

    def __post_init__(self) -> None:
        if self.streaming:
            object.__setattr__(self, "normalise", "fixed")
        if self.normalise == "fixed" and self.kind != "mixvec":
            raise ValueError(f"encoder.normalise=fixed and encoder.streaming need encoder.kind=mixvec, not {self.kind}")
        for name in ("mel_bins", "conv_channels", "dim", "num_layers", "ffn_dim", "conv_kernel", "heads"):
            if getattr(self, name) < (0 if self.kind == "log-mel" and name == "num_layers" else 1):
                raise ValueError(f"encoder.{name}={getattr(self, name)} must be at least 1")
        for name in ("dropout", "layer_drop"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"encoder.{name}={getattr(self, name)} must be in [0, 1)")
        if self.dim % self.heads:
            raise ValueError(f"encoder.dim={self.dim} is not a multiple of encoder.heads={self.heads}")
        if self.dim % 2:
            raise ValueError(f"encoder.dim={self.dim} must be even for sinusoidal positions")
        if self.conv_kernel % 2 == 0:
            raise ValueError(f"encoder.conv_kernel={self.conv_kernel} must be odd, so that a frame is its own centre")
        if not self.conv_strides or min(self.conv_strides) < 1:
            raise ValueError(f"encoder.conv_strides={self.conv_strides} must be positive strides, such as [2,1]")
        if self.kind == "mixvec" and self.front_end == "waveform-groupnorm":
            raise ValueError("encoder.front_end=waveform-groupnorm leaks padding; it needs encoder.kind=wav2vec2")
        if self.kind == "wav2vec2" and self.front_end == "mel":
            raise ValueError("encoder.kind=wav2vec2 needs encoder.front_end=waveform or waveform-groupnorm")
        if self.kind == "wav2vec2" and self.checkpointing == "selective":
            raise ValueError("encoder.checkpointing=selective needs encoder.kind=mixvec; true and false fit both")
        if self.mixer == "summary-lite" and (self.kind, self.block) != ("mixvec", "branchformer"):
            raise ValueError("encoder.mixer=summary-lite needs encoder.block=branchformer, whose other branch plays f")
        if self.block == "branchformer" and self.ffn_dim % 2:
            raise ValueError(f"encoder.ffn_dim={self.ffn_dim} must be even for the Branchformer's gate")


BASE = EncoderConfig()
LOG_MEL = EncoderConfig(kind="log-mel", dim=80, heads=1, num_layers=0, dropout=0.0, layer_drop=0.0)
"""What an encoder has to beat: 80 mel bins, a frame per 10 ms."""
WAV2VEC2 = EncoderConfig(
    kind="wav2vec2", front_end="waveform-groupnorm", mixer="attention", heads=12, activation="gelu"
)
SIZES: dict[str, EncoderConfig] = {
    "tiny": EncoderConfig(
        conv_channels=128, conv_strides=(2, 2), dim=128, num_layers=3, ffn_dim=512, heads=4, dropout=0.0, layer_drop=0.0
    ),
    "small": EncoderConfig(conv_channels=256, conv_strides=(2, 2), dim=256, num_layers=7, ffn_dim=1024, heads=4),
    "base": BASE,
    "large": EncoderConfig(dim=1024, num_layers=24, ffn_dim=4096, heads=16, layer_drop=0.1),
    "wav2vec2-base": WAV2VEC2,
    "wav2vec2-large": replace(
        WAV2VEC2, front_end="waveform", dim=1024, num_layers=24, ffn_dim=4096, heads=16, dropout=0.0, layer_drop=0.0
    ),
}


def encoder_config(size: str) -> EncoderConfig:
    """The configuration of a named size.

    Raises:
        ValueError: no such size; the message lists them.
    """
    if size not in SIZES:
        raise ValueError(f"size={size} is unknown; choose one of {', '.join(SIZES)}")
    return SIZES[size]
